"""The detector's own arithmetic: what is written into maps is read out of them, training repeats, files are strict."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aquatint.base.errors import UserError
from aquatint.evaluation import lessons
from aquatint.evaluation.detector import Classes, Detector, Maps, as_input
from aquatint.evaluation.lessons import (
    AUTOENCODED,
    MIX,
    SEED,
    THINGS,
    TILES,
    Truth,
    ahead,
    lesson,
    losses,
    scrambled,
    train_detector,
)
from aquatint.evaluation.prompts import judge
from aquatint.training.data.render import has_font
from aquatint.training.data.scenes import DAMAGE, Draws, scene
from aquatint.training.data.world import KINDS, SMALL

pytestmark = pytest.mark.skipif(
    not has_font(), reason="Noto Color Emoji is not installed (Debian: fonts-noto-color-emoji)"
)
CLASSES = Classes.of(SMALL)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small shapes: more threads only wait for each other
    yield
    torch.set_num_threads(before)


def perfect(scenes) -> Maps:
    """The maps that a detector without fault would give for these scenes."""
    truth = Truth(CLASSES, scenes)
    n = len(scenes)
    colour, place = torch.zeros(n, len(CLASSES.colours), 16, 16), torch.zeros(n, 3, 16, 16)
    picture, row, column = truth.cells
    place[picture, :, row, column] = truth.places
    shown = truth.colours >= 0
    colour[picture[shown], truth.colours[shown], row[shown], column[shown]] = 9.0
    grounds = len(CLASSES.grounds)
    ends = [torch.zeros(n, 1 + len(CLASSES.painted)), torch.zeros(n, grounds), torch.zeros(n, grounds)]
    for end, labels in zip(ends, truth.rows[1:], strict=True):
        end[truth.rows[0][labels >= 0], labels[labels >= 0]] = 9.0
    return Maps(torch.logit(truth.heat.clamp(1e-4, 1 - 1e-4)), colour, place, *ends, torch.zeros(n, 128))


@pytest.mark.parametrize("kind", KINDS)
def test_perfect_maps_are_read_as_the_scene(kind):
    scenes = [scene(SMALL, 40, index, kinds={kind: 1.0}) for index in range(50)]
    maps = perfect(scenes)
    for index, drawn in enumerate(scenes):
        sight = Detector(CLASSES)._read(Maps(*(value[index] for value in maps)))
        verdict = judge(sight, drawn)
        assert all(verdict.values()), (drawn, sight)


def test_perfect_maps_cost_next_to_nothing_and_wrong_ones_much():
    scenes = [scene(SMALL, 41, index, kinds={"pair": 1.0}) for index in range(16)]
    right = losses(perfect(scenes), Truth(CLASSES, scenes))
    wrong = losses(perfect(scenes[1:] + scenes[:1]), Truth(CLASSES, scenes))
    assert all(float(value) < 0.1 for value in right.values()), right
    assert all(float(wrong[name]) > 0.5 for name in right)


def test_lessons_repeat_and_leave_colours_their_names():
    first, scenes = lesson(SMALL, range(24))
    again, _ = lesson(SMALL, [5, 3])
    assert torch.equal(again, first[[5, 3]])
    assert first.abs().max() <= 1
    assert all(drawn is None or drawn == scene_of(index) for index, drawn in enumerate(scenes))


@pytest.mark.parametrize("side", [128, 256])
def test_shuffling_moves_whole_tiles_at_any_size(side):
    tile = side // TILES
    ids = np.arange(TILES * TILES, dtype=np.uint8).reshape(TILES, TILES)
    picture = np.repeat(np.kron(ids, np.ones((tile, tile), np.uint8))[..., None], 3, axis=2)
    mixed = scrambled(picture, Draws(SEED, 0, DAMAGE))
    corners = mixed[::tile, ::tile, 0]
    assert sorted(corners.ravel()) == list(range(TILES * TILES))
    assert not (corners == ids).all()
    assert (mixed == np.repeat(np.kron(corners, np.ones((tile, tile), np.uint8))[..., None], 3, axis=2)).all()


def test_other_processes_draw_the_same_lessons_in_the_same_order():
    batches = ahead(SMALL, 2, SEED, workers=2)
    try:
        for step in range(3):
            here, there = lessons.drawn(SMALL, range(2 * step, 2 * step + 2)), next(batches)
            assert (here.pictures == there.pictures).all()
            assert here.scenes == there.scenes
    finally:
        batches.close()


def test_some_lessons_are_shuffled_and_show_no_object():
    _, scenes = lesson(SMALL, range(200))
    assert 0.02 < sum(drawn is None for drawn in scenes) / 200 < 0.1


def scene_of(index: int):
    return scene(replace(SMALL, things=THINGS), SEED, index, kinds=MIX, held=None)


def test_some_of_the_lessons_go_through_the_autoencoder():
    plain, _ = lesson(SMALL, range(16))
    dark, _ = lesson(SMALL, range(16), lambda pictures: np.zeros_like(pictures))
    changed = [not torch.equal(a, b) for a, b in zip(plain, dark, strict=True)]
    assert changed == ([True] + [False] * (AUTOENCODED - 1)) * 2


def total(parts) -> float:
    return sum(float(value.detach()) for value in parts.values())


def test_training_repeats_to_the_bit_and_fits_the_package(tmp_path):
    said: list[str] = []
    for name in ("a", "b"):
        train_detector(SMALL, tmp_path / name, steps=3, batch=3, report=said.append)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert said[0] == said[1]
    assert (tmp_path / "a").stat().st_size < 2_000_000


def test_one_batch_can_be_learned_by_heart():
    detector = Detector(CLASSES)
    detector.start(1)
    pictures, scenes = lesson(SMALL, range(4))
    truth = Truth(CLASSES, scenes)
    optimiser = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    history = []
    for _ in range(25):
        parts = losses(detector(pictures), truth)
        optimiser.zero_grad()
        torch.stack([*parts.values()]).sum().backward()
        optimiser.step()
        history.append(total(parts))
    assert history[-1] < 0.25 * history[0], history


def test_every_part_of_the_net_gets_a_gradient():
    detector = Detector(CLASSES)
    detector.start(0)
    pictures, scenes = lesson(SMALL, range(4))
    torch.stack([*losses(detector(pictures), Truth(CLASSES, scenes)).values()]).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in detector.parameters())


def test_a_saved_detector_sees_the_same(tmp_path):
    detector = Detector(CLASSES)
    detector.start(5)
    detector.save(tmp_path / "d.safetensors", {"steps": 0})
    opened = Detector.open(tmp_path / "d.safetensors")
    opened.save(tmp_path / "again.safetensors", {"steps": 0})
    assert (tmp_path / "d.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    pictures = np.zeros((2, 64, 64, 3), np.uint8)
    assert opened.features(pictures).shape == (2, 160)
    assert len(opened.look(pictures)) == 2
    assert as_input(pictures).shape == (2, 3, 128, 128)


@pytest.mark.parametrize("blob", [b"", b"nonsense" * 10, b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_other_files_are_refused(tmp_path, blob):
    (tmp_path / "d").write_bytes(blob)
    with pytest.raises(UserError, match="not a detector"):
        Detector.open(tmp_path / "d")
