"""Samplers of second order with a point between two levels, and those that renew part of the noise at every step."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from aquatint.base.errors import UserError
from aquatint.base.noise import MIDSTEP, STEP, Noise
from aquatint.diffusion.denoisers import Denoiser
from aquatint.diffusion.schedule import Latents, Level, NoiseSchedule
from aquatint.diffusion.steps import Step, along, between, check_eta, churned, drift, fresh, lifted, move, parted


def dpm_2(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
) -> Iterator[Step]:
    """The midpoint rule, with the midpoint in log(sigma / alpha): Karras et al. 2022's second-order step (DPM2).

    A1111 and ComfyUI leave out the grid's last noisy level with it: the option discard of a grid (docs/samplers.md).
    """
    total = len(levels) - 1
    for index, (level, there) in enumerate(pairwise(levels)):
        x, here = churned(schedule, x, level, noise, index, total, s_churn, s_tmin, s_tmax)
        x0, x = _midpoint(denoise, schedule, x, here, there)
        yield Step(index, total, there, x, x0)


def dpm_2_a(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    eta: float = 1.0,
) -> Iterator[Step]:
    """DPM2 down to a level below the next, and new noise up to it (k-diffusion's ancestral DPM2)."""
    check_eta(eta)
    for index, (here, there) in enumerate(pairwise(levels)):
        down, up = parted(schedule, here, there, eta)
        x0, x = _midpoint(denoise, schedule, x, here, down)
        x = lifted(x, down, there, up, fresh(noise, x, index) if up else None)
        yield Step(index, len(levels) - 1, there, x, x0)


def dpmpp_2s_a(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    eta: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver++(2S), ancestral: x0 from halfway in lambda carries the whole step (Lu et al. 2022, algorithm 1)."""
    check_eta(eta)
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = guess = denoise(x, here)
        down, up = parted(schedule, here, there, eta)
        if here.alpha > 0 and down.sigma > 0:
            middle = between(schedule, here, down)
            guess = denoise(drift(x, x0, here, middle), middle)
        x = drift(x, guess, here, down)
        x = lifted(x, down, there, up, fresh(noise, x, index) if up else None)
        yield Step(index, len(levels) - 1, there, x, x0)


def dpmpp_sde(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    eta: float = 1.0,
    r: float = 0.5,
) -> Iterator[Step]:
    """DPM-Solver++ for the reverse SDE with a point at the part r of the step in lambda (k-diffusion's DPM++ SDE).

    The new noise up to the point between and up to the step's end is one Brownian path over sigma / alpha: its second
    piece is a draw of its own, MIDSTEP, and not seen before.
    """
    check_eta(eta)
    if not 0 < r < 1:
        raise UserError(f"r {r}.", "It takes a share of the step, between 0 and 1.", "")
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        down, up = parted(schedule, here, there, eta)
        if here.alpha == 0 or there.sigma == 0:
            x = drift(x, x0, here, down)
            x = lifted(x, down, there, up, fresh(noise, x, index) if up else None)
            yield Step(index, len(levels) - 1, there, x, x0)
            continue
        middle = between(schedule, here, there, r)
        first, rise = parted(schedule, here, middle, eta)
        z = whole = along(noise, x, index, here, middle) if up else None
        ahead = lifted(drift(x, x0, here, first), first, middle, rise, z)
        guess = (1 - 0.5 / r) * x0 + 0.5 / r * denoise(ahead, middle)
        if z is not None:
            part = float((here.ratio - middle.ratio) / (here.ratio - there.ratio))
            whole = part**0.5 * z + (1 - part) ** 0.5 * along(noise, x, index, middle, there, MIDSTEP)
        x = lifted(drift(x, guess, here, down), down, there, up, whole)
        yield Step(index, len(levels) - 1, there, x, x0)


def lcm(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """x' = alpha' x0 + sigma' z: to the clean picture at once, then new noise (consistency sampling, Song et al. 2023).

    For nets that were distilled to jump: latent consistency models (Luo et al. 2023), Turbo.
    """
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        x = there.mix(x0, fresh(noise, x, index)) if there.sigma > 0 else x0
        yield Step(index, len(levels) - 1, there, x, x0)


def tcd(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    gamma: float = 0.3,
) -> Iterator[Step]:
    """Strategic stochastic sampling: DDIM down to time (1 - gamma) t', then noise up to t' (Zheng et al. 2024, TCD).

    gamma 0 adds no noise, 1 comes down to the clean picture. The time between is whole, as in the paper's code.
    """
    if not 0 <= gamma <= 1:
        raise UserError(f"gamma {gamma}.", "It takes 0 (no new noise) to 1.", "")
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        below = schedule.at(int((1 - gamma) * float(there.t))) if there.sigma > 0 else there
        x = below.mix(x0, here.eps(x, x0))
        kept = float(there.alpha / below.alpha)
        if kept < 1:
            x = kept * x + (1 - kept**2) ** 0.5 * fresh(noise, x, index, STEP)
        yield Step(index, len(levels) - 1, there, x, x0)


def _midpoint(
    denoise: Denoiser, schedule: NoiseSchedule, x: Latents, here: Level, there: Level
) -> tuple[Latents, Latents]:
    """x0 here, and x brought there along the eps from halfway."""
    x0 = denoise(x, here)
    if here.alpha == 0 or there.sigma == 0:
        return x0, drift(x, x0, here, there)
    middle = between(schedule, here, there)
    ahead = drift(x, x0, here, middle)
    return x0, move(x, middle.eps(ahead, denoise(ahead, middle)), here, there)
