"""When what is kept is forgotten: by levels, for every sampler, and always where nothing is to be kept."""

from itertools import pairwise

import pytest
import torch
from tests.diffusion.mixture import Mixture

from aquatint.base.noise import Noise
from aquatint.diffusion.denoisers import Conditioning, Pair, first, paired
from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.prediction import EPSILON
from aquatint.diffusion.reuse import renewed
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import Latents, Level, NoiseSchedule, ScheduleConfig

SD = NoiseSchedule(ScheduleConfig())
EMPTY = Conditioning(torch.zeros(1, 1, 1))


def walked(sampler: str, every: int) -> list[tuple[int, int]]:
    """For each call that a sampler makes: the step that it belongs to, and the step in which what it reads was kept."""
    row, kept = SAMPLERS[sampler], list[int]()
    levels = GRIDS[row.grid](SD, 20 if sampler == "restart" else 7)  # restart goes back from 20 steps on
    asked: list[tuple[int, int]] = []
    inner = paired(Mixture("epsilon"), EPSILON, EMPTY, EMPTY, 1.5)

    def keeping(x: Latents, level: Level) -> tuple[Latents, Latents]:
        step = max(index for index, above in enumerate(levels[:-1]) if above.ratio >= level.ratio or not index)
        if not kept:
            kept.append(step)
        asked.append((step, kept[0]))
        return inner(x, level)

    pair: Pair = renewed(keeping, levels, every, kept.clear)
    x = SD.prior(levels[0], Noise([1]).normal((4, 2, 2)).double(), row.start)
    for _ in row(first(pair), x, levels, Noise([1]), schedule=SD, pair=pair):
        pass
    return asked


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(sampler: str) -> None:
    asked = walked(sampler, 3)
    assert all(kept // 3 == step // 3 and (step % 3 or kept == step) for step, kept in asked)
    assert any(kept != step for step, kept in asked)


@pytest.mark.parametrize("sampler", ["heun", "restart", "dpm_fast"])
def test_nothing_is_kept_from_one_step_to_the_next_at_one(sampler: str) -> None:
    assert all(kept == step for step, kept in walked(sampler, 1))


@pytest.mark.parametrize(
    ("sampler", "wanted"),
    [
        ("euler", [(0, 0), (1, 0), (2, 0), (3, 3), (4, 3), (5, 3), (6, 6)]),
        ("dpm_2", [(0, 0), (0, 0), (1, 0), (1, 0), (2, 0), (2, 0), (3, 3), (3, 3), (4, 3)]),
        ("heun", [(0, 0), (1, 0), (1, 0), (2, 0), (2, 0), (3, 3), (3, 3), (4, 3)]),
    ],
)
def test_a_step_is_a_stretch_of_levels(sampler: str, wanted: list[tuple[int, int]]) -> None:
    assert walked(sampler, 3)[: len(wanted)] == wanted


def test_each_call_of_a_step_that_forgets_is_computed() -> None:
    levels, count = GRIDS["karras"](SD, 6), list[int]()

    def pair(x: Latents, level: Level) -> tuple[Latents, Latents]:
        return x, x

    asking = renewed(pair, levels, 2, lambda: count.append(1))
    counts = []
    for index in (0, 0, 1, 1, 2, 2, 3, 1, 1, 5):
        before = len(count)
        asking(torch.zeros(1, 4, 1, 1), levels[index])
        counts.append(len(count) - before)
    assert counts == [1, 1, 0, 0, 1, 1, 0, 1, 0, 1]


def test_restart_goes_back_and_forgets() -> None:
    asked = walked("restart", 3)
    back = [index for index, (one, two) in enumerate(pairwise(asked), 1) if two[0] < one[0] - 2]
    assert back
    assert all(asked[index][0] == asked[index][1] for index in back)
