"""Multistep samplers of the reverse SDE: x0 carried on along its past changes, and new noise at every step.

With h = lambda' - lambda and q = exp(-h) = ratio' / ratio, a step of the SDE whose noise is eta new has the exact part

    x' = sigma' / sigma * q^eta * x + alpha' * (1 - q^(1 + eta)) * x0 + sigma' * sqrt(1 - q^(2 eta)) * z

(Lu et al. 2022, DPM-Solver++, eq. 18, for eta = 1; with eta = 0 it is the ODE's). q is 0 from pure noise and into the
clean level, where nothing but x0 is left. What the methods add are terms in the changes of x0.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from aquatint.base.noise import Noise
from aquatint.diffusion.denoisers import Denoiser
from aquatint.diffusion.schedule import Latents, Level
from aquatint.diffusion.steps import Step, along, check_eta, drift, fresh

POINTS = 200  # of the midpoint rule in er_sde's integrals


def dpmpp_2m_sde(
    denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise, *, eta: float = 1.0
) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M): x0 as it will be halfway, by its last change (Lu et al. 2022)."""
    return _second_order(denoise, x, levels, noise, eta, lambda h: (1 - math.exp(-h)) / 2)


def dpmpp_2m_sde_heun(
    denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise, *, eta: float = 1.0
) -> Iterator[Step]:
    """The same with the change of x0 integrated over the step exactly (k-diffusion's solver type "heun")."""
    return _second_order(denoise, x, levels, noise, eta, lambda h: 1 - (1 - math.exp(-h)) / h)


def res_multistep(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """The exponential multistep method of second order (Zhang et al. 2023, RES): dpmpp_2m_sde_heun as an ODE's."""
    return dpmpp_2m_sde_heun(denoise, x, levels, noise, eta=0.0)


def dpmpp_3m_sde(
    denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise, *, eta: float = 1.0
) -> Iterator[Step]:
    """SDE-DPM-Solver++(3M): the parabola in lambda through the last three x0, its square term halved.

    So it is published and used (k-diffusion; diffusers for the ODE), and so pictures are repeated; the halved term
    leaves it a method of second order.
    """
    history: list[tuple[float, Latents]] = []  # lambda and x0, newest first
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        history = [(float(here.lam), x0), *history[:2]] if here.alpha > 0 else []
        last = x
        x = _exact(x, x0, here, there, eta)
        if len(history) > 1 and there.sigma > 0:
            length = float(there.lam - here.lam)
            h = (1 + eta) * length
            first, second = _changes(history, length)
            once = 1 - (1 - math.exp(-h)) / h
            x = x + there.alpha * once * first
            if second is not None:
                x = x - there.alpha * (once / h - 0.5) * second
        x = _renewed(x, last, here, there, eta, noise, index)
        yield Step(index, len(levels) - 1, there, x, x0)


def er_sde(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise, *, eta: float = 1.0) -> Iterator[Step]:
    """The extended reverse-time SDE's third-order solver (Cui et al. 2023, ER-SDE-Solver-3).

    Noise is scaled by phi(r) = r (exp(r^0.3) + 10)^eta, the paper's choice at eta = 1; at 0 it is the ODE's. Its
    integrals of 1 / phi are taken by the midpoint rule.
    """
    check_eta(eta)

    def phi(r: float) -> float:
        return r * (math.exp(r**0.3) + 10) ** eta

    history: list[tuple[float, Latents, Latents | None]] = []  # ratio, x0 and its change, newest first
    for index, (here, there) in enumerate(pairwise(levels)):
        x0, start, goal = denoise(x, here), float(here.ratio), float(there.ratio)
        if there.sigma == 0 or here.alpha == 0:
            x = drift(x, x0, here, there)
            history = [(start, x0, None)] if here.alpha > 0 else []
            yield Step(index, len(levels) - 1, there, x, x0)
            continue
        kept, width = phi(goal) / phi(start), goal - start
        x = there.alpha * (kept / here.alpha * x + (1 - kept) * x0)
        change = None
        if history:
            places = [goal - (k + 0.5) / POINTS * width for k in range(POINTS)]
            share = -width / POINTS * phi(goal)
            change = (x0 - history[0][1]) / (start - history[0][0])
            x = x + there.alpha * (width + share * math.fsum(1 / phi(r) for r in places)) * change
            if history[0][2] is not None:
                bend = (change - history[0][2]) / ((start - history[1][0]) / 2)
                moment = math.fsum((r - start) / phi(r) for r in places)
                x = x + there.alpha * (width**2 / 2 + share * moment) * bend
        new = goal**2 - (start * kept) ** 2
        if eta > 0 and new > 0:
            x = x + there.alpha * new**0.5 * fresh(noise, x, index)
        history = [(start, x0, change), *history[:1]]
        yield Step(index, len(levels) - 1, there, x, x0)


def _second_order(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    eta: float,
    factor: Callable[[float], float],
) -> Iterator[Step]:
    """The exact part, and factor((1 + eta) h) times the change of x0 that one step of length h would bring."""
    past: tuple[float, Latents] | None = None
    for index, (here, there) in enumerate(pairwise(levels)):
        x0, last = denoise(x, here), x
        x = _exact(x, x0, here, there, eta)
        if past is not None and there.sigma > 0:
            h, before = float(there.lam - here.lam), float(here.lam) - past[0]
            x = x + there.alpha * factor((1 + eta) * h) * h / before * (x0 - past[1])
        x = _renewed(x, last, here, there, eta, noise, index)
        past = (float(here.lam), x0) if here.alpha > 0 else None
        yield Step(index, len(levels) - 1, there, x, x0)


def _exact(x: Latents, x0: Latents, here: Level, there: Level, eta: float) -> Latents:
    """The mean of an SDE's step with x0 held: see the head of this file."""
    check_eta(eta)
    q = there.ratio / here.ratio
    return there.sigma / here.sigma * q**eta * x + there.alpha * (1 - q ** (1 + eta)) * x0


def _renewed(x: Latents, last: Latents, here: Level, there: Level, eta: float, noise: Noise, index: int) -> Latents:
    """With the step's new noise."""
    q = there.ratio / here.ratio
    if eta == 0 or there.sigma == 0:
        return x
    return x + there.sigma * (1 - q ** (2 * eta)) ** 0.5 * along(noise, last, index, here, there)


def _changes(history: Sequence[tuple[float, Latents]], h: float) -> tuple[Latents, Latents | None]:
    """The first and second change of x0 a step of length h, by the line or parabola through the history."""
    (lam0, x0), (lam1, x1), *older = history
    first = (x0 - x1) * (h / (lam0 - lam1))
    if not older:
        return first, None
    lam2, x2 = older[0]
    near, far = (lam0 - lam1) / h, (lam1 - lam2) / h
    second = (first - (x1 - x2) / far) / (near + far)
    return first + near * second, second
