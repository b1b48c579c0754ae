"""Samplers that choose their own levels between the grid's ends: restart, and DPM-Solver's own programs.

Their steps' indices rise to total - 1 as others' do, but may leave some out.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.diffusion.denoisers import Denoiser
from aquatint.diffusion.schedule import Latents, Level, NoiseSchedule
from aquatint.diffusion.steps import (
    Step,
    between,
    check_eta,
    drift,
    fresh,
    lifted,
    move,
    parted,
    renoised,
    trapezium,
)

# walk(x, start, end, calls) -> how many of the calls are done, where the path stands, what is there, and x0
Walk: TypeAlias = Callable[[Latents, Level, Level, int], Iterator[tuple[int, Level, Latents, Latents]]]

SHORTEST = 1e-4  # in lambda: a shorter step of dpm_adaptive is taken whatever its error


def restart(
    denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise, *, schedule: NoiseSchedule
) -> Iterator[Step]:
    """Heun's method that goes back up by new noise and down again, from sigma / alpha 0.1 to 2 (Xu et al. 2023).

    As A1111 spends its steps: from 20 on, nine of them go down a second time; from 36 on, two quarters go down a second
    and a third time. The rest and each descent are Karras grids between the given ends.
    """
    last: Level | None = None
    path = _restarted(schedule, levels)
    for index, (here, there) in enumerate(path):
        if last is not None and last.ratio < here.ratio:
            x = renoised(x, last, here, fresh(noise, x, index))
        x0 = denoise(x, here)
        if here.alpha > 0 and there.sigma > 0:
            x = move(x, trapezium(denoise, x, here.eps(x, x0), here, there), here, there)
        else:
            x = drift(x, x0, here, there)
        last = there
        yield Step(index, len(path), there, x, x0)


def dpm_fast(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    eta: float = 0.0,
) -> Iterator[Step]:
    """DPM-Solver-fast: steps of third order, and one of a lower order to come out even (Lu et al. 2022, section 3.4).

    Even steps in lambda down to the last noisy level, with as many calls of the net as the grid has steps; one more
    goes to a clean end.
    """
    check_eta(eta)

    def walk(x: Latents, start: Level, end: Level, calls: int) -> Iterator[tuple[int, Level, Latents, Latents]]:
        orders = [3] * (calls // 3 - 1) + [2, 1] if calls % 3 == 0 else [3] * (calls // 3) + [calls % 3]
        marks = [start, *(between(schedule, start, end, k / len(orders)) for k in range(1, len(orders))), end]
        done = 0
        for (here, there), order in zip(pairwise(marks), orders, strict=True):
            down, up = _parted(schedule, here, there, end, eta)
            x0 = denoise(x, here)
            _, x = _reached(denoise, schedule, x, here.eps(x, x0), here, down, order)
            x = lifted(x, down, there, up, fresh(noise, x, done) if up else None)
            done += order
            yield done, there, x, x0

    return _framed(denoise, x, levels, walk)


def dpm_adaptive(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    eta: float = 0.0,
    order: float = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
) -> Iterator[Step]:
    """DPM-Solver with steps as long as their error allows, as a lower order tells it (Lu et al. 2022, appendix C).

    From the grid's first level to its last noisy one, and one more call to a clean end; how many steps the grid has
    says how often it is told where the path stands, no more. rtol and atol are the error that a step may have, in units
    of x / alpha. One picture at a time, for its steps are its own.
    """
    check_eta(eta)
    if order not in (2, 3) or not (1e-5 <= rtol <= 1 and 1e-5 <= atol <= 1):
        raise UserError(
            f"order {order:g}, rtol {rtol:g}, atol {atol:g}.", "An order of 2 or 3, and errors from 1e-5 to 1.", ""
        )
    if len(x) != 1:
        raise UserError(
            f"{len(x)} pictures at once with dpm_adaptive.", "One at a time: its steps are a picture's own."
        )

    def walk(x: Latents, start: Level, end: Level, calls: int) -> Iterator[tuple[int, Level, Latents, Latents]]:
        here, length, told, tries = start, 0.05, 0, 0
        low = x / here.alpha
        while here is not end:
            far_off = float(end.lam - here.lam)
            there = end if length > far_off - 1e-5 else schedule.at_ratio(float(here.ratio) * math.exp(-length))
            down, up = _parted(schedule, here, there, end, eta)
            x0 = denoise(x, here)
            near, far = _reached(denoise, schedule, x, here.eps(x, x0), here, down, int(order))
            error = _error(near / down.alpha, far / down.alpha, low, rtol, atol)
            factor = 1 + math.atan((1 / (error + 1e-8)) ** (1 / (1.5 if eta else order)) - 1)
            if not factor < 0.81 or length < SHORTEST:  # a value that is no number goes on, for others to find
                low, here = near / down.alpha, there
                x = lifted(far, down, there, up, fresh(noise, x, tries) if up else None)
                mark = int(calls * float(here.lam - start.lam) / float(end.lam - start.lam))
                if here is end or mark > told:
                    told = calls if here is end else mark
                    yield told, here, x, x0
            length = max(length * factor, SHORTEST / 2) if math.isfinite(factor) else length
            tries += 1

    return _framed(denoise, x, levels, walk)


def _framed(denoise: Denoiser, x: Latents, levels: Sequence[Level], walk: Walk) -> Iterator[Step]:
    """A walk between the ends of a grid: the step out of pure noise before it and the one to a clean end after it."""
    total, begun = len(levels) - 1, 0
    if levels[0].alpha == 0:
        x0 = denoise(x, levels[0])
        x, begun = drift(x, x0, levels[0], levels[1]), 1
        yield Step(0, total, levels[1], x, x0)
    noisy = [level for level in levels[begun:] if level.sigma > 0]
    if begun == total:
        return
    start = x
    if len(noisy) > 1:
        for done, level, x, x0 in walk(start, noisy[0], noisy[-1], total - begun):
            if begun + done < total or levels[-1] == level:
                yield Step(begun + done - 1, total, level, x, x0)
    if levels[-1].sigma == 0:
        x0 = denoise(x, noisy[-1])
        yield Step(total - 1, total, levels[-1], drift(x, x0, noisy[-1], levels[-1]), x0)


def _reached(
    denoise: Denoiser, schedule: NoiseSchedule, x: Latents, eps: Latents, here: Level, there: Level, order: int
) -> tuple[Latents, Latents]:
    """Where DPM-Solver's steps of one order less, and of this order, lead (Lu et al. 2022, algorithms 1 and 2)."""
    flat = move(x, eps, here, there)
    if order == 1:
        return flat, flat
    level = between(schedule, here, there, 1 / order)
    ahead = move(x, eps, here, level)
    change = level.eps(ahead, denoise(ahead, level)) - eps
    if order == 2:
        return flat, move(x, eps + change, here, there)
    h = float(there.lam - here.lam)
    two = between(schedule, here, there, 2 / 3)
    ahead = move(x, eps + 2 * _lean(h * 2 / 3) * change, here, two)
    later = two.eps(ahead, denoise(ahead, two)) - eps
    return move(x, eps + 1.5 * change, here, there), move(x, eps + 1.5 * _lean(h) * later, here, there)


def _lean(h: float) -> float:
    """phi_2(h) / phi_1(h) of the exponential integrators: where the mean of a step lies, under its weight."""
    return 1 / h - 1 / math.expm1(h)


def _error(near: Latents, far: Latents, low: Latents, rtol: float, atol: float) -> float:
    """How far apart two orders are, 1 being as far as is allowed."""
    allowed = (rtol * near.abs().maximum(low.abs())).clamp(min=atol)
    return float(((near - far) / allowed).square().mean().sqrt())


def _parted(schedule: NoiseSchedule, here: Level, there: Level, end: Level, eta: float) -> tuple[Level, float]:
    """`parted`, but never below the end."""
    down, up = parted(schedule, here, there, eta)
    if not up or down.ratio >= end.ratio:
        return down, up
    return end, (float(there.ratio) ** 2 - float(end.ratio) ** 2) ** 0.5


def _restarted(schedule: NoiseSchedule, levels: Sequence[Level]) -> list[tuple[Level, Level]]:
    """restart's steps, as many as the grid has."""
    steps, head = len(levels) - 1, list(levels[:1]) if levels[0].alpha == 0 else []
    if steps < 20:
        return list(pairwise(levels))
    again, times = (9, 1) if steps < 36 else (steps // 4, 2)
    noisy = [level for level in levels[len(head) :] if level.sigma > 0]
    tail = [levels[-1]] if levels[-1].sigma == 0 else []
    count = steps - again * times + 1 - len(head) - len(tail)
    path = _karras(schedule, noisy[0], noisy[-1], count)
    low = min(range(len(path)), key=lambda k: abs(float(path[k].ratio) - 0.1))
    high = min(range(len(path)), key=lambda k: abs(float(path[k].ratio) - 2))
    if high >= low:
        return list(pairwise(levels))
    descent = list(pairwise(_karras(schedule, path[high], path[low], again + 1)))
    return [*pairwise([*head, *path[: low + 1]]), *(descent * times), *pairwise([*path[low:], *tail])]


def _karras(schedule: NoiseSchedule, start: Level, end: Level, count: int) -> list[Level]:
    """The Karras grid between two levels, both included (Karras et al. 2022, eq. 5)."""
    high, low = float(start.ratio) ** (1 / 7), float(end.ratio) ** (1 / 7)
    inner = [schedule.at_ratio((high + k / (count - 1) * (low - high)) ** 7) for k in range(1, count - 1)]
    return [start, *inner, end]
