"""What samplers are made of: the step that they yield, and the few moves that their methods share."""

from collections.abc import Sequence
from dataclasses import dataclass

from aquatint.base.noise import STEP, Noise
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
