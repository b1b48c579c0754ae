"""SA-Solver: Adams methods for the reverse SDE, a predictor and a corrector (Xue et al. 2023)."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.diffusion.denoisers import Denoiser
from aquatint.diffusion.schedule import Latents, Level, NoiseSchedule
from aquatint.diffusion.steps import Step, check_eta, drift, fresh, solved, weighted


def sa_solver(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    eta: float = 1.0,
    sde_start: float = 0.2,
    sde_end: float = 0.8,
    predictor_order: float = 3,
    corrector_order: float = 4,
) -> Iterator[Step]:
    """Predict, evaluate, correct. eta (the paper's tau) is how much noise is new in the steps that end between the
    shares sde_start and sde_end of the schedule, counted from the noisy end; elsewhere the path is the ODE's.

    Orders are reached step by step, and left again before a clean end.
    """
    return _walk(
        denoise, x, levels, noise, schedule, eta, (sde_start, sde_end), (predictor_order, corrector_order), pece=False
    )


def sa_solver_pece(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    eta: float = 1.0,
    sde_start: float = 0.2,
    sde_end: float = 0.8,
    predictor_order: float = 3,
    corrector_order: float = 4,
) -> Iterator[Step]:
    """sa_solver that asks once more after each correction: predict, evaluate, correct, evaluate."""
    return _walk(
        denoise, x, levels, noise, schedule, eta, (sde_start, sde_end), (predictor_order, corrector_order), pece=True
    )


def _walk(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    schedule: NoiseSchedule,
    eta: float,
    noisy: tuple[float, float],
    orders: tuple[float, float],
    *,
    pece: bool,
) -> Iterator[Step]:
    check_eta(eta)
    if orders[0] not in (1, 2, 3, 4) or orders[1] not in (0, 1, 2, 3, 4) or not 0 <= noisy[0] <= noisy[1] <= 1:
        raise UserError(
            f"predictor_order {orders[0]:g}, corrector_order {orders[1]:g}, noise from {noisy[0]:g} to {noisy[1]:g}.",
            "Orders of 1 to 4 (a corrector's 0 is none), and shares of the schedule, 0 to 1.",
            "",
        )
    high, low = (float(schedule.at((1 - share) * schedule.last).ratio) for share in noisy)
    total, left = len(levels) - 1, 0 if levels[-1].sigma == 0 else len(levels)
    history: list[tuple[float, Latents]] = []  # lambda and x0, newest first
    before: tuple[Level, Latents, float, Latents | None] | None = None  # whence the last step came, tau and its noise
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        if before is not None and orders[1] and (pece or there.sigma > 0):
            level, start, tau, new = before
            past = [(float(here.lam), x0), *history][: min(int(orders[1]), left + total - index)]
            x = _added(_mean(start, level, here, past, tau), new)
            x0 = denoise(x, here) if pece else x0
        history = [(float(here.lam), x0), *history[:3]] if here.alpha > 0 else []
        if not history or there.sigma == 0:
            before, x = None, drift(x, x0, here, there)
        else:
            tau = eta if low <= there.ratio <= high else 0.0
            new = there.sigma * _share(here, there, tau) * fresh(noise, x, index) if tau else None
            before = here, x, tau, new
            past = history[: min(int(orders[0]), left + total - 1 - index)]
            x = _added(_mean(x, here, there, past, tau), new)
        yield Step(index, total, there, x, x0)


def _mean(x: Latents, here: Level, there: Level, past: Sequence[tuple[float, Latents]], tau: float) -> Latents:
    """The step without its noise: the polynomial through past x0 under the SDE's weight (the paper's eq. 14).

    With u = l - lambda from 0 to h and a = 1 + tau^2, the shares give each power of u its integral, weighed by
    a exp(a (u - h)).
    """
    a, h, q = 1 + tau**2, float(there.lam - here.lam), float(there.ratio) / float(here.ratio)
    nodes = [(lam - float(here.lam)) / h for lam, _ in past]
    moments = [1 - q**a]
    for k in range(1, len(nodes)):
        moments.append(1 - k / (a * h) * moments[-1])
    shares = solved([[node**k for node in nodes] + [moment] for k, moment in enumerate(moments)])
    pulled = weighted(shares, [x0 for _, x0 in past])
    return there.sigma / here.sigma * q ** (tau**2) * x + there.alpha * pulled


def _share(here: Level, there: Level, tau: float) -> float:
    """The new part of the noise at the end of a step."""
    return math.sqrt(1 - (float(there.ratio) / float(here.ratio)) ** (2 * tau**2))


def _added(x: Latents, new: Latents | None) -> Latents:
    return x if new is None else x + new
