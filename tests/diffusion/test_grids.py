"""Every grid: as many levels as were asked for, falling, with the right ends; and each one's own formula."""

import math
from itertools import pairwise

import pytest

from aquatint.base.errors import UserError
from aquatint.diffusion.grids import (
    AYS_SD15,
    AYS_SDXL,
    GRIDS,
    beta_quantile,
    karras,
    leading,
    linspace,
    options_of,
    trailing,
    visited,
)
from aquatint.diffusion.schedule import CLEAN, NoiseSchedule, ScheduleConfig

SD = NoiseSchedule(ScheduleConfig())
COSINE = NoiseSchedule(ScheduleConfig(kind="cosine"))
ZERO = NoiseSchedule(ScheduleConfig(zero_terminal=True))
ALIGNED = ("align_your_steps", "align_your_steps_xl")
ENDLESS = (
    "leading",
    "ddim_uniform",
    "karras",
    "exponential",
    "polyexponential",
    "kl_optimal",
    "linear_quadratic",
    *ALIGNED,
)
MOST = {"lcm": 50, "turbo": 10}
COUNTS = [1, 2, 3, 7, 10, 12, 30, 50, 333, 999]


@pytest.mark.parametrize("steps", COUNTS)
@pytest.mark.parametrize("schedule", [SD, COSINE, ZERO], ids=["sd", "cosine", "zero"])
@pytest.mark.parametrize("name", GRIDS)
def test_every_grid(name, schedule, steps):
    if schedule is ZERO and name in ENDLESS:
        with pytest.raises(UserError, match=r"pure noise.*trailing"):
            GRIDS[name](schedule, steps)
        return
    if (schedule is COSINE and name in ALIGNED) or steps > MOST.get(name, steps):
        with pytest.raises(UserError, match=name):
            GRIDS[name](schedule, steps)
        return
    levels = GRIDS[name](schedule, steps)
    assert len(levels) == steps + 1
    assert all(b.ratio < a.ratio and b.t <= a.t for a, b in pairwise(levels))
    assert all(0 <= level.t <= 999 for level in levels)
    assert levels[-1] == (schedule.at(0) if name == "leading" else CLEAN)
    if name not in ("leading", "ddim_uniform"):
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


def test_ddim_uniform_is_leading_with_a_clean_end():
    assert GRIDS["ddim_uniform"](SD, 20) == [*leading(SD, 20)[:-1], CLEAN]


def test_sgm_uniform_and_simple():
    assert [level.t for level in GRIDS["sgm_uniform"](SD, 9)] == pytest.approx([*range(999, 0, -111), 0])
    assert [level.t for level in GRIDS["simple"](SD, 10)] == [*range(999, 0, -100), 0]
    assert [level.t for level in GRIDS["simple"](SD, 3)] == [999, 666, 333, 0]  # 999 - int(k * 1000 / 3)


def test_beta_quantiles():
    stats = pytest.importorskip("scipy.stats")
    for a, b in ((0.6, 0.6), (2.0, 5.0), (0.5, 3.0)):
        for p in (1e-3, 0.02, 0.1, 0.5, 0.77, 0.999, 1.0):
            assert beta_quantile(p, a, b) == pytest.approx(stats.beta.ppf(p, a, b), rel=1e-9)
    times = [round(999 * stats.beta.ppf(1 - k / 20, 0.6, 0.6)) for k in range(20)]
    assert [level.t for level in GRIDS["beta"](SD, 20)][:-1] == times


def test_kl_optimal_is_even_in_the_angle():
    angles = [math.atan(level.ratio) for level in GRIDS["kl_optimal"](SD, 20)[:-1]]
    gaps = [a - b for a, b in pairwise(angles)]
    assert max(gaps) - min(gaps) < 1e-12


@pytest.mark.parametrize(("name", "table"), [("align_your_steps", AYS_SD15), ("align_your_steps_xl", AYS_SDXL)])
def test_aligned_steps(name, table):
    ten = [level.ratio for level in GRIDS[name](SD, 10)]
    assert ten[1:] == pytest.approx([*table[1:-1], 0])
    twenty = [level.ratio for level in GRIDS[name](SD, 20)]
    assert twenty[2::2] == pytest.approx(ten[1:])
    assert twenty[3] == pytest.approx((table[1] * table[2]) ** 0.5)
    utils = pytest.importorskip("diffusers.schedulers")
    words = {"align_your_steps": "StableDiffusion", "align_your_steps_xl": "StableDiffusionXL"}
    assert ten == pytest.approx(utils.AysSchedules[words[name] + "Sigmas"], abs=4e-3)


def test_linear_quadratic():
    high = SD.at(999).ratio
    gone = [1 - level.ratio / high for level in GRIDS["linear_quadratic"](SD, 8)]
    assert gone[:5] == pytest.approx([0, 0.00625, 0.0125, 0.01875, 0.025])
    second = [c - 2 * b + a for a, b, c in zip(gone[4:], gone[5:], gone[6:], strict=False)]
    assert max(second) - min(second) < 1e-12
    assert gone[-1] == 1


def test_lcm_takes_from_fifty_times():
    assert [level.t for level in GRIDS["lcm"](SD, 4)] == [999, 759, 499, 259, 0]
    assert {level.t for level in GRIDS["lcm"](SD, 50)} == {0, *range(19, 1000, 20)}


def test_turbo_takes_from_ten_times():
    assert [level.t for level in GRIDS["turbo"](SD, 4)] == [999, 899, 799, 699, 0]


def test_polyexponential_formula():
    high, low = SD.at(999).ratio, SD.at(0).ratio
    for rho in (0.5, 1.0, 2.0):
        for k, level in enumerate(GRIDS["polyexponential"](SD, 20, rho=rho)[:-1]):
            logs = (1 - k / 19) ** rho * (math.log(high) - math.log(low)) + math.log(low)
            assert level.ratio == pytest.approx(math.exp(logs), rel=1e-12)
    ratios = [level.ratio for level in GRIDS["polyexponential"](SD, 20)]
    assert ratios == pytest.approx([level.ratio for level in GRIDS["exponential"](SD, 20)])


def test_options_of_grids():
    assert options_of("karras") == {"rho": 7.0, "discard": 0.0}
    assert visited("karras", SD, 9, {"order": 2.0}) == karras(SD, 9)
    assert visited("karras", SD, 9, {"rho": 3.0}) == karras(SD, 9, rho=3.0) != karras(SD, 9)
    more = karras(SD, 10)
    assert visited("karras", SD, 9, {"discard": 1.0}) == [*more[:-2], CLEAN]
    for bad, match in (({"discard": 0.5}, "discard"), ({"rho": 0.0}, "rho")):
        with pytest.raises(UserError, match=match):
            visited("karras", SD, 9, bad)
