"""Linear multistep samplers on eps: the methods of Adams and Bashforth, whose history is the last eps."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from aquatint.base.noise import Noise
from aquatint.diffusion.denoisers import Denoiser
from aquatint.diffusion.schedule import Latents, Level, NoiseSchedule
from aquatint.diffusion.steps import Step, move, trapezium, weighted


def plms(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """Adams and Bashforth's four-step method on eps, begun with one step of Heun's: Stable Diffusion's first sampler.

    Liu et al. 2022 (PNDM), without its Runge-Kutta warm-up. diffusers: PNDMScheduler, skip_prk_steps True.
    """
    return _adams(denoise, x, levels, warm=1, slope=trapezium)


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
    return _adams(denoise, x, levels, warm=0, slope=trapezium, clean=True)


def ipndm_v(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """iPNDM for uneven steps: the polynomial through the last four eps, as lms has it, and x0 itself at the end."""
    for step in lms(denoise, x, levels, noise):
        yield replace(step, x=step.x0) if step.level.sigma == 0 else step


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
