"""Brownian paths: equal to torchsde's tree, and what a Brownian path has to be."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torchsde import BrownianTree
from torchsde._brownian import brownian_interval

from aquatint.base.brownian import path
from aquatint.base.noise import MIDSTEP, STEP, Noise
from aquatint.base.replay import SOURCES, noise_from, torch_cpu, torch_cuda

LOW, HIGH = 0.0291675, 14.614642
SHAPE = (4, 8, 8)
SIGMAS = [14.614642, 7.3, 3.3333333, 1.0, 0.31, 0.0292, 0.0291675]


def sampler_of_noise(seed: int, shape: tuple[int, ...] = SHAPE, low: float = LOW, high: float = HIGH) -> Any:
    """What k-diffusion's SDE samplers ask: the tree over sigma, its sign turned, over the root of the distance."""
    low, high = (float(torch.tensor(value)) for value in (low, high))
    tree = BrownianTree(low, torch.zeros(shape), high, entropy=seed)

    def noise(sigma: float, after: float) -> torch.Tensor:
        start, goal = (float(torch.tensor(value)) for value in (sigma, after))
        return -tree(goal, start) / (start - goal) ** 0.5

    return noise


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 5, 2**64 - 1])
def test_it_is_torchsdes(seed: int) -> None:
    theirs = sampler_of_noise(seed)
    ours = noise_from("cpu+tree", [seed]).over(LOW, HIGH)
    for start, goal in [*pairwise(SIGMAS), (9.0, 2.0), (14.614642, 0.0291675)]:
        mine = ours.change(SHAPE, start, goal, step=0, draw=STEP)[0]
        torch.testing.assert_close(mine, theirs(start, goal), rtol=0, atol=2e-4 if start - goal < 1e-3 else 2e-5)


def test_with_the_cards_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """As A1111 has it, which puts its own generator in torchsde's place."""

    def drawn(size: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> torch.Tensor:
        return torch_cuda(int(seed), int(np.prod(size)), 0).reshape(size)

    monkeypatch.setattr(brownian_interval, "_randn", drawn)
    theirs = sampler_of_noise(7)
    for source in ("nv+tree", "cpu+nv+nvtree"):
        mine = noise_from(source, [7]).over(LOW, HIGH).change(SHAPE, 7.3, 3.0, step=1, draw=STEP)[0]
        torch.testing.assert_close(mine, theirs(7.3, 3.0), rtol=0, atol=2e-5)
    other = noise_from("cpu+nv+cputree", [7]).over(LOW, HIGH).change(SHAPE, 7.3, 3.0, step=1, draw=STEP)[0]
    assert (other - theirs(7.3, 3.0)).abs().max() > 1


def test_pictures_of_a_batch_share_one_tree() -> None:
    theirs = sampler_of_noise(7, (3, *SHAPE))
    for place in range(3):
        mine = noise_from("cpu+nv+cputree", [7], place=place, of=3).over(LOW, HIGH).change(SHAPE, 7.3, 3.0)[0]
        torch.testing.assert_close(mine, theirs(7.3, 3.0)[place], rtol=0, atol=2e-5)


def test_a_path_is_one() -> None:
    """Its changes add up, in whatever order they are asked for; it begins at 0, and stays at its ends beyond them."""
    draw, size = torch_cpu, 4096
    places = [0.0, 0.25, 0.2500004, 0.5, 0.999999, 1.0]
    along = [path(3, draw, size, 0.0, 1.0, place) for place in places]
    back = [path(3, draw, size, 0.0, 1.0, place) for place in reversed(places)]
    assert all(np.array_equal(one, other) for one, other in zip(along, reversed(back), strict=True))
    assert not along[0].any()
    assert np.array_equal(along[1], along[2])  # six decimals
    assert np.array_equal(path(3, draw, size, 0.0, 1.0, 7.0), along[-1])
    assert np.array_equal(path(3, draw, size, 0.0, 1.0, -1.0), along[0])
    for (start, here), (goal, there) in [((0.0, along[0]), (0.25, along[1])), ((0.25, along[1]), (0.5, along[3]))]:
        change = (there - here) / (goal - start) ** 0.5
        assert abs(change.std() - 1) < 0.05
        assert abs(change.mean()) < 0.05
    assert abs(np.corrcoef(along[1], along[3] - along[1])[0, 1]) < 0.05  # apart from what was before


def test_rows_do_not_know_their_company() -> None:
    for source in SOURCES:
        rows = noise_from(source, [7, 8, 9]).over(LOW, HIGH)
        drawn = rows.change(SHAPE, 7.3, 3.0, step=2, draw=STEP)
        assert torch.equal(rows[1:2].change(SHAPE, 7.3, 3.0, step=2, draw=STEP)[0], drawn[1])
        alone = noise_from(source, [9]).over(LOW, HIGH)
        assert torch.equal(alone.change(SHAPE, 7.3, 3.0, step=2, draw=STEP)[0], drawn[2])


def test_noise_of_ours_is_drawn_for_each_step() -> None:
    noise = Noise([7])
    assert noise.over(LOW, HIGH) is noise
    for step, draw in ((0, STEP), (1, STEP), (1, MIDSTEP)):
        drawn = noise.change(SHAPE, 7.3, 3.0, step=step, draw=draw)
        assert torch.equal(drawn, noise.normal(SHAPE, step=step, draw=draw))
