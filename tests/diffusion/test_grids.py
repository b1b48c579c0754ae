"""Every grid: as many levels as were asked for, falling, with the right ends; and each one's own formula."""

from itertools import pairwise

import pytest

from aquatint.base.errors import UserError
from aquatint.diffusion.grids import GRIDS, karras, leading, linspace, trailing
from aquatint.diffusion.schedule import CLEAN, NoiseSchedule, ScheduleConfig

SD = NoiseSchedule(ScheduleConfig())
COSINE = NoiseSchedule(ScheduleConfig(kind="cosine"))
ZERO = NoiseSchedule(ScheduleConfig(zero_terminal=True))
COUNTS = [1, 2, 3, 7, 10, 12, 30, 50, 333, 999]


@pytest.mark.parametrize("steps", COUNTS)
@pytest.mark.parametrize("schedule", [SD, COSINE, ZERO], ids=["sd", "cosine", "zero"])
@pytest.mark.parametrize("name", GRIDS)
def test_every_grid(name, schedule, steps):
    if schedule is ZERO and name in ("leading", "karras", "exponential"):
        with pytest.raises(UserError, match=r"pure noise.*trailing"):
            GRIDS[name](schedule, steps)
        return
    levels = GRIDS[name](schedule, steps)
    assert len(levels) == steps + 1
    assert all(b.ratio < a.ratio and b.t <= a.t for a, b in pairwise(levels))
    assert all(0 <= level.t <= 999 for level in levels)
    assert levels[-1] == (schedule.at(0) if name == "leading" else CLEAN)
    if name != "leading":
        assert levels[0].t == 999
        assert levels[0].ratio == pytest.approx(schedule.at(999).ratio, rel=1e-12)


@pytest.mark.parametrize("steps", [0, -1, 10**9, 1001])
@pytest.mark.parametrize("name", GRIDS)
def test_bad_counts(name, steps):
    with pytest.raises(UserError, match=rf"^{steps} steps.*{name}.*1 to "):
        GRIDS[name](SD, steps)


def test_most_steps():
    assert [level.t for level in trailing(SD, 1000)] == [*range(999, -1, -1), 0]
    assert [level.t for level in leading(SD, 999)] == [*range(999, 0, -1), 0]
    with pytest.raises(UserError, match="1 to 999"):
        leading(SD, 1000)


def test_leading_is_stable_diffusions():
    assert [level.t for level in leading(SD, 50)] == [*range(981, 0, -20), 0]
    assert [level.t for level in leading(SD, 10)] == [*range(901, 0, -100), 0]


def test_trailing_begins_at_the_end():
    assert [level.t for level in trailing(SD, 10)] == [*range(999, 0, -100), 0]
    assert [level.t for level in trailing(SD, 3)] == [999, 666, 332, 0]
    assert trailing(ZERO, 12)[0].alpha == 0


def test_linspace_goes_between_entries():
    times = [level.t for level in linspace(SD, 50)]
    assert times[:-1] == pytest.approx([999 * (1 - k / 49) for k in range(50)])


def test_karras_formula():
    high, low = SD.at(999).ratio, SD.at(0).ratio
    for k, level in enumerate(karras(SD, 20)[:-1]):
        ratio = (high ** (1 / 7) + k / 19 * (low ** (1 / 7) - high ** (1 / 7))) ** 7
        assert level.ratio == pytest.approx(ratio, rel=1e-12)
        assert SD.at(level.t).ratio == pytest.approx(ratio, rel=1e-9)


def test_exponential_is_even_in_lambda():
    lams = [level.lam for level in GRIDS["exponential"](SD, 20)[:-1]]
    gaps = [b - a for a, b in pairwise(lams)]
    assert max(gaps) - min(gaps) < 1e-12
