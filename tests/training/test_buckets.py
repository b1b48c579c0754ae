"""Buckets: the shapes that others have, and batches of one shape that leave nothing out."""

from collections import Counter

import numpy as np
import pytest

from aquatint.base.errors import UserError
from aquatint.training.data.buckets import Plan, Shape, assigned, shapes


def test_the_shapes_are_novelai_s() -> None:
    found = shapes(512 * 768)
    assert all(width % 64 == height % 64 == 0 and min(width, height) >= 256 for width, height in found)
    assert all(width * height <= 512 * 768 and max(width, height) <= 1024 for width, height in found)
    assert {Shape(512, 768), Shape(768, 512), Shape(256, 1024), Shape(1024, 256), Shape(384, 1024)} <= set(found)
    assert {Shape(height, width) for width, height in found} == set(found)
    assert Shape(512, 512) in shapes(512 * 512)


def test_a_picture_goes_where_the_ratio_is_nearest() -> None:
    among = shapes(512 * 512)
    sizes = np.array([(w, h) for w in range(60, 900, 37) for h in range(60, 900, 41)])
    chosen = assigned(sizes, among)
    ratios = np.log([shape.width / shape.height for shape in among])
    off = np.abs(np.log(sizes[:, 0] / sizes[:, 1])[:, None] - ratios)
    assert np.allclose(off[np.arange(len(sizes)), chosen], off.min(axis=1))


@pytest.mark.parametrize("batch", [1, 4])
def test_every_picture_once_an_epoch_of_its_bucket(batch: int) -> None:
    among = (Shape(64, 64), Shape(128, 64), Shape(64, 128), Shape(256, 64))
    sizes = np.array([(64, 64)] * 10 + [(128, 64)] * 5 + [(64, 128)] * 2)
    plan = Plan(7, batch, sizes, among)
    epochs = 8
    turns = [plan.turn(step) for step in range(plan.steps(epochs))]
    shown: dict[Shape, list[int]] = {}
    for turn in turns:
        assert len(turn.numbers) == batch
        shown.setdefault(turn.shape, []).extend(turn.numbers)
    for shape, members in zip(among, plan.members, strict=True):
        own, count = shown.get(shape, []), len(members)
        assert len(own) == epochs * count // batch * batch
        for first in range(0, len(own) - count + 1, max(1, count)):
            assert sorted(own[first : first + count]) == members.tolist()
    assert Counter(turn.shape for turn in turns)[among[3]] == 0
    assert len(turns) - len(sizes) * epochs // batch in (0, -1, -2)


def test_steps_are_a_function_of_seed_and_step() -> None:
    sizes = np.array([(64, 64)] * 20 + [(128, 64)] * 13)
    among = (Shape(64, 64), Shape(128, 64))
    one = [Plan(1, 4, sizes, among).turn(step) for step in range(24)]
    plan = Plan(1, 4, sizes, among)
    assert [plan.turn(step) for step in reversed(range(24))][::-1] == one
    assert [Plan(2, 4, sizes, among).turn(step) for step in range(24)] != one
    assert len({tuple(turn.shape for turn in one[first : first + 8]) for first in (0, 8, 16)}) > 1


def test_what_is_impossible_is_said() -> None:
    for area, options in ((100, {}), (512 * 512, {"step": 60}), (512 * 512, {"shortest": 1024, "longest": 512})):
        with pytest.raises(UserError):
            shapes(area, **options)
    for batch, sizes in ((0, np.ones((3, 2))), (1, np.ones((0, 2)))):
        with pytest.raises(UserError):
            Plan(0, batch, sizes, (Shape(64, 64),))
