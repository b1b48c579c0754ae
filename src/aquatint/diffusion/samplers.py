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
from dataclasses import dataclass
from itertools import pairwise

from aquatint.base.errors import UserError
from aquatint.base.noise import STEP, Noise
from aquatint.diffusion.adams import ipndm, ipndm_v, lms, plms, pndm
from aquatint.diffusion.ancestral import dpm_2, dpm_2_a, dpmpp_2s_a, dpmpp_sde, lcm, tcd
from aquatint.diffusion.cfg_pp import (
    ddim_cfg_pp,
    dpmpp_2m_cfg_pp,
    dpmpp_2s_a_cfg_pp,
    euler_a_cfg_pp,
    euler_cfg_pp,
    gradient_estimation_cfg_pp,
    res_multistep_a,
    res_multistep_a_cfg_pp,
    res_multistep_cfg_pp,
)
from aquatint.diffusion.denoisers import Denoiser, Pair, alike
from aquatint.diffusion.free import dpm_adaptive, dpm_fast, restart
from aquatint.diffusion.multistep import deis, gradient_estimation, unipc
from aquatint.diffusion.schedule import Latents, Level, NoiseSchedule
from aquatint.diffusion.seeds import seeds_2, seeds_3
from aquatint.diffusion.steps import Louder, Step, check_eta, churned, move, trapezium, weighted
from aquatint.diffusion.stochastic import dpmpp_2m_sde, dpmpp_2m_sde_heun, dpmpp_3m_sde, er_sde, res_multistep
from aquatint.diffusion.stochastic_adams import sa_solver, sa_solver_pece


def ddim(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise, *, eta: float = 0.0) -> Iterator[Step]:
    """x' = alpha' x0 + sqrt(sigma'^2 - fresh^2) eps + fresh z, with z new noise (Song et al. 2021, eq. 12 and 16).

    eta in 0 .. 1 is how much of the noise is new: 0 makes the path an ODE's, 1 is the ancestral sampler.
    """
    check_eta(eta)
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here)
        eps = here.eps(x, x0)
        kept = (there.sigma * here.alpha) / (there.alpha * here.sigma)
        fresh = eta * there.sigma * (1 - kept**2) ** 0.5
        x = there.alpha * x0 + (there.sigma**2 - fresh**2) ** 0.5 * eps
        if fresh > 0:
            x = x + fresh * noise.normal(tuple(x.shape[1:]), step=index, draw=STEP, device=x.device).to(x.dtype)
        yield Step(index, len(levels) - 1, there, x, x0)


def euler(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
) -> Iterator[Step]:
    """Euler's method in sigma / alpha (Karras et al. 2022): DDIM's step, exactly; with churn, their algorithm 2."""
    total = len(levels) - 1
    for index, (level, there) in enumerate(pairwise(levels)):
        x, here = churned(schedule, x, level, noise, index, total, s_churn, s_tmin, s_tmax)
        for step in ddim(denoise, x, (here, there), noise):
            x = step.x
            yield Step(index, total, there, x, step.x0)


def euler_a(
    denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise, *, eta: float = 1.0
) -> Iterator[Step]:
    """Ancestral Euler, as k-diffusion has it: DDIM's step with eta = 1, exactly."""
    return ddim(denoise, x, levels, noise, eta=eta)


def ddpm(denoise: Denoiser, x: Latents, levels: Sequence[Level], noise: Noise) -> Iterator[Step]:
    """Ancestral sampling by the posterior q(x' | x, x0) (Ho et al. 2020, eq. 7): DDIM's step with eta = 1, exactly."""
    return ddim(denoise, x, levels, noise, eta=1.0)


def heun(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
) -> Iterator[Step]:
    """Heun's method in sigma / alpha: eps is the mean of those at both ends (Karras et al. 2022, algorithm 1 or 2)."""
    total = len(levels) - 1
    for index, (level, there) in enumerate(pairwise(levels)):
        x, here = churned(schedule, x, level, noise, index, total, s_churn, s_tmin, s_tmax)
        x0 = denoise(x, here)
        eps = here.eps(x, x0)
        if here.alpha > 0 and there.sigma > 0:
            x = move(x, trapezium(denoise, x, eps, here, there), here, there)
        else:
            x = there.mix(x0, eps)
        yield Step(index, total, there, x, x0)


def heunpp2(
    denoise: Denoiser,
    x: Latents,
    levels: Sequence[Level],
    noise: Noise,
    *,
    schedule: NoiseSchedule | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
) -> Iterator[Step]:
    """Heun++: eps from here, from the next level and from the one after it, the later ones by their share of noise.

    As it is used (Forge, ComfyUI): eps of a level weighs sigma / alpha there over three times that of the first level.
    One step before the last two eps are weighed so, and in the last there is one. It is a method of first order.
    """
    total = len(levels) - 1
    most = max(float(level.ratio) for level in levels if level.alpha > 0)
    for index, (level, there) in enumerate(pairwise(levels)):
        x, here = churned(schedule, x, level, noise, index, total, s_churn, s_tmin, s_tmax)
        x0 = denoise(x, here)
        slopes = [here.eps(x, x0)]
        visited = list(levels[index + 1 : min(index + 3, total)]) if here.alpha > 0 else []
        ahead, at = x, here
        for later in visited:
            ahead = move(ahead, slopes[-1], at, later)
            slopes.append(later.eps(ahead, denoise(ahead, later)))
            at = later
        weights = [float(later.ratio) / (most * len(slopes)) for later in visited]
        mean = weighted((1 - sum(weights), *weights), slopes)
        x = move(x, mean, here, there) if here.alpha > 0 else there.mix(x0, mean)
        yield Step(index, total, there, x, x0)


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


@dataclass(frozen=True)
class Sampler:
    """A row of the table: a sampler, and what others need to know of it.

    walk    the generator
    grid    the grid that users of Stable Diffusion know it with (a zero-terminal schedule wants "trailing")
    order   the error falls as steps ** -order while nothing is random: as observed, which a test does; None where
            new noise cannot be left out, or where its steps are its own
    calls   of the net in a step, but for the first ones
    start   `data` of NoiseSchedule.prior: 1 for unit noise, 0 for sigma * noise
    noisy   whether new noise may come in: s_noise, what that noise is multiplied by, is an option then
    pair    whether it is walked with a Pair (CFG++)
    free    whether it chooses its own levels between the ends
    alone   whether it takes one picture at a time
    path    whether others know it with the noise of a Brownian path (k-diffusion's SDE samplers; base/brownian.py)
    """

    walk: Callable[..., Iterator[Step]]
    grid: str
    order: float | None
    calls: int = 1
    start: float = 1.0
    noisy: bool = False
    pair: bool = False
    free: bool = False
    alone: bool = False
    path: bool = False

    @property
    def options(self) -> dict[str, float]:
        """The options that it takes, with their defaults."""
        parameters = inspect.signature(self.walk).parameters.values()
        own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "schedule"}
        return own | ({"s_noise": 1.0} if self.noisy else {})

    @property
    def what(self) -> str:
        """It in a sentence."""
        return (inspect.getdoc(self.walk) or "").split("\n\n")[0].replace("\n", " ")

    def __call__(
        self,
        denoise: Denoiser,
        x: Latents,
        levels: Sequence[Level],
        noise: Noise,
        *,
        schedule: NoiseSchedule | None = None,
        pair: Pair | None = None,
        **options: float,
    ) -> Iterator[Step]:
        """The steps from levels[0], where x stands, to levels[-1].

        The schedule is for samplers that visit levels between those of the grid; others do without. So is the pair for
        those of CFG++, which without one take the denoiser for both halves.
        Raises UserError for an option that the sampler does not take.
        """
        for name in options:
            if name not in self.options:
                takes = f"It takes: {', '.join(self.options)}." if self.options else "It has no options."
                raise UserError(f'this sampler has no option "{name}".', takes, "")
        assert len(levels) > 1, "no step between fewer than two levels"
        assert all(there.ratio < here.ratio for here, there in pairwise(levels)), "levels must fall"
        louder = options.pop("s_noise", 1.0)
        noise = noise if louder == 1 else Louder(noise, louder)
        noisy = [float(level.ratio) for level in levels if 0 < level.ratio < math.inf]
        noise = noise.over(min(noisy), max(noisy)) if noisy else noise
        asked = (pair or alike(denoise)) if self.pair else denoise
        wanted = inspect.signature(self.walk).parameters.get("schedule")
        if wanted is None:
            return self.walk(asked, x, levels, noise, **options)
        assert schedule is not None or wanted.default is None, (
            "this sampler visits levels between the grid's: schedule=... is missing"
        )
        return self.walk(asked, x, levels, noise, schedule=schedule, **options)


SAMPLERS = {
    "ddim": Sampler(ddim, grid="leading", order=1, noisy=True),
    "plms": Sampler(plms, grid="leading", order=2),
    "pndm": Sampler(pndm, grid="leading", order=2),
    "lms": Sampler(lms, grid="linspace", order=3.5, start=0.0),
    "euler": Sampler(euler, grid="linspace", order=1, start=0.0, noisy=True),
    "euler_a": Sampler(euler_a, grid="linspace", order=1, start=0.0, noisy=True),
    "heun": Sampler(heun, grid="linspace", order=2, calls=2, start=0.0, noisy=True),
    "dpmpp_2m": Sampler(dpmpp_2m, grid="karras", order=2),
    "dpm_2": Sampler(dpm_2, grid="karras", order=2, calls=2, start=0.0, noisy=True),
    "dpm_2_a": Sampler(dpm_2_a, grid="karras", order=2, calls=2, start=0.0, noisy=True),
    "dpmpp_2s_a": Sampler(dpmpp_2s_a, grid="karras", order=2, calls=2, start=0.0, noisy=True),
    "dpmpp_sde": Sampler(dpmpp_sde, grid="karras", order=2, calls=2, start=0.0, noisy=True, path=True),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde, grid="karras", order=2, noisy=True, path=True),
    "dpmpp_2m_sde_heun": Sampler(dpmpp_2m_sde_heun, grid="karras", order=2, noisy=True, path=True),
    "dpmpp_3m_sde": Sampler(dpmpp_3m_sde, grid="exponential", order=2, noisy=True, path=True),
    "unipc": Sampler(unipc, grid="linspace", order=2.3),
    "deis": Sampler(deis, grid="linspace", order=3),
    "ipndm": Sampler(ipndm, grid="linspace", order=2, start=0.0),
    "ipndm_v": Sampler(ipndm_v, grid="linspace", order=3.5, start=0.0),
    "res_multistep": Sampler(res_multistep, grid="karras", order=2, start=0.0),
    "gradient_estimation": Sampler(gradient_estimation, grid="linspace", order=1, start=0.0),
    "er_sde": Sampler(er_sde, grid="karras", order=2, start=0.0, noisy=True),
    "ddpm": Sampler(ddpm, grid="leading", order=None, noisy=True),
    "lcm": Sampler(lcm, grid="lcm", order=None, noisy=True),
    "tcd": Sampler(tcd, grid="lcm", order=None, noisy=True),
    "heunpp2": Sampler(heunpp2, grid="linspace", order=1, calls=3, start=0.0, noisy=True),
    "dpm_fast": Sampler(dpm_fast, grid="karras", order=3, start=0.0, noisy=True, free=True),
    "dpm_adaptive": Sampler(dpm_adaptive, grid="karras", order=None, start=0.0, noisy=True, free=True, alone=True),
    "restart": Sampler(restart, grid="karras", order=None, calls=2, start=0.0, noisy=True, free=True),
    "seeds_2": Sampler(seeds_2, grid="karras", order=2, calls=2, start=0.0, noisy=True),
    "seeds_3": Sampler(seeds_3, grid="karras", order=3, calls=3, start=0.0, noisy=True),
    "sa_solver": Sampler(sa_solver, grid="karras", order=4, start=0.0, noisy=True),
    "sa_solver_pece": Sampler(sa_solver_pece, grid="karras", order=4, calls=2, start=0.0, noisy=True),
    "res_multistep_a": Sampler(res_multistep_a, grid="karras", order=2, start=0.0, noisy=True),
    "ddim_cfg_pp": Sampler(ddim_cfg_pp, grid="leading", order=1, noisy=True, pair=True),
    "euler_cfg_pp": Sampler(euler_cfg_pp, grid="linspace", order=1, start=0.0, pair=True),
    "euler_a_cfg_pp": Sampler(euler_a_cfg_pp, grid="linspace", order=1, start=0.0, noisy=True, pair=True),
    "dpmpp_2m_cfg_pp": Sampler(dpmpp_2m_cfg_pp, grid="karras", order=2, start=0.0, pair=True),
    "dpmpp_2s_a_cfg_pp": Sampler(dpmpp_2s_a_cfg_pp, grid="karras", order=2, calls=2, start=0.0, noisy=True, pair=True),
    "res_multistep_cfg_pp": Sampler(res_multistep_cfg_pp, grid="karras", order=2, start=0.0, pair=True),
    "res_multistep_a_cfg_pp": Sampler(res_multistep_a_cfg_pp, grid="karras", order=2, start=0.0, noisy=True, pair=True),
    "gradient_estimation_cfg_pp": Sampler(gradient_estimation_cfg_pp, grid="linspace", order=1, start=0.0, pair=True),
}
