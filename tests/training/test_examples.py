"""A few pictures as batches: each once an epoch, alike for any number of processes; captions with learned words."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fixtures import tiny_bundle

from aquatint.base import images
from aquatint.base.errors import UserError
from aquatint.training.data.buckets import Plan, Shape
from aquatint.training.data.examples import Encoded, Taught, cut, encode, written
from aquatint.training.data.folder import MASK, read

BUNDLE = tiny_bundle()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(5):
        image = Image.new("RGB", (80, 64), (50 * index, 100, 0))
        image.paste("white", (0, 0, 20, 64))
        image.save(tmp_path / f"{index}.png")
        (tmp_path / f"{index}.txt").write_text(f"number {'i' * index}")
    return tmp_path


def taught(folder: Path, batch: int = 5, sides: tuple[Shape, ...] = (Shape(64, 64),), **how: bool) -> Taught:
    examples = read(folder)
    plan = Plan(3, batch, np.array([example.picture().size for example in examples]), sides)
    groups = [
        encode([examples[number] for number in members], BUNDLE.autoencoder, shape, **({"flip": True} | how))
        for shape, members in zip(plan.among, plan.members, strict=True)
    ]
    said = written([example.caption for example in examples], BUNDLE.tokenizer)
    return Taught(plan, groups, [said], [written([""], BUNDLE.tokenizer)], seed=3, silent=0.3)


def alone(lessons: Taught) -> Encoded:
    (encoded,) = lessons.groups
    assert encoded is not None
    return encoded


def test_every_picture_once_an_epoch_in_orders_of_their_own(folder: Path) -> None:
    lessons = taught(folder)
    orders = [lessons.plan.turn(epoch).numbers for epoch in range(6)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len({tuple(order) for order in orders}) > 2


def test_a_sample_is_a_function_of_its_number(folder: Path) -> None:
    lessons = taught(folder, batch=12)
    whole = lessons.batch(1, range(12))
    for first in (0, 4, 8):
        part = lessons.batch(1, range(first, first + 4))
        assert all(torch.equal(part[key], whole[key][first : first + 4]) for key in whole)


def test_pictures_of_several_shapes_are_taught_shape_by_shape(folder: Path) -> None:
    for index in range(5, 8):
        Image.new("RGB", (64, 130), (0, 40 * index, 0)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text("tall")
    lessons = taught(folder, 3, (Shape(64, 64), Shape(64, 128)))
    tall = written(["tall"], BUNDLE.tokenizer).ids[0]
    seen = Counter[int]()
    for step in range(16):  # two rounds of eight pictures, three a step, come to sixteen thirds
        turn, batch = lessons.plan.turn(step), lessons.batch(step, range(3))
        assert batch["latents"].shape[2:] == (turn.shape.height // 8, turn.shape.width // 8)
        assert batch["cuts"][:, 4:].tolist() == [[turn.shape.height, turn.shape.width]] * 3
        said = [bool((row == tall).all()) for row in batch["ids"]]
        assert turn.shape.height == 128 or not any(said)
        assert turn.shape.height == 64 or all(number >= 5 for number in turn.numbers)
        seen.update(turn.numbers)
    assert max(seen.values()) - min(seen.values()) <= 2
    every = list(lessons.every(4))
    assert [len(batch["latents"]) for batch in every] == [4, 1, 3]


def test_mirrored_and_silent_by_chance(folder: Path) -> None:
    lessons = taught(folder)
    many = {key: torch.cat([lessons.batch(step, range(5))[key] for step in range(100)]) for key in ("ids",)}
    empty = (many["ids"] == written([""], BUNDLE.tokenizer).ids).all(dim=1)
    assert 0.24 < empty.float().mean() < 0.36
    plain = taught(folder, flip=False)
    assert not alone(plain).flipped
    means = alone(lessons).means
    assert len(means) == 10
    turned = means[5].flip(-1) - means[0]
    assert turned.abs().mean() < (means[0] - means[0].flip(-1)).abs().mean()


def test_latents_are_the_autoencoders(folder: Path) -> None:
    lessons, picture = taught(folder), read(folder)[2].picture()
    wanted = BUNDLE.autoencoder.encode(images.to_tensor(cut(picture, Shape(64, 64))))
    torch.testing.assert_close(alone(lessons).means[2:3], wanted)


def test_cuts_are_those_of_the_pictures(tmp_path: Path) -> None:
    for name, size in (("a", (300, 200)), ("b", (100, 150)), ("c", (64, 64))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    cuts = encode(read(tmp_path, words=["x"]), BUNDLE.autoencoder, Shape(128, 128), flip=False).cuts.tolist()
    assert cuts == [[200, 300, 0, 32, 128, 128], [150, 100, 32, 0, 128, 128], [64, 64, 0, 0, 128, 128]]


def test_masks_come_along(folder: Path) -> None:
    assert "mask" not in taught(folder).batch(0, [0])
    (folder / MASK).mkdir()
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    half.save(folder / MASK / "1.png")
    lessons = taught(folder)
    masks = alone(lessons).masks
    assert masks is not None
    assert masks[1, 0, 0].tolist() == [1.0] * 4 + [0.0] * 4
    assert masks[6, 0, 0].tolist() == [0.0] * 4 + [1.0] * 4  # of its mirror image
    assert bool((masks[[0, 2, 3, 4]] == 1).all())


def test_a_learned_word_stands_in_captions() -> None:
    said = written(["a photo of zorb, red", "zorb", "zorbs and zorb"], BUNDLE.tokenizer, "zorb", 2)
    assert Counter(said.slots.flatten().tolist()) == {-1: 3 * 77 - 6, 0: 3, 1: 3}
    plain = BUNDLE.tokenizer.ids("a photo of ")
    assert said.slots[0, len(plain) + 1 : len(plain) + 3].tolist() == [0, 1]
    assert said.ids[0, 1 : len(plain) + 1].tolist() == plain
    assert int((said.ids[1] == BUNDLE.tokenizer.end).int().argmax()) == 3


def test_captions_that_cannot_be() -> None:
    with pytest.raises(UserError, match='does not say "zorb"'):
        written(["a cat"], BUNDLE.tokenizer, "zorb", 1)
    with pytest.raises(UserError, match="At most 75"):
        written(["word " * 80], BUNDLE.tokenizer)


def test_long_captions_are_chunks_and_short_ones_are_repeated() -> None:
    words = BUNDLE.tokenizer
    long = "cats at night " + ", ".join(["two cats"] * 30)
    assert 75 < len(words.ids(long)) <= 150
    said = written([long, "two cats"], words, chunks=2)
    assert said.ids.shape == (2, 2 * 77)
    assert torch.equal(said.ids[1, :77], words(["two cats"])[0])
    assert torch.equal(said.ids[1, :77], said.ids[1, 77:])
    first, second = (said.ids[0, at : at + 77].tolist() for at in (0, 77))
    inner = [id for chunk in (first, second) for id in chunk[1 : chunk.index(words.end)]]
    assert inner == words.ids(long)
    assert inner[first.index(words.end) - 2] == words.table[",</w>"]  # where a prompt would be broken too
    with pytest.raises(UserError, match=r"tokens.*At most 75.*--set chunks=2"):
        written([long], words)


def test_a_words_vectors_stay_together() -> None:
    long = "cat " * 40 + "zorb"
    said = written([long], BUNDLE.tokenizer, "zorb", 7, chunks=4)
    slots = said.slots.view(-1, 77)
    (row,) = {int(place) for place in (slots >= 0).any(dim=1).nonzero()}
    assert slots[row][slots[row] >= 0].tolist() == list(range(7))
