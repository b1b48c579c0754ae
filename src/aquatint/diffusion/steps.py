"""What samplers are made of: the step that they yield, and the few moves that their methods share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.base.noise import STEP, Noise
from aquatint.diffusion.denoisers import Denoiser
from aquatint.diffusion.schedule import Latents, Level, NoiseSchedule


@dataclass(frozen=True, slots=True)
class Step:
    """What a sampler yields after each step.

    index, total  the step that was made, 0 .. total - 1
    level, x      where the path stands now, and what is there
    x0            the clean picture as the denoiser last saw it: a preview
    """

    index: int
    total: int
    level: Level
    x: Latents
    x0: Latents


def move(x: Latents, eps: Latents, here: Level, there: Level) -> Latents:
    """x brought from one level to another along a given eps (DDIM's step; the transfer part of Liu et al. 2022)."""
    return there.mix((x - here.sigma * eps) / here.alpha, eps)


def drift(x: Latents, x0: Latents, here: Level, there: Level) -> Latents:
    """x brought from one level to another toward a given x0: what `move` does along eps.

    The exact solution in lambda for a constant x0 (Lu et al. 2022, DPM-Solver++, eq. 9); pure noise is a place to
    start from.
    """
    return there.sigma / here.sigma * x + there.alpha * (1 - there.ratio / here.ratio) * x0


def weighted(weights: Sequence[float], values: Sequence[Latents]) -> Latents:
    """The sum of weight * value, one by one: a reduction's order may change with the batch, and a picture with it."""
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total + weight * value
    return total


def between(schedule: NoiseSchedule, here: Level, there: Level, part: float = 0.5) -> Level:
    """The level at a part of the way from here to there in lambda."""
    return schedule.at_ratio(float(here.ratio) ** (1 - part) * float(there.ratio) ** part)


def fresh(noise: Noise, x: Latents, index: int, draw: int = STEP) -> Latents:
    """New noise for a step, in x's precision."""
    return noise.normal(tuple(x.shape[1:]), step=index, draw=draw, device=x.device).to(x.dtype)


def along(noise: Noise, x: Latents, index: int, here: Level, there: Level, draw: int = STEP) -> Latents:
    """New noise for the way between two levels, in x's precision: a piece of one path where the noise is a path's."""
    start, goal = float(here.ratio), float(there.ratio)
    return noise.change(tuple(x.shape[1:]), start, goal, step=index, draw=draw, device=x.device).to(x.dtype)


def parted(schedule: NoiseSchedule, here: Level, there: Level, eta: float) -> tuple[Level, float]:
    """An ancestral step in two: the level below `there` that an ODE's step goes to, and the new noise that lifts it.

    In sigma / alpha: up = eta * sqrt(r'^2 (r^2 - r'^2) / r^2), down = sqrt(r'^2 - up^2) (k-diffusion, after Song et al.
    2021); x' = alpha' * (x_down / alpha_down + up * z).
    """
    start, end = float(here.ratio), float(there.ratio)
    up = min(end, eta * end * (1 - (end / start) ** 2) ** 0.5)
    return (schedule.at_ratio((end**2 - up**2) ** 0.5) if up else there), up


def lifted(x: Latents, down: Level, there: Level, up: float, z: Latents | None) -> Latents:
    """The second part of an ancestral step: x from the level below to `there`, by new noise z."""
    return x if z is None or not up else there.alpha * (x / down.alpha + up * z)


def check_eta(eta: float) -> None:
    """UserError for a share of new noise that is none."""
    if not 0 <= eta <= 1:
        raise UserError(f"eta {eta}.", "It takes 0 (none of the noise is new) to 1.", "")


def churned(
    schedule: NoiseSchedule | None,
    x: Latents,
    here: Level,
    noise: Noise,
    index: int,
    total: int,
    s_churn: float,
    s_tmin: float,
    s_tmax: float,
) -> tuple[Latents, Level]:
    """x lifted to a higher level by new noise before a step (Karras et al. 2022, algorithm 2, lines 4 to 6).

    By s_churn / total of sigma / alpha, and 41 % at most, where that is between s_tmin and s_tmax.
    """
    if not s_churn >= 0:
        raise UserError(f"s_churn {s_churn}.", "It takes 0 (no new noise) or more.", "")
    ratio = float(here.ratio)
    if s_churn == 0 or ratio == math.inf or not s_tmin <= ratio <= s_tmax:
        return x, here
    assert schedule is not None, "churn visits levels between the grid's: schedule=... is missing"
    there = schedule.at_ratio(ratio * (1 + min(s_churn / total, 2**0.5 - 1)))
    return renoised(x, here, there, fresh(noise, x, index)), there


def renoised(x: Latents, here: Level, there: Level, z: Latents) -> Latents:
    """x brought to a higher level by new noise z."""
    return there.alpha * (x / here.alpha + (float(there.ratio) ** 2 - float(here.ratio) ** 2) ** 0.5 * z)


def trapezium(denoise: Denoiser, x: Latents, eps: Latents, here: Level, there: Level) -> Latents:
    """The mean of eps here and eps there, after a step of first order: Heun's slope."""
    ahead = move(x, eps, here, there)
    return (eps + there.eps(ahead, denoise(ahead, there))) / 2


def solved(rows: list[list[float]]) -> list[float]:
    """The solution of a small linear system, a row each with its right side last (Gauss, with pivoting)."""
    size = len(rows)
    for column in range(size):
        best = max(range(column, size), key=lambda row: abs(rows[row][column]))
        rows[column], rows[best] = rows[best], rows[column]
        for row in range(size):
            if row != column:
                factor = rows[row][column] / rows[column][column]
                rows[row] = [a - factor * b for a, b in zip(rows[row], rows[column], strict=True)]
    return [rows[row][-1] / rows[row][row] for row in range(size)]


class Louder(Noise):
    """Another noise, its normal deviates times a factor (s_noise: Karras et al. 2022, algorithm 2)."""

    def __init__(self, noise: Noise, factor: float) -> None:
        if not 0 <= factor < math.inf:
            raise UserError(f"s_noise {factor}.", "It takes 0 or more; 1 is as much noise as the method asks for.", "")
        super().__init__(noise.seeds, noise.pictures)
        self.noise, self.factor = noise, factor

    def __getitem__(self, rows: slice) -> "Louder":
        return Louder(self.noise[rows], self.factor)

    def normal(
        self, shape: tuple[int, ...], *, step: int = 0, draw: int = 0, device: torch.device | str | None = None
    ) -> Tensor:
        """Normal deviates of that spread, float32 [b, *shape]."""
        return self.factor * self.noise.normal(shape, step=step, draw=draw, device=device)

    def over(self, low: float, high: float) -> "Louder":
        """The noise of a walk between these ratios."""
        return Louder(self.noise.over(low, high), self.factor)

    def change(
        self,
        shape: tuple[int, ...],
        start: float,
        goal: float,
        *,
        step: int = 0,
        draw: int = 0,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A path's change, that much larger."""
        return self.factor * self.noise.change(shape, start, goal, step=step, draw=draw, device=device)
