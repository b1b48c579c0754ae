"""Single-step exponential samplers of the reverse SDE: x0 is asked for at levels within the step, none is remembered.

Gonzalez et al. 2023 (SEEDS), for x0. With h = lambda' - lambda and a = 1 + eta, the step's exact part is that of
stochastic.py; x0 within the step is the polynomial through what was asked, weighed by exp(-a (lambda' - l)).
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from aquatint.base.errors import UserError
from aquatint.base.noise import LATE, MIDSTEP, STEP, Noise
from aquatint.diffusion.denoisers import Denoiser
from aquatint.diffusion.schedule import Latents, Level, NoiseSchedule
from aquatint.diffusion.steps import Step, between, check_eta, drift, fresh, weighted


def seeds_2(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    eta: float = 1.0,
    r: float = 0.5,
    phi: float = 1,
) -> Iterator[Step]:
    """SEEDS-2: a second x0 at the part r of the step in lambda; without noise it is DPM-Solver++(2S).

    phi says how the two are weighed: 1 as a straight line's middle, 2 by the line's own integral (ComfyUI's phi_1 and
    phi_2).
    """
    check_eta(eta)
    if not 0 < r <= 1 or phi not in (1, 2):
        raise UserError(f"r {r:g}, phi {phi:g}.", "An r above 0 up to 1, and phi 1 or 2.", "")
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        if here.alpha == 0 or there.sigma == 0:
            x = drift(x, x0, here, there)
        else:
            middle = between(schedule, here, there, r) if r < 1 else there
            new = _Path(noise, index, eta)
            ahead = _step(x, here, middle, eta, (1.0,), (x0,))
            other = denoise(new.added(ahead, here, middle, STEP), middle)
            late = 1 / (2 * r) if phi == 1 else _second(here, there, eta) / r
            x = _step(x, here, there, eta, (1 - late, late), (x0, other))
            x = new.added(x, middle, there, MIDSTEP)
        yield Step(index, len(levels) - 1, there, x, x0)


def seeds_3(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    eta: float = 1.0,
) -> Iterator[Step]:
    """SEEDS-3: two more x0, at a third and at two thirds of the step in lambda."""
    check_eta(eta)
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        if here.alpha == 0 or there.sigma == 0:
            x = drift(x, x0, here, there)
        else:
            one, two = (between(schedule, here, there, part) for part in (1 / 3, 2 / 3))
            new = _Path(noise, index, eta)
            ahead = _step(x, here, one, eta, (1.0,), (x0,))
            second = denoise(new.added(ahead, here, one, STEP), one)
            late = 2 * _second(here, two, eta)
            ahead = _step(x, here, two, eta, (1 - late, late), (x0, second))
            third = denoise(new.added(ahead, one, two, MIDSTEP), two)
            late = 1.5 * _second(here, there, eta)
            x = _step(x, here, there, eta, (1 - late, late), (x0, third))
            x = new.added(x, two, there, LATE)
        yield Step(index, len(levels) - 1, there, x, x0)


class _Path:
    """The new noise of one step, as one path: each part of the step has a draw of its own."""

    def __init__(self, noise: Noise, index: int, eta: float) -> None:
        self.noise, self.index, self.eta = noise, index, eta
        self.so_far: Latents | None = None  # in units of sigma at the level that was reached

    def added(self, x: Latents, here: Level, there: Level, draw: int) -> Latents:
        """x at `there` with the path's noise, which has now gone on from `here`."""
        kept = (float(there.ratio) / float(here.ratio)) ** self.eta
        if kept < 1:
            part = (1 - kept**2) ** 0.5 * fresh(self.noise, x, self.index, draw)
            self.so_far = part if self.so_far is None else kept * self.so_far + part
        return x if self.so_far is None else x + there.sigma * self.so_far


def _step(
    x: Latents, here: Level, there: Level, eta: float, weights: Sequence[float], values: Sequence[Latents]
) -> Latents:
    """The mean of an SDE's step toward a weighted mean of x0."""
    q = float(there.ratio) / float(here.ratio)
    return there.sigma / here.sigma * q**eta * x + there.alpha * (1 - q ** (1 + eta)) * weighted(weights, values)


def _second(here: Level, there: Level, eta: float) -> float:
    """The mean place within the step under its weight: h phi_2(-a h) / phi_1(-a h), 1/2 if the step is small."""
    length = (1 + eta) * float(there.lam - here.lam)
    return 1 / -math.expm1(-length) - 1 / length
