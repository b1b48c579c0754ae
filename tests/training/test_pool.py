"""Scenes rendered beforehand: the same whoever draws them, and read back as they were drawn."""

from pathlib import Path

import pytest
import torch

from aquatint.base import images
from aquatint.families import POCKET
from aquatint.nets.tokenizer import Tokenizer
from aquatint.training.data.captions import caption
from aquatint.training.data.pool import READY, Pool, make
from aquatint.training.data.render import has_font, render
from aquatint.training.data.scenes import WORDS, Draws, Scene
from aquatint.training.data.stream import Stream
from aquatint.training.data.world import MEDIUM

STREAM = Stream(MEDIUM, 5)
COUNT, SIDE, WORDINGS = 130, 32, 2  # more than a task's scenes


def described(numbers: range) -> list[Scene]:
    """Called by the drawing processes too."""
    return [STREAM.scene(number) for number in numbers]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    Tokenizer.train([STREAM.caption(index) for index in range(200)], POCKET.text.vocabulary).save(folder)
    return folder


@pytest.mark.skipif(not has_font(), reason="scenes are drawn with fonts-noto-color-emoji")
def test_a_pool_holds_each_scene_and_its_wordings(words: Path, tmp_path: Path) -> None:
    make(tmp_path, described, words, COUNT, seed=7, side=SIDE, wordings=WORDINGS, workers=2)
    pool, tokenizer = Pool.open(tmp_path), Tokenizer.from_folder(words)
    assert (tmp_path / READY).exists()
    assert len(pool) == COUNT
    for number in (0, 1, 127, 128, 129):
        scene = STREAM.scene(number)
        assert torch.equal(pool.pictures[number], torch.from_numpy(render(scene, SIDE)))
        draws = (Draws(7, number * WORDINGS + k, WORDS) for k in range(WORDINGS))
        assert torch.equal(pool.ids[number].long(), tokenizer([caption(scene, each, 0.7, 0.0) for each in draws]))
    rows, corners = torch.tensor([3, 129]), torch.tensor([[0, 0], [5, 16]])
    whole = pool.whole(rows)
    assert torch.equal(images.to_bytes(whole).permute(0, 2, 3, 1), pool.pictures[rows])
    cut = pool.crops(rows, corners, 16)
    assert torch.equal(cut[0], whole[0, :, :16, :16])
    assert torch.equal(cut[1], whole[1, :, 5:21, 16:])


@pytest.mark.skipif(not has_font(), reason="scenes are drawn with fonts-noto-color-emoji")
def test_who_draws_makes_no_difference(words: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        make(tmp_path / str(workers), described, words, 4, seed=7, side=SIDE, wordings=WORDINGS, workers=workers)
    one, two = (Pool.open(tmp_path / str(workers)) for workers in (1, 2))
    assert torch.equal(one.pictures, two.pictures)
    assert torch.equal(one.ids, two.ids)
