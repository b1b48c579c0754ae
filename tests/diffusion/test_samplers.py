"""Samplers against calculus: for one Gaussian the path has a closed form, and each order must come out.

Also what holds for all of them, new ones included: no picture depends on its batch, pure noise is a place to start
from, and the arguments mean what they say.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.base.noise import STEP, Noise
from aquatint.diffusion.denoisers import Conditioning, predictor
from aquatint.diffusion.grids import karras, leading, linspace, trailing
from aquatint.diffusion.prediction import EPSILON, VELOCITY
from aquatint.diffusion.samplers import SAMPLERS, Step
from aquatint.diffusion.schedule import Level, NoiseSchedule, ScheduleConfig

SD = NoiseSchedule(ScheduleConfig())
ZERO = NoiseSchedule(ScheduleConfig(zero_terminal=True))
NOISE = Noise([1, 2, 3])
X = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MEAN = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WIDTH = 0.5
LEAST = {
    "unipc": 0.08,
    "deis": 0.08,
    "dpm_fast": 0.25,
}  # they begin with steps of lower order, and these steps are wide
EMPTY = Conditioning(torch.zeros(3, 1, 1))


class ByRatio(NoiseSchedule):
    """A schedule whose time is sigma / alpha itself, so that halfway in time is halfway in what is integrated."""

    def at(self, t: float | int) -> Level:
        return Level((1 + t * t) ** -0.5, t * (1 + t * t) ** -0.5, float(t))


BY_RATIO = ByRatio(ScheduleConfig())


def spread(level: Level) -> float:
    return math.hypot(level.alpha * WIDTH, level.sigma)


def gaussian(x: Tensor, level: Level) -> Tensor:
    """E[x0 | x] for pictures N(MEAN, WIDTH**2)."""
    return MEAN + level.alpha * WIDTH**2 / spread(level) ** 2 * (x - level.alpha * MEAN)


def transported(x: Tensor, here: Level, there: Level) -> Tensor:
    """Where the probability-flow ODE of that Gaussian takes x: every point keeps its place in units of the spread."""
    return there.alpha * MEAN + spread(there) / spread(here) * (x - here.alpha * MEAN)


def end(
    name: str,
    levels: list[Level],
    denoise: Callable = gaussian,
    x: Tensor = X,
    schedule: NoiseSchedule = BY_RATIO,
    **options: float,
) -> Tensor:
    *_, last = SAMPLERS[name](denoise, x, levels, NOISE[: len(x)], schedule=schedule, **options)
    return last.x


def batch(name: str) -> int:
    """How many pictures it takes at once, of our three."""
    return 1 if SAMPLERS[name].alone else 3


def still(name: str) -> dict[str, float]:
    """Options that take the randomness out."""
    return {"eta": 0.0} if "eta" in SAMPLERS[name].options else {}


def error(name: str, steps: int) -> float:
    """On levels spaced as the Karras grid, over Stable Diffusion's range."""
    high, low = 14.6 ** (1 / 7), 0.03 ** (1 / 7)
    levels = [BY_RATIO.at((high + k / steps * (low - high)) ** 7) for k in range(steps + 1)]
    exact = transported(X, levels[0], levels[-1])
    return (end(name, levels, **still(name)) - exact).abs().max().item()


@pytest.mark.parametrize("name", [name for name, row in SAMPLERS.items() if row.order is not None])
def test_observed_order(name):
    """Every row of the table, a new one too: the error falls as steps ** -order."""
    # dpm_fast makes steps of three calls, and one of two at the end
    errors = [error(name, steps) for steps in ((41, 83, 167) if SAMPLERS[name].free else (40, 80, 160))]
    for coarse, fine in pairwise(errors):
        assert abs(math.log2(coarse / fine) - SAMPLERS[name].order) < 0.3
    assert errors[-1] < (1e-3 if SAMPLERS[name].order >= 2 else 0.02)


def told(eps: Callable[[float], float]) -> Callable[[Tensor, Level], Tensor]:
    """A denoiser in whose eyes eps is a function of sigma / alpha alone, so that the path is its integral."""
    return lambda x, level: (x - level.sigma * eps(level.ratio)) / level.alpha


def integral(powers: list[float], low: float, high: float) -> float:
    return sum(c * (high ** (k + 1) - low ** (k + 1)) / (k + 1) for k, c in enumerate(powers))


def polynomial(powers: list[float]) -> Callable[[float], float]:
    return lambda ratio: sum(c * ratio**k for k, c in enumerate(powers))


EVEN = [BY_RATIO.at(3 - k / 4) for k in range(11)]
UNEVEN = [BY_RATIO.at(3 * 0.8**k) for k in range(11)]


@pytest.mark.parametrize(
    ("name", "degree", "levels"),
    [
        ("euler", 0, UNEVEN),
        ("ddim", 0, UNEVEN),
        ("heun", 1, UNEVEN),  # the trapezium rule
        ("plms", 1, EVEN),  # Heun's first step and the two-step method after it
        ("pndm", 3, EVEN),  # Simpson's rule, then the four-step method
    ],
)
def test_exact_for_polynomials(name, degree, levels):
    """Each rule integrates polynomials up to its degree exactly, and no further: a wrong coefficient shows at once."""
    powers = [0.3, -0.7, 0.5, 0.2, -0.4]
    for d in (degree, degree + 1):
        cut = powers[: d + 1]
        x = end(name, levels, told(polynomial(cut)))
        exact = X / levels[0].alpha + integral(cut, levels[0].ratio, levels[-1].ratio)
        off = (x / levels[-1].alpha - exact).abs().max()
        assert (off < 1e-12) == (d == degree), f"degree {d}: {off}"


@pytest.mark.parametrize(("name", "levels"), [("lms", UNEVEN), ("plms", EVEN)])
def test_four_step_methods_are_exact_for_cubics_once_warm(name, levels):
    cubic = [0.3, -0.7, 0.5, 0.2]
    steps = list(SAMPLERS[name](told(polynomial(cubic)), X, levels, NOISE))
    for before, after in pairwise(steps[2:]):
        moved = after.x / after.level.alpha - before.x / before.level.alpha
        exact = integral(cubic, before.level.ratio, after.level.ratio)
        assert (moved - exact).abs().max() < 1e-12


def test_euler_is_ddim_and_so_is_its_ancestor():
    levels = leading(SD, 12)
    assert torch.equal(end("euler", levels), end("ddim", levels))
    assert torch.equal(end("euler_a", levels), end("ddim", levels, eta=1.0))
    assert torch.equal(end("euler_a", levels, eta=0.0), end("ddim", levels))
    assert not torch.equal(end("euler_a", levels), end("ddim", levels))


def test_ddim_on_any_grid_is_euler_in_ratio():
    levels = leading(SD, 12)
    y = X / levels[0].alpha
    for here, there in pairwise(levels):
        slope = (y - gaussian(here.alpha * y, here)) / here.ratio
        y = y + (there.ratio - here.ratio) * slope
    assert (end("ddim", levels) - levels[-1].alpha * y).abs().max() < 1e-12


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_fresh_noise_keeps_the_distribution(eta):
    """Many paths end in the pictures' own mean and spread, whatever part of the noise is new."""
    noise = Noise(range(20))
    levels = karras(SD, 100)
    x = SD.prior(levels[0], noise.normal((4, 8, 8)).double())

    def denoise(x: Tensor, level: Level) -> Tensor:
        return 0.3 + level.alpha * WIDTH**2 / spread(level) ** 2 * (x - level.alpha * 0.3)

    *_, last = SAMPLERS["ddim"](denoise, x, levels, noise, eta=eta)
    assert abs(last.x.mean() - 0.3) < 0.03
    assert abs(last.x.std() - WIDTH) < 0.03


def test_fresh_noise_is_the_steps_own():
    """Noise of step i is draw STEP of step i: what others must draw to follow the same path."""
    levels = [SD.at(900), SD.at(500), SD.at(100)]
    x = X
    for index, (here, there) in enumerate(pairwise(levels)):
        up = (there.ratio**2 * (here.ratio**2 - there.ratio**2) / here.ratio**2) ** 0.5
        down = (there.ratio**2 - up**2) ** 0.5
        y, x0 = x / here.alpha, gaussian(x, here)
        y = y + (y - x0) / here.ratio * (down - here.ratio)
        x = there.alpha * (y + up * NOISE.normal((4, 4, 4), step=index, draw=STEP).double())
    assert (end("euler_a", levels) - x).abs().max() < 1e-12


def bent(x: Tensor, level: Level) -> Tensor:
    """A denoiser that is not linear, of one row at a time."""
    return torch.tanh(x * (1 + level.alpha)) * 0.8


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_does_not_depend_on_its_batch(name):
    """In float32, and in bfloat16 if somebody walks in it."""
    levels = linspace(SD, 7)
    for x in (X.float(), X.bfloat16()):
        if SAMPLERS[name].alone:
            with pytest.raises(UserError, match="3 pictures"):
                SAMPLERS[name](bent, x, levels, NOISE, schedule=SD)
            continue
        *_, whole = SAMPLERS[name](bent, x, levels, NOISE, schedule=SD)
        for row in (slice(0, 1), slice(2, 3), slice(1, 3)):
            *_, part = SAMPLERS[name](bent, x[row], levels, NOISE[row], schedule=SD)
            assert torch.equal(part.x, whole.x[row])
            assert part.x.dtype == x.dtype
        swapped = Noise(NOISE.seeds[::-1])
        *_, other = SAMPLERS[name](bent, x.flip(0), levels, swapped, schedule=SD)
        assert torch.equal(other.x.flip(0), whole.x)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_starts_in_pure_noise(name, steps):
    """alpha = 0 at the first level: finite, in the right place, and no worse for it."""

    def net(x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
        level = ZERO.at(t[0].item())
        x0 = gaussian(x, level)
        return level.alpha * (x - level.alpha * x0) / level.sigma - level.sigma * x0

    levels, denoise, x = trailing(ZERO, steps), predictor(net, VELOCITY, EMPTY), X[: batch(name)]
    assert levels[0].ratio == math.inf
    assert torch.isfinite(end(name, levels, denoise, x, schedule=ZERO)).all()
    if (
        steps == 12 and SAMPLERS[name].order is not None
    ):  # up to the last step, which goes to the clean level from far off
        x = end(name, levels[:-1], denoise, schedule=ZERO, **still(name))
        exact = transported(X, levels[0], levels[-2])
        assert (x - exact).abs().max() < LEAST.get(name, 0.15 if SAMPLERS[name].order == 1 else 0.05)


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_prediction_cannot_start_in_pure_noise(name):
    denoise, x = predictor(lambda x, t, c, v: x, EPSILON, EMPTY), X[: batch(name)]
    steps = SAMPLERS[name](denoise, x, trailing(ZERO, 5), NOISE[: len(x)], schedule=ZERO)
    with pytest.raises(UserError, match="pure noise"):
        next(steps)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_tell_where_they_are(name, steps):
    for levels in (leading(SD, steps), linspace(SD, steps)):
        x = X[: batch(name)]
        seen = list(SAMPLERS[name](gaussian, x, levels, NOISE[: len(x)], schedule=SD))
        assert all(isinstance(step, Step) for step in seen)
        assert {step.total for step in seen} == {steps}
        assert all(torch.isfinite(step.x).all() for step in seen)
        assert seen[-1].level == levels[-1]
        assert seen[-1].index == steps - 1
        if SAMPLERS[name].free:  # its own levels; indices rise, and may leave some out
            assert all(before.index < after.index for before, after in pairwise(seen))
            continue
        assert [step.index for step in seen] == list(range(steps))
        assert [step.level for step in seen] == levels[1:]
        assert torch.equal(seen[0].x0, gaussian(x, levels[0]))


@pytest.mark.parametrize(("name", "calls"), [("ddim", 50), ("plms", 51), ("pndm", 59), ("lms", 50), ("heun", 99)])
def test_calls_of_the_net(name, calls):
    """plms asks once more in its first step, pndm three times more in three; heun once less in its last."""
    seen = []
    levels = linspace(SD, 50)
    list(SAMPLERS[name](lambda x, level: (seen.append(level), gaussian(x, level))[1], X, levels, NOISE, schedule=SD))
    assert len(seen) == calls


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_runs_ahead_and_nothing_is_changed(name):
    calls, x = [], X[: batch(name)].clone()

    def counted(x: Tensor, level: Level) -> Tensor:
        calls.append(level)
        return gaussian(x, level)

    steps = SAMPLERS[name](counted, x, linspace(SD, 20), NOISE[: len(x)], schedule=SD)
    assert not calls
    next(steps)
    assert len(calls) <= (10 if name == "dpm_adaptive" else 4)  # which tells nothing of shorter steps than the grid's
    first = len(calls)
    steps.close()
    list(SAMPLERS[name](counted, x, linspace(SD, 20), NOISE[: len(x)], schedule=SD))
    assert abs(len(calls) - first - 20 * SAMPLERS[name].calls) <= (40 if name == "dpm_adaptive" else 9)
    assert torch.equal(x, X[: len(x)])


def test_two_walks_do_not_meet():
    """History is local: two requests, step by step in turn, are each what they are alone."""
    levels = linspace(SD, 8)
    for name in SAMPLERS:
        n = batch(name)
        alone = [end(name, levels, bent, x[:n], SD) for x in (X, -X)]
        pair = [SAMPLERS[name](bent, x[:n], levels, NOISE[:n], schedule=SD) for x in (X, -X)]
        *_, together = zip(*pair, strict=True)
        assert all(torch.equal(step.x, x) for step, x in zip(together, alone, strict=True))


def test_options():
    assert [SAMPLERS[name].options for name in ("ddim", "euler_a", "pndm")] == [
        {"eta": 0.0, "s_noise": 1.0},
        {"eta": 1.0, "s_noise": 1.0},
        {},
    ]
    levels = linspace(SD, 3)
    with pytest.raises(UserError, match=r'no option "etta". It takes: eta'):
        SAMPLERS["ddim"](gaussian, X, levels, NOISE, etta=1.0)
    with pytest.raises(UserError, match="no options"):
        SAMPLERS["plms"](gaussian, X, levels, NOISE, eta=1.0)
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match="eta"):
            next(SAMPLERS["ddim"](gaussian, X, levels, NOISE, eta=eta))


def test_misuse():
    levels = linspace(SD, 3)
    with pytest.raises(AssertionError, match="schedule"):
        SAMPLERS["pndm"](gaussian, X, levels, NOISE)
    with pytest.raises(AssertionError, match="fall"):
        SAMPLERS["ddim"](gaussian, X, levels[::-1], NOISE)
    with pytest.raises(AssertionError, match="two levels"):
        SAMPLERS["ddim"](gaussian, X, levels[:1], NOISE)


BAD_OPTIONS = [
    ("euler", {"s_churn": -1.0}, "s_churn"),
    ("euler_a", {"s_noise": -1.0}, "s_noise"),
    ("seeds_2", {"r": 0.0}, "r 0"),
    ("seeds_2", {"phi": 3.0}, "phi 3"),
    ("sa_solver", {"predictor_order": 5.0}, "predictor_order 5"),
    ("sa_solver", {"sde_start": 0.9}, "shares"),
    ("dpm_adaptive", {"order": 1.0}, "order of 2 or 3"),
    ("dpm_adaptive", {"rtol": 0.0}, "errors from"),
    ("dpm_fast", {"eta": 2.0}, "eta"),
    ("gradient_estimation_cfg_pp", {"gamma": 11.0}, "gamma"),
    ("dpmpp_2s_a_cfg_pp", {"eta": -1.0}, "eta"),
]


@pytest.mark.parametrize(("name", "options", "match"), BAD_OPTIONS)
def test_bad_options(name, options, match):
    with pytest.raises(UserError, match=match):
        list(SAMPLERS[name](gaussian, X[:1], linspace(SD, 4), NOISE[:1], schedule=SD, **options))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name.endswith("_cfg_pp")])
def test_without_guidance_cfg_pp_is_its_namesake(name):
    """A pair of two that are alike; ComfyUI's gradient estimation goes with the grid's own step, as ours does."""
    levels = karras(SD, 12)
    base = end(name.removesuffix("_cfg_pp"), levels, bent, schedule=SD)
    assert (end(name, levels, bent, schedule=SD) - base).abs().max() < 1e-12


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name.endswith("_cfg_pp")])
def test_cfg_pp_ends_on_the_guided_picture_and_minds_the_other(name):
    def pair(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        return bent(x, level), 0.5 * bent(x, level)

    levels = karras(SD, 8)
    *_, last = SAMPLERS[name](bent, X, levels, NOISE, schedule=SD, pair=pair)
    assert torch.allclose(last.x, last.x0, atol=1e-9)
    assert (last.x - end(name, levels, bent, schedule=SD)).abs().max() > 0.01


def test_guidance_linear_cfg_pp_step():
    """x' = alpha' x0 + sigma' eps of the negative (Chung et al. 2024, algorithm 2)."""
    here, there = SD.at(700), SD.at(400)
    (step,) = SAMPLERS["euler_cfg_pp"](bent, X, [here, there], NOISE, pair=lambda x, level: (MEAN + 0 * x, 0.3 * x))
    expected = there.alpha * MEAN + there.sigma * (X - here.alpha * 0.3 * X) / here.sigma
    assert torch.allclose(step.x, expected, atol=1e-12)


def test_without_noise_each_is_its_counterpart():
    """eta = 0 makes an SDE's method an ODE's."""
    levels = karras(SD, 12)
    pairs = [
        ("dpmpp_2m_sde", "dpmpp_2m"),
        ("dpmpp_2s_a", "seeds_2"),
        ("dpmpp_sde", "seeds_2"),
        ("dpm_2_a", "dpm_2"),
        ("euler_a", "euler"),
        ("dpmpp_2m_sde_heun", "res_multistep"),
        ("res_multistep_a", "res_multistep"),
    ]
    for noisy, quiet in pairs:
        x, y = (end(name, levels, bent, schedule=SD, **still(name)) for name in (noisy, quiet))
        assert (x - y).abs().max() < 1e-12, (noisy, quiet)


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2", "heunpp2"])
def test_churn(name):
    """New noise before each step within s_tmin .. s_tmax, as much as Karras et al.'s algorithm 2 says, and no more."""
    levels, plain = karras(SD, 12), end(name, karras(SD, 12), bent, schedule=SD)
    assert torch.equal(end(name, levels, bent, schedule=SD, s_churn=5.0, s_tmin=20.0), plain)
    assert torch.equal(end(name, levels, bent, schedule=SD, s_churn=5.0, s_tmax=0.01), plain)
    churned = end(name, levels, bent, schedule=SD, s_churn=5.0)
    assert (churned - plain).abs().max() > 0.01
    assert not torch.equal(churned, end(name, levels, bent, schedule=SD, s_churn=5.0, s_noise=1.1))
    seen = []
    list(SAMPLERS[name](lambda x, level: (seen.append(level), x)[1], X, levels, NOISE, schedule=SD, s_churn=60.0))
    assert seen[0].ratio == pytest.approx(levels[0].ratio * 2**0.5)


RANDOM = [name for name, row in SAMPLERS.items() if "eta" in row.options and not row.alone and name != "tcd"]


@pytest.mark.parametrize("name", [*RANDOM, "ddpm", "restart"])
def test_new_noise_keeps_the_mean_and_the_spread(name):
    """5,120 paths to one Gaussian: mean within 0.03, standard deviation within 0.04 (sampling error: 0.007, 0.005)."""
    noise, levels = Noise(range(20)), karras(SD, 60)
    x = SD.prior(levels[0], noise.normal((4, 8, 8)).double())

    def denoise(x: Tensor, level: Level) -> Tensor:
        return 0.3 + level.alpha * WIDTH**2 / spread(level) ** 2 * (x - level.alpha * 0.3)

    options = {"eta": 1.0} if "eta" in SAMPLERS[name].options else {}
    *_, last = SAMPLERS[name](denoise, x, levels, noise, schedule=SD, **options)
    assert abs(last.x.mean() - 0.3) < 0.03
    assert abs(last.x.std() - WIDTH) < 0.04


def test_restart_goes_up_again():
    """36 steps: 18 are the first way down, nine go from 2 to 0.1 a second time and nine a third time."""
    visited: list[float] = []
    levels = karras(SD, 36)
    list(SAMPLERS["restart"](lambda x, level: (visited.append(level.ratio), x)[1], X, levels, NOISE, schedule=SD))
    rises = [(a, b) for a, b in pairwise(visited) if b > a]
    assert len(rises) == 2
    assert all(b == pytest.approx(2, abs=0.5) for _, b in rises)
    assert len(visited) == 2 * 36 - 1
    assert torch.equal(
        end("restart", karras(SD, 19), bent, schedule=SD), end("heun", karras(SD, 19), bent, schedule=SD)
    )


def test_adaptive_steps_grow_as_the_error_allows():
    def calls(**options: float) -> int:
        seen = []
        denoise = lambda x, level: (seen.append(level), bent(x, level))[1]  # noqa: E731
        list(SAMPLERS["dpm_adaptive"](denoise, X[:1], karras(SD, 10), NOISE[:1], schedule=SD, **options))
        return len(seen)

    assert calls(rtol=0.5, atol=0.5) < calls() < calls(rtol=1e-3, atol=1e-3)
    levels = karras(SD, 10)[:-1]
    exact = transported(X[:1], levels[0], levels[-1])
    tight = end("dpm_adaptive", levels, x=X[:1], schedule=SD, rtol=1e-4, atol=1e-4)
    assert (tight - exact).abs().max() < 5e-4


def test_adaptive_does_not_hang_on_what_is_no_number():
    *_, last = SAMPLERS["dpm_adaptive"](lambda x, level: x * math.nan, X[:1], karras(SD, 6), NOISE[:1], schedule=SD)
    assert torch.isnan(last.x).all()
