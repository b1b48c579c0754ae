"""CFG++ (Chung et al. 2024): the picture is the guided one, but the noise that it keeps is the negative's.

Each moves x' = alpha' x0 + sigma' eps with eps from the negative's own x0, so that guidance never leaves the paths that
the net has learned. Guidance is then a share: 0 to 1, where 0.6 is about what 7.5 is elsewhere. The samplers are walked
with a Pair, (x, level) -> (x0, the negative's x0); where the two are alike each is its namesake without "_cfg_pp".
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.diffusion.denoisers import Denoiser, Pair, alike
from aquatint.diffusion.schedule import Latents, Level, NoiseSchedule
from aquatint.diffusion.steps import Step, between, check_eta, drift, fresh, lifted, move, parted

SHARE = 12.5  # what A1111 divides guidance by for DDIM CFG++, to keep the scale that people know


def ddim_cfg_pp(
    denoise: Pair, x: Latents, levels: Sequence[Level], noise: Noise, *, eta: float = 0.0
) -> Iterator[Step]:
    """DDIM with CFG++: x' = alpha' x0 + sqrt(sigma'^2 - new^2) eps_away + new z (A1111's "DDIM CFG++")."""
    check_eta(eta)
    for index, (here, there) in enumerate(pairwise(levels)):
        x0, away = denoise(x, here)
        eps = here.eps(x, away)
        kept = (there.sigma * here.alpha) / (there.alpha * here.sigma)
        new = eta * there.sigma * (1 - kept**2) ** 0.5
        x = there.alpha * x0 + (there.sigma**2 - new**2) ** 0.5 * eps
        if new > 0:
            x = x + new * fresh(noise, x, index)
        yield Step(index, len(levels) - 1, there, x, x0)


def euler_cfg_pp(denoise: Pair, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """Euler with CFG++: DDIM's step, exactly."""
    return ddim_cfg_pp(denoise, x, levels, noise)


def euler_a_cfg_pp(
    denoise: Pair, x: Latents, levels: Sequence[Level], noise: Noise, *, eta: float = 1.0
) -> Iterator[Step]:
    """Ancestral Euler with CFG++: DDIM's step with eta = 1, exactly."""
    return ddim_cfg_pp(denoise, x, levels, noise, eta=eta)


def dpmpp_2m_cfg_pp(denoise: Pair, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """DPM-Solver++(2M) with CFG++: the change of x0 is measured from the negative's last one."""
    past: tuple[Level, Latents] | None = None
    for index, (here, there) in enumerate(pairwise(levels)):
        x0, away = denoise(x, here)
        x = drift(x, away, here, there) + there.alpha * (x0 - away)
        if past is not None and there.sigma > 0:
            level, before = past
            lean = float((there.lam - here.lam) / (here.lam - level.lam)) / 2
            x = x + there.alpha * (1 - there.ratio / here.ratio) * lean * (x0 - before)
        past = (here, away) if here.alpha > 0 else None
        yield Step(index, len(levels) - 1, there, x, x0)


def dpmpp_2s_a_cfg_pp(
    denoise: Pair,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    eta: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver++(2S), ancestral, with CFG++: the negative's path, and what guidance adds at its beginning."""
    check_eta(eta)
    for index, (here, there) in enumerate(pairwise(levels)):
        x0, away = denoise(x, here)
        guess = away
        down, up = parted(schedule, here, there, eta)
        if here.alpha > 0 and down.sigma > 0:
            middle = between(schedule, here, down)
            _, guess = denoise(drift(x, away, here, middle), middle)
        x = drift(x, guess, here, down)
        x = lifted(x, down, there, up, fresh(noise, x, index) if up else None) + there.alpha * (x0 - away)
        yield Step(index, len(levels) - 1, there, x, x0)


def res_multistep_a_cfg_pp(
    denoise: Pair,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    eta: float = 1.0,
) -> Iterator[Step]:
    """The exponential multistep method of second order (Zhang et al. 2023, RES), ancestral, with CFG++.

    The change of x0 is that of the last step down: from its beginning to the level below the next, where its new noise
    set in.
    """
    check_eta(eta)
    past: tuple[float, Latents] | None = None  # how long the last step down was in lambda, and the negative's x0
    for index, (here, there) in enumerate(pairwise(levels)):
        x0, away = denoise(x, here)
        down, up = parted(schedule, here, there, eta)
        pull = x0 - away
        last = x
        if past is None or down.sigma == 0 or here.alpha == 0:
            x = down.mix(x0, here.eps(last, away))
        else:
            length, before = past
            h = float(down.lam - here.lam)
            x = drift(last + here.alpha * pull, away, here, down)
            x = x + down.alpha * (1 + math.expm1(-h) / h) * (h / length) * (away - before)
        past = (float(down.lam - here.lam), away) if here.alpha > 0 and down.sigma > 0 else None
        x = lifted(x, down, there, up, fresh(noise, x, index) if up else None)
        yield Step(index, len(levels) - 1, there, x, x0)


def res_multistep_cfg_pp(
    denoise: Pair, x: Latents, levels: Sequence[Level], noise: Noise, *, schedule: NoiseSchedule
) -> Iterator[Step]:
    """The exponential multistep method of second order with CFG++."""
    return res_multistep_a_cfg_pp(denoise, x, levels, noise, schedule=schedule, eta=0.0)


def res_multistep_a(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule,
    eta: float = 1.0,
) -> Iterator[Step]:
    """The exponential multistep method of second order (Zhang et al. 2023, RES), ancestral."""
    return res_multistep_a_cfg_pp(alike(denoise), x, levels, noise, schedule=schedule, eta=eta)


def gradient_estimation_cfg_pp(
    denoise: Pair, x: Latents, levels: Sequence[Level], noise: Noise, *, gamma: float = 2.0
) -> Iterator[Step]:
    """gradient_estimation with CFG++: eps, before and now, is the negative's."""
    if not 0 <= gamma <= 10:
        raise UserError(f"gamma {gamma}.", "It takes 0 to 10; 2 is the paper's.", "")
    past: Latents | None = None
    for index, (here, there) in enumerate(pairwise(levels)):
        x0, away = denoise(x, here)
        eps = here.eps(x, away)
        start = x + here.alpha * (x0 - away)
        if past is None or there.sigma == 0:
            x = there.mix(x0, eps)
        else:
            lean = (gamma - 1) * (eps - past)
            x = move(start, eps, here, there) + there.alpha * float(there.ratio - here.ratio) * lean
        past = eps if here.alpha > 0 else None
        yield Step(index, len(levels) - 1, there, x, x0)
