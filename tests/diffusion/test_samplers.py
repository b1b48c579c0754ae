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
LEAST = {"unipc": 0.08, "deis": 0.08}  # they begin with steps of lower order, and these steps are wide
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
    *_, last = SAMPLERS[name](denoise, x, levels, NOISE, schedule=schedule, **options)
    return last.x


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
    errors = [error(name, steps) for steps in (40, 80, 160)]
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
    levels, x = linspace(SD, 7), X.float()
    *_, whole = SAMPLERS[name](bent, x, levels, NOISE, schedule=SD)
    for row in (slice(0, 1), slice(2, 3), slice(1, 3)):
        *_, part = SAMPLERS[name](bent, x[row], levels, NOISE[row], schedule=SD)
        assert torch.equal(part.x, whole.x[row])
        assert part.x.dtype == torch.float32
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

    levels, denoise = trailing(ZERO, steps), predictor(net, VELOCITY, EMPTY)
    assert levels[0].ratio == math.inf
    assert torch.isfinite(end(name, levels, denoise, schedule=ZERO)).all()
    if (
        steps == 12 and SAMPLERS[name].order is not None
    ):  # up to the last step, which goes to the clean level from far off
        x = end(name, levels[:-1], denoise, schedule=ZERO, **still(name))
        exact = transported(X, levels[0], levels[-2])
        assert (x - exact).abs().max() < LEAST.get(name, 0.15 if SAMPLERS[name].order == 1 else 0.05)


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_prediction_cannot_start_in_pure_noise(name):
    steps = SAMPLERS[name](predictor(lambda x, t, c, v: x, EPSILON, EMPTY), X, trailing(ZERO, 5), NOISE, schedule=ZERO)
    with pytest.raises(UserError, match="pure noise"):
        next(steps)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_tell_where_they_are(name, steps):
    for levels in (leading(SD, steps), linspace(SD, steps)):
        seen = list(SAMPLERS[name](gaussian, X, levels, NOISE, schedule=SD))
        assert all(isinstance(step, Step) for step in seen)
        assert [step.index for step in seen] == list(range(steps))
        assert {step.total for step in seen} == {steps}
        assert [step.level for step in seen] == levels[1:]
        assert torch.equal(seen[0].x0, gaussian(X, levels[0]))
        assert all(torch.isfinite(step.x).all() for step in seen)


@pytest.mark.parametrize(("name", "calls"), [("ddim", 50), ("plms", 51), ("pndm", 59), ("lms", 50), ("heun", 99)])
def test_calls_of_the_net(name, calls):
    """plms asks once more in its first step, pndm three times more in three; heun once less in its last."""
    seen = []
    levels = linspace(SD, 50)
    list(SAMPLERS[name](lambda x, level: (seen.append(level), gaussian(x, level))[1], X, levels, NOISE, schedule=SD))
    assert len(seen) == calls


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_runs_ahead_and_nothing_is_changed(name):
    calls, x = [], X.clone()

    def counted(x: Tensor, level: Level) -> Tensor:
        calls.append(level)
        return gaussian(x, level)

    steps = SAMPLERS[name](counted, x, linspace(SD, 20), NOISE, schedule=SD)
    assert not calls
    next(steps)
    assert len(calls) <= 4
    first = len(calls)
    steps.close()
    list(SAMPLERS[name](counted, x, linspace(SD, 20), NOISE, schedule=SD))
    assert abs(len(calls) - first - 20 * SAMPLERS[name].calls) <= 9
    assert torch.equal(x, X)


def test_two_walks_do_not_meet():
    """History is local: two requests, step by step in turn, are each what they are alone."""
    levels = linspace(SD, 8)
    for name in SAMPLERS:
        alone = [end(name, levels, bent, x, SD) for x in (X, -X)]
        pair = [SAMPLERS[name](bent, x, levels, NOISE, schedule=SD) for x in (X, -X)]
        *_, together = zip(*pair, strict=True)
        assert all(torch.equal(step.x, x) for step, x in zip(together, alone, strict=True))


def test_options():
    assert [SAMPLERS[name].options for name in ("ddim", "euler_a", "pndm")] == [{"eta": 0.0}, {"eta": 1.0}, {}]
    levels = linspace(SD, 3)
    with pytest.raises(UserError, match=r'no option "etta". It takes: eta'):
        SAMPLERS["ddim"](gaussian, X, levels, NOISE, etta=1.0)
    with pytest.raises(UserError, match="no options"):
        SAMPLERS["heun"](gaussian, X, levels, NOISE, eta=1.0)
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
