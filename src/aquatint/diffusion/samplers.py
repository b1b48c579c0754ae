"""From noise to picture: each sampler is a generator over levels, and its history is its local variables.

All are written over (alpha, sigma) and the denoiser's x0, so that they know neither a net's prediction nor a schedule.
In these terms DDIM, Euler's method in sigma / alpha (k-diffusion) and Euler's method of rectified flow are one
function. Those of higher order put a mean of several eps in the place of eps, and move along it.

In pure noise (alpha = 0, where zero-terminal schedules start) eps is x itself and tells nothing of the picture, so no
mean is formed with it: the step from there is DDIM's, whatever the sampler.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from aquatint.base.errors import UserError
from aquatint.base.noise import STEP, Noise
from aquatint.diffusion.ancestral import dpm_2, dpm_2_a, dpmpp_2s_a, dpmpp_sde, lcm, tcd
from aquatint.diffusion.denoisers import Denoiser
from aquatint.diffusion.multistep import deis, gradient_estimation, unipc
from aquatint.diffusion.schedule import Latents, Level, NoiseSchedule
from aquatint.diffusion.steps import Step, move, weighted
from aquatint.diffusion.stochastic import dpmpp_2m_sde, dpmpp_2m_sde_heun, dpmpp_3m_sde, er_sde, res_multistep


def ddim(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise, *, eta: float = 0.0) -> Iterator[Step]:
    """x' = alpha' x0 + sqrt(sigma'^2 - fresh^2) eps + fresh z, with z new noise (Song et al. 2021, eq. 12 and 16).

    eta in 0 .. 1 is how much of the noise is new: 0 makes the path an ODE's, 1 is the ancestral sampler.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta {eta}.", "It takes 0 (none of the noise is new) to 1.", "")
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        eps = here.eps(x, x0)
        kept = (there.sigma * here.alpha) / (there.alpha * here.sigma)
        fresh = eta * there.sigma * (1 - kept**2) ** 0.5
        x = there.alpha * x0 + (there.sigma**2 - fresh**2) ** 0.5 * eps
        if fresh > 0:
            x = x + fresh * noise.normal(tuple(x.shape[1:]), step=index, draw=STEP, device=x.device).to(x.dtype)
        yield Step(index, len(levels) - 1, there, x, x0)


def euler(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """Euler's method in sigma / alpha (Karras et al. 2022): DDIM's step, exactly."""
    return ddim(denoise, x, levels, noise)


def euler_a(
    denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise, *, eta: float = 1.0
) -> Iterator[Step]:
    """Ancestral Euler, as k-diffusion has it: DDIM's step with eta = 1, exactly."""
    return ddim(denoise, x, levels, noise, eta=eta)


def ddpm(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """Ancestral sampling by the posterior q(x' | x, x0) (Ho et al. 2020, eq. 7): DDIM's step with eta = 1, exactly."""
    return ddim(denoise, x, levels, noise, eta=1.0)


def heun(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """Heun's method in sigma / alpha: eps is the mean of those at both ends (Karras et al. 2022, algorithm 1)."""
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        eps = here.eps(x, x0)
        if here.alpha > 0 and there.sigma > 0:
            x = move(x, _trapezium(denoise, x, eps, here, there), here, there)
        else:
            x = there.mix(x0, eps)
        yield Step(index, len(levels) - 1, there, x, x0)


def plms(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """Adams and Bashforth's four-step method on eps, begun with one step of Heun's: Stable Diffusion's first sampler.

    Liu et al. 2022 (PNDM), without its Runge-Kutta warm-up. diffusers: PNDMScheduler, skip_prk_steps True.
    """
    return _adams(denoise, x, levels, warm=1, slope=_trapezium)


def pndm(
    denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise, *, schedule: NoiseSchedule
) -> Iterator[Step]:
    """Adams and Bashforth's four-step method on eps, begun with three steps of Runge and Kutta's fourth-order one.

    Liu et al. 2022 (PNDM). The warm-up visits levels between those of the grid: hence the schedule.
    """
    return _adams(denoise, x, levels, warm=3, slope=partial(_runge_kutta, schedule))


def lms(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """Linear multistep in sigma / alpha: the cubic through the last four eps, integrated over the step (K-LMS).

    The mean of a cubic over an interval is the mean of its values at Gauss's two points: exact, not approximate.
    """
    history: list[tuple[float, Latents]] = []  # ratio and eps, newest first
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        eps = here.eps(x, x0)
        if here.alpha > 0:
            history = [(float(here.ratio), eps), *history[:3]]
            x = move(x, _cubic_mean(history, float(here.ratio), float(there.ratio)), here, there)
        else:
            x = there.mix(x0, eps)
        yield Step(index, len(levels) - 1, there, x, x0)


def ipndm(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """Adams and Bashforth's four-step method on eps, of the order that the history allows, and x0 itself at the end.

    Zhang and Chen 2023 (iPNDM): PLMS without a warm-up.
    """
    return _adams(denoise, x, levels, warm=0, slope=_trapezium, clean=True)


def ipndm_v(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """iPNDM for uneven steps: the polynomial through the last four eps, as lms has it, and x0 itself at the end."""
    for step in lms(denoise, x, levels, noise):
        yield replace(step, x=step.x0) if step.level.sigma == 0 else step


def dpmpp_2m(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """DPM-Solver++(2M): x0 is carried on along its last change, in lambda (Lu et al. 2022, algorithm 2).

    The step into a clean level is of first order, for there lambda is infinite.
    """
    past: tuple[Level, Latents] | None = None
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        guess = x0
        if past is not None and there.sigma > 0:
            level, x0_there = past
            guess = x0 + (there.lam - here.lam) / (here.lam - level.lam) / 2 * (x0 - x0_there)
        x = there.sigma / here.sigma * x + there.alpha * (1 - there.ratio / here.ratio) * guess
        past = here, x0
        yield Step(index, len(levels) - 1, there, x, x0)


def _trapezium(denoise: Denoiser, x: Latents, eps: Latents, here: Level, there: Level) -> Latents:
    """The mean of eps here and eps there, after a step of first order: Heun's slope."""
    ahead = move(x, eps, here, there)
    return (eps + there.eps(ahead, denoise(ahead, there))) / 2


def _runge_kutta(
    schedule: NoiseSchedule, denoise: Denoiser, x: Latents, eps: Latents, here: Level, there: Level
) -> Latents:
    """Runge and Kutta's mean of four eps, two of them halfway in time (Liu et al. 2022)."""
    halfway = schedule.at(float(here.t + there.t) / 2)
    slopes = [eps]
    for level in (halfway, halfway, there):
        ahead = move(x, slopes[-1], here, level)
        slopes.append(level.eps(ahead, denoise(ahead, level)))
    return (slopes[0] + 2 * slopes[1] + 2 * slopes[2] + slopes[3]) / 6


# Weights of the method of each order, newest eps first (Hairer, Norsett and Wanner, section III.1).
ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def _adams(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    *,
    warm: int,
    slope: Callable[..., Latents],
    clean: bool = False,
) -> Iterator[Step]:
    """Adams and Bashforth's method on eps, of the order that the history allows; `slope` makes the first steps.

    clean: a step into a clean level takes x0 as it is.
    """
    history: list[Latents] = []  # newest first
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        eps = here.eps(x, x0)
        if here.alpha > 0 and not (clean and there.sigma == 0):
            history = [eps, *history[:3]]
            if len(history) <= warm and there.sigma > 0:
                mean = slope(denoise, x, eps, here, there)
            else:
                mean = weighted(ADAMS[len(history) - 1], history)
            x = move(x, mean, here, there)
        else:
            x = there.mix(x0, eps)
        yield Step(index, len(levels) - 1, there, x, x0)


def _cubic_mean(history: Sequence[tuple[float, Latents]], start: float, end: float) -> Latents:
    """The mean from start to end of the polynomial (a cubic at most) through the points of the history."""
    nodes = [node for node, _ in history]
    weights = [0.0] * len(nodes)
    for side in (-1, 1):
        place = (start + end + side * (end - start) / 3**0.5) / 2
        for i, node in enumerate(nodes):
            weights[i] += math.prod((place - other) / (node - other) for other in nodes if other != node) / 2
    return weighted(weights, [eps for _, eps in history])


@dataclass(frozen=True)
class Sampler:
    """A row of the table: a sampler, and what others need to know of it.

    walk    the generator
    grid    the grid that users of Stable Diffusion know it with (a zero-terminal schedule wants "trailing")
    order   the error falls as steps ** -order while nothing is random: as observed, which a test does; None where
            new noise cannot be left out
    calls   of the net in a step, but for the first ones
    start   `data` of NoiseSchedule.prior: 1 for unit noise, 0 for sigma * noise
    """

    walk: Callable[..., Iterator[Step]]
    grid: str
    order: float | None
    calls: int = 1
    start: float = 1.0

    @property
    def options(self) -> dict[str, float]:
        """The options that it takes, with their defaults."""
        parameters = inspect.signature(self.walk).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "schedule"}

    def __call__(
        self,
        denoise: Denoiser,
        x: Latents,
        levels: Sequence[Level],
        noise: Noise,
        *,
        schedule: NoiseSchedule | None = None,
        **options: float,
    ) -> Iterator[Step]:
        """The steps from levels[0], where x stands, to levels[-1].

        The schedule is for samplers that visit levels between those of the grid (pndm); others do without.
        Raises UserError for an option that the sampler does not take.
        """
        for name in options:
            if name not in self.options:
                takes = f"It takes: {', '.join(self.options)}." if self.options else "It has no options."
                raise UserError(f'this sampler has no option "{name}".', takes, "")
        assert len(levels) > 1, "no step between fewer than two levels"
        assert all(there.ratio < here.ratio for here, there in pairwise(levels)), "levels must fall"
        if "schedule" in inspect.signature(self.walk).parameters:
            assert schedule is not None, "this sampler visits levels between the grid's: schedule=... is missing"
            return self.walk(denoise, x, levels, noise, schedule=schedule, **options)
        return self.walk(denoise, x, levels, noise, **options)


SAMPLERS = {
    "ddim": Sampler(ddim, grid="leading", order=1),
    "plms": Sampler(plms, grid="leading", order=2),
    "pndm": Sampler(pndm, grid="leading", order=2),
    "lms": Sampler(lms, grid="linspace", order=3.5, start=0.0),
    "euler": Sampler(euler, grid="linspace", order=1, start=0.0),
    "euler_a": Sampler(euler_a, grid="linspace", order=1, start=0.0),
    "heun": Sampler(heun, grid="linspace", order=2, calls=2, start=0.0),
    "dpmpp_2m": Sampler(dpmpp_2m, grid="karras", order=2),
    "dpm_2": Sampler(dpm_2, grid="karras", order=2, calls=2, start=0.0),
    "dpm_2_a": Sampler(dpm_2_a, grid="karras", order=2, calls=2, start=0.0),
    "dpmpp_2s_a": Sampler(dpmpp_2s_a, grid="karras", order=2, calls=2, start=0.0),
    "dpmpp_sde": Sampler(dpmpp_sde, grid="karras", order=2, calls=2, start=0.0),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde, grid="karras", order=2),
    "dpmpp_2m_sde_heun": Sampler(dpmpp_2m_sde_heun, grid="karras", order=2),
    "dpmpp_3m_sde": Sampler(dpmpp_3m_sde, grid="exponential", order=2),
    "unipc": Sampler(unipc, grid="linspace", order=2.3),
    "deis": Sampler(deis, grid="linspace", order=3),
    "ipndm": Sampler(ipndm, grid="linspace", order=2, start=0.0),
    "ipndm_v": Sampler(ipndm_v, grid="linspace", order=3.5, start=0.0),
    "res_multistep": Sampler(res_multistep, grid="karras", order=2, start=0.0),
    "gradient_estimation": Sampler(gradient_estimation, grid="linspace", order=1, start=0.0),
    "er_sde": Sampler(er_sde, grid="karras", order=2, start=0.0),
    "ddpm": Sampler(ddpm, grid="leading", order=None),
    "lcm": Sampler(lcm, grid="lcm", order=None),
    "tcd": Sampler(tcd, grid="lcm", order=None),
}
