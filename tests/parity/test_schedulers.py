"""Whole trajectories against diffusers' schedulers with the same options, in float32, on a net that knows the truth.

Where the two differ, and why we do not follow:
- PNDMScheduler adds up v-predictions of different times before it converts them, which is not what the method says:
  with v it ends 0.4 standard deviations away in 10 steps (test_pndm_with_v shows which of the two is nearer the truth).
- DDIM and PNDM step by 1000 // steps whatever their grid, so that with other spacings than "leading" they land beside
  the next time unless steps divides 1000; PNDM with an odd stride shows the net another time than x is at.
- DPMSolverMultistep rounds the times of a Karras grid, and lets rescaled schedules end at alpha = 2**-12, not 0.
- DPMSolverMultistep's sde-dpmsolver++ of order 3 has (1 - exp(-2h) - 2h) / (2h)^2 - 1/2 before the second change of x0,
  which tends to -1 as h does to 0; the integral is the same with + 1/2, as its ODE's formula has it, and k-diffusion's.
- Between whole times diffusers' Euler, LMS and Heun interpolate sigma / alpha, we (and k-diffusion) its logarithm.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from tests.diffusion.mixture import SIGNAL, Mixture
from torch import Tensor

from aquatint.base.noise import PRIOR, STEP, Noise
from aquatint.diffusion.denoisers import Conditioning, guided, held, predictor
from aquatint.diffusion.grids import GRIDS, leading, linspace, trailing
from aquatint.diffusion.prediction import EPSILON, PREDICTIONS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import CLEAN, Level, NoiseSchedule, ScheduleConfig

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("scipy")  # without it diffusers has no LMS

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")

TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULE = NoiseSchedule(ScheduleConfig())
ZERO = NoiseSchedule(ScheduleConfig(zero_terminal=True))
SHAPE = (4, 8, 8)
NOISE = Noise([11, 2**63 + 5])
EMPTY = Conditioning(torch.zeros(2, 1, 1))
WORDS = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}


def theirs(scheduler: Any, net: Mixture, steps: int, **options: Any) -> Tensor:
    scheduler.set_timesteps(steps)
    x = NOISE.normal(SHAPE, draw=PRIOR) * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps):
        fresh = {"variance_noise": NOISE.normal(SHAPE, step=index, draw=STEP)} if "eta" in options else {}
        x = scheduler.step(net(scheduler.scale_model_input(x, t), t), t, x, **options, **fresh).prev_sample
    return x


def ours(
    name: str, net: Mixture, levels: list[Level], data: float, schedule: NoiseSchedule = SCHEDULE, **options: float
) -> Tensor:
    x = schedule.prior(levels[0], NOISE.normal(SHAPE, draw=PRIOR), data)
    denoise = predictor(net, PREDICTIONS[net.prediction], EMPTY)
    *_, last = SAMPLERS[name](denoise, x, levels, NOISE, schedule=schedule, **options)
    return last.x


def apart(mine: Tensor, yours: Tensor) -> float:
    """The greatest difference, in standard deviations of the latents."""
    assert 0.5 < yours.std() < 2
    return ((mine - yours).abs().max() / yours.std()).item()


class Case(NamedTuple):
    """Our sampler and grid; `data` of the prior; another end than the grid's; diffusers' class and its options."""

    sampler: str
    grid: str
    data: float
    peer: str
    options: dict[str, Any]
    last: Level | None = None


LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
TRAILING = {"timestep_spacing": "trailing"}
KARRAS = {"use_karras_sigmas": True}
CASES = [
    Case("ddim", "leading", 1, "DDIM", {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}),
    Case("ddim", "leading", 1, "DDIM", {"steps_offset": 1, "set_alpha_to_one": True, "clip_sample": False}, CLEAN),
    Case("ddim", "trailing", 1, "DDIM", {**TRAILING, "clip_sample": False}),
    Case("plms", "leading", 1, "PNDM", {"skip_prk_steps": True, "steps_offset": 1}),
    Case("plms", "trailing", 1, "PNDM", {"skip_prk_steps": True, "set_alpha_to_one": True, **TRAILING}),
    Case("pndm", "leading", 1, "PNDM", {"steps_offset": 1}),
    Case("pndm", "trailing", 1, "PNDM", {"set_alpha_to_one": True, **TRAILING}),
    Case("lms", "linspace", 0, "LMSDiscrete", {}),
    Case("lms", "trailing", 0, "LMSDiscrete", TRAILING),
    Case("lms", "leading", 1, "LMSDiscrete", LEADING, CLEAN),
    Case("lms", "karras", 0, "LMSDiscrete", KARRAS),
    Case("euler", "linspace", 0, "EulerDiscrete", {}),
    Case("euler", "trailing", 0, "EulerDiscrete", TRAILING),
    Case("euler", "leading", 1, "EulerDiscrete", LEADING, CLEAN),
    Case("euler", "karras", 0, "EulerDiscrete", KARRAS),
    Case("euler", "exponential", 0, "EulerDiscrete", {"use_exponential_sigmas": True}),
    Case("heun", "linspace", 0, "HeunDiscrete", {}),
    Case("heun", "trailing", 0, "HeunDiscrete", TRAILING),
    Case("heun", "leading", 1, "HeunDiscrete", LEADING, CLEAN),
    Case("heun", "karras", 0, "HeunDiscrete", KARRAS),
    Case("dpmpp_2m", "trailing", 1, "DPMSolverMultistep", TRAILING),
    Case("dpmpp_2m", "karras", 1, "DPMSolverMultistep", KARRAS),
    Case("dpmpp_2m", "exponential", 1, "DPMSolverMultistep", {"use_lu_lambdas": True}),
    Case("dpm_2", "trailing", 0, "KDPM2Discrete", TRAILING),
    Case("unipc", "trailing", 1, "UniPCMultistep", {"solver_order": 3, **TRAILING}),
]


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize(
    ("case", "prediction"),
    [
        pytest.param(case, said, id=f"{case.sampler}-{case.grid}{'-clean' if case.last else ''}-{said}")
        for case in CASES
        for said in (["epsilon"] if case.peer == "PNDM" else ["epsilon", "v"])
    ],
)
def test_trajectory(case, prediction, steps):
    scheduler = getattr(diffusers, case.peer + "Scheduler")(prediction_type=WORDS[prediction], **TABLE, **case.options)
    levels = GRIDS[case.grid](SCHEDULE, steps)
    if case.last is not None:
        levels = [*levels[:-1], case.last]
    if case.peer == "DPMSolverMultistep":
        levels = [replace(level, t=float(round(level.t))) for level in levels]
    net, again = Mixture(prediction), Mixture(prediction)
    yours = theirs(scheduler, net, steps)
    mine = ours(case.sampler, again, levels, case.data)
    assert again.times == pytest.approx(net.times, abs=2e-3)  # float32's error in their log of a Karras sigma
    assert apart(mine, yours) <= 1e-4


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_fresh_noise(eta, steps):
    scheduler = diffusers.DDIMScheduler(steps_offset=1, set_alpha_to_one=False, clip_sample=False, **TABLE)
    mine = ours("ddim", Mixture("epsilon"), leading(SCHEDULE, steps), 1, eta=eta)
    assert apart(mine, theirs(scheduler, Mixture("epsilon"), steps, eta=eta)) <= 1e-4


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize(("grid", "options"), [("linspace", {}), ("trailing", TRAILING)])
def test_ancestral_euler(grid, options, prediction, steps, monkeypatch):
    module = "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor"
    draws = (NOISE.normal(SHAPE, step=index, draw=STEP) for index in range(steps))
    monkeypatch.setattr(module, lambda *args, **kwargs: next(draws))
    scheduler = diffusers.EulerAncestralDiscreteScheduler(prediction_type=WORDS[prediction], **TABLE, **options)
    mine = ours("euler_a", Mixture(prediction), GRIDS[grid](SCHEDULE, steps), 0)
    assert apart(mine, theirs(scheduler, Mixture(prediction), steps)) <= 1e-4


def noisy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have a scheduler's module draw our noise, a step after the other."""
    draws = (NOISE.normal(SHAPE, step=index, draw=STEP) for index in range(1000))
    monkeypatch.setattr(f"diffusers.schedulers.scheduling_{name}.randn_tensor", lambda *args, **kwargs: next(draws))


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_dpm_solver_for_the_sde(solver, prediction, steps, monkeypatch):
    noisy(monkeypatch, "dpmsolver_multistep")
    options = {"algorithm_type": "sde-dpmsolver++", "solver_type": solver, **TRAILING}
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type=WORDS[prediction], **options, **TABLE)
    yours = theirs(scheduler, Mixture(prediction), steps)
    name = {"midpoint": "dpmpp_2m_sde", "heun": "dpmpp_2m_sde_heun"}[solver]
    assert apart(ours(name, Mixture(prediction), trailing(SCHEDULE, steps), 1), yours) <= 1e-4


@pytest.mark.parametrize("steps", [10, 50])
def test_dpm_solver_of_third_order(steps):
    """As an ODE's; its SDE has another sign (see above)."""
    options = {"solver_order": 3, "solver_type": "heun", "lower_order_final": False, **TRAILING}
    scheduler = diffusers.DPMSolverMultistepScheduler(**options, **TABLE)
    yours = theirs(scheduler, Mixture("epsilon"), steps)
    assert apart(ours("dpmpp_3m_sde", Mixture("epsilon"), trailing(SCHEDULE, steps), 1, eta=0.0), yours) <= 1e-4


def down_to_the_table(steps: int) -> list[Level]:
    """The trailing grid with the end of final_sigmas_type "sigma_min": the table's first entry."""
    levels = trailing(SCHEDULE, steps)
    return [*levels[:-1], SCHEDULE.at(0)]


@pytest.mark.parametrize("steps", [10, 49])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("bh", [1, 2])
def test_unipc(bh, order, steps):
    """Not to the clean end: with bh1 UniPCMultistepScheduler divides by an infinite step there."""
    options = {"solver_order": order, "solver_type": f"bh{bh}", "final_sigmas_type": "sigma_min", **TRAILING}
    yours = theirs(diffusers.UniPCMultistepScheduler(**options, **TABLE), Mixture("epsilon"), steps)
    mine = ours("unipc", Mixture("epsilon"), down_to_the_table(steps), 1, order=order, bh=bh)
    assert apart(mine, yours) <= 1e-4


@pytest.mark.parametrize(
    ("order", "steps", "bound"),
    # of third order its coefficients are differences of large float32 numbers; test_algebra has ours in float64
    [(1, 10, 1e-4), (1, 49, 1e-4), (2, 10, 1e-4), (2, 49, 1e-4), (3, 10, 1e-4), (3, 49, 5e-3)],
)
def test_deis(order, steps, bound):
    options = {"solver_order": order, "lower_order_final": False, **TRAILING}
    yours = theirs(diffusers.DEISMultistepScheduler(**options, **TABLE), Mixture("epsilon"), steps)
    assert apart(ours("deis", Mixture("epsilon"), down_to_the_table(steps), 1, order=order), yours) <= bound


@pytest.mark.parametrize("steps", [10, 50])
def test_ancestral_dpm_2(steps, monkeypatch):
    noisy(monkeypatch, "k_dpm_2_ancestral_discrete")
    scheduler = diffusers.KDPM2AncestralDiscreteScheduler(**TABLE, **TRAILING)
    yours = theirs(scheduler, Mixture("epsilon"), steps)
    assert apart(ours("dpm_2_a", Mixture("epsilon"), trailing(SCHEDULE, steps), 0), yours) <= 1e-4


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_ddpm(prediction, steps, monkeypatch):
    noisy(monkeypatch, "ddpm")
    options = {"timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False}
    scheduler = diffusers.DDPMScheduler(prediction_type=WORDS[prediction], **options, **TABLE)
    yours = theirs(scheduler, Mixture(prediction), steps)
    levels = [*leading(SCHEDULE, steps)[:-1], CLEAN]
    assert apart(ours("ddpm", Mixture(prediction), levels, 1), yours) <= 1e-4


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_lcm(steps, monkeypatch):
    """LCMScheduler mixes in up to 7e-6 of x itself at its lowest times; its boundary condition needs no more."""
    noisy(monkeypatch, "lcm")
    scheduler = diffusers.LCMScheduler(clip_sample=False, **TABLE)
    yours = theirs(scheduler, Mixture("epsilon"), steps)
    levels = [*(SCHEDULE.at(int(t)) for t in scheduler.timesteps), CLEAN]
    assert (ours("lcm", Mixture("epsilon"), levels, 1) - yours).abs().max() <= 1e-4 * yours.std()
    assert [level.t for level in GRIDS["lcm"](SCHEDULE, steps)] == [level.t for level in levels]


@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_tcd(gamma, steps, monkeypatch):
    noisy(monkeypatch, "tcd")
    scheduler = diffusers.TCDScheduler(**TABLE)
    scheduler_step = scheduler.step
    monkeypatch.setattr(scheduler, "step", lambda *args, **kwargs: scheduler_step(*args, eta=gamma, **kwargs))
    yours = theirs(scheduler, Mixture("epsilon"), steps)
    levels = [*GRIDS["lcm"](SCHEDULE, steps)[:-1], SCHEDULE.at(0)]  # where it ends
    mine = ours("tcd", Mixture("epsilon"), levels, 1, gamma=gamma)
    assert (mine - yours).abs().max() <= 1e-4 * yours.std()


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize("end", ["zero", "sigma_min"])
def test_dpm_solver_on_its_own_spacings(spacing, end, steps):
    """Its leading and linspace are not the others': levels are a list, so its times are ours if we say so."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        timestep_spacing=spacing, steps_offset=1, final_sigmas_type=end, lower_order_final=end == "zero", **TABLE
    )
    yours = theirs(scheduler, Mixture("epsilon"), steps)
    last = CLEAN if end == "zero" else SCHEDULE.at(0)
    levels = [*(SCHEDULE.at(t) for t in scheduler.timesteps.tolist()), last]
    assert apart(ours("dpmpp_2m", Mixture("epsilon"), levels, 1), yours) <= 1e-4


def test_euler_on_leading_ends_in_other_units():
    """With final_sigmas_type "sigma_min" diffusers ends at our last level, but leaves x in units of alpha."""
    scheduler = diffusers.EulerDiscreteScheduler(final_sigmas_type="sigma_min", **TABLE, **LEADING)
    levels = leading(SCHEDULE, 10)
    mine = ours("euler", Mixture("epsilon"), levels, 1)
    assert apart(mine / levels[-1].alpha, theirs(scheduler, Mixture("epsilon"), 10)) <= 1e-4


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5])  # at 1 the peer takes the root of float32's rounding: NaN in 50 steps
def test_ddim_from_pure_noise(eta, steps):
    """Zero-terminal SNR, v-prediction, trailing grid: Lin et al.'s own recipe."""
    scheduler = diffusers.DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False, **TABLE, **TRAILING
    )
    signal = torch.tensor([ZERO.at(t).alpha ** 2 for t in range(1000)], dtype=torch.float64).numpy()
    yours = theirs(scheduler, Mixture("v", signal), steps, eta=eta)
    assert apart(ours("ddim", Mixture("v", signal), trailing(ZERO, steps), 1, ZERO, eta=eta), yours) <= 1e-4


def test_pndm_with_v():
    """Against the limit of many steps, ours keeps what it has with epsilon, and PNDMScheduler loses it."""
    truth = ours("lms", Mixture("epsilon"), linspace(SCHEDULE, 400), 0)
    options = {"skip_prk_steps": True, "steps_offset": 1, "prediction_type": "v_prediction"}
    yours = theirs(diffusers.PNDMScheduler(**options, **TABLE), Mixture("v"), 25)
    levels = leading(SCHEDULE, 25)
    mine, with_epsilon = (ours("plms", Mixture(prediction), levels, 1) for prediction in ("v", "epsilon"))
    assert apart(mine, with_epsilon) <= 1e-4
    assert (mine - truth).square().mean() < 0.2 * (yours - truth).square().mean()


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (ScheduleConfig(), TABLE),
        (ScheduleConfig(kind="linear", start=1e-4, end=0.02), {}),
        (ScheduleConfig(kind="cosine"), {"beta_schedule": "squaredcos_cap_v2"}),
        (ScheduleConfig(zero_terminal=True), {**TABLE, "rescale_betas_zero_snr": True}),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_tables(config, options):
    """Theirs is summed up in float32, ours in float64."""
    schedule = NoiseSchedule(config)
    mine = torch.tensor([schedule.at(t).alpha ** 2 for t in range(1000)], dtype=torch.float64)
    yours = diffusers.DDIMScheduler(**options).alphas_cumprod.double()
    assert ((mine - yours).abs() <= 2e-5 * yours + 1e-7).all()
    if config == ScheduleConfig():
        assert (mine - torch.tensor(SIGNAL)).abs().max() < 1e-14


def test_guidance_and_its_rescaling():
    module = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    level, x = SCHEDULE.at(700), NOISE.normal(SHAPE)
    away, toward = NOISE.normal((2, *SHAPE), step=1).unbind(1)

    def net(x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
        return torch.cat([away, toward * 1.3])

    for scale, rescale in ((7.5, 0.0), (7.5, 0.7), (3.0, 1.0)):
        out = away + scale * (toward * 1.3 - away)
        if rescale:
            out = module.rescale_noise_cfg(out, toward * 1.3, rescale)
        x0 = guided(net, EPSILON, EMPTY, EMPTY, scale, rescale)(x, level)
        torch.testing.assert_close(x0, EPSILON.to_x0(x, out, level), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("strength", [0.25, 0.75])
@pytest.mark.parametrize("masked", [False, True])
def test_from_a_picture(masked, strength):
    """Image to image, and inpainting with any model, as diffusers' pipelines step through them."""
    steps = 20
    scheduler = diffusers.DDIMScheduler(steps_offset=1, set_alpha_to_one=False, clip_sample=False, **TABLE)
    x0, eps = NOISE.normal(SHAPE, step=1), NOISE.normal(SHAPE, draw=PRIOR)
    mask = (NOISE.uniform((1, 8, 8)) > 0.5).float() if masked else torch.ones(2, 1, 8, 8)  # 1: to be painted
    scheduler.set_timesteps(steps)
    times, net = scheduler.timesteps[steps - int(steps * strength) :], Mixture("epsilon")
    yours = scheduler.add_noise(x0, eps, times[:1])
    for index, t in enumerate(times):
        yours = scheduler.step(net(yours, t), t, yours).prev_sample
        kept = x0 if index == len(times) - 1 else scheduler.add_noise(x0, eps, times[index + 1 : index + 2])
        yours = kept * (1 - mask) + yours * mask
    levels = leading(SCHEDULE, steps)[-len(times) - 1 :]
    denoise = held(predictor(Mixture("epsilon"), EPSILON, EMPTY), x0, 1 - mask, eps)
    *_, last = SAMPLERS["ddim"](denoise, levels[0].mix(x0, eps), levels, NOISE, schedule=SCHEDULE)
    mine = last.x0 * (1 - mask) + last.x * mask
    assert apart(mine, yours) <= 1e-4


@pytest.mark.parametrize(
    ("orders", "tau", "steps", "bound"),
    # its coefficients are differences of float32 exponentials; test_algebra has ours in float64
    [((1, 1), tau, steps, 5e-4) for tau in (0.0, 0.6, 1.0) for steps in (10, 50)]
    + [(orders, tau, 30, 5e-3) for orders in ((3, 3), (3, 4)) for tau in (0.0, 0.6)],
)
def test_sa_solver(orders, tau, steps, bound, monkeypatch):
    """At order 2 SASolverScheduler adds a term that the method has not; it ends at the table's first entry."""
    noisy(monkeypatch, "sasolver")
    options = {"predictor_order": orders[0], "corrector_order": orders[1], "lower_order_final": False, **TRAILING}
    scheduler = diffusers.SASolverScheduler(tau_func=lambda t: tau, **options, **TABLE)
    yours = theirs(scheduler, Mixture("epsilon"), steps)
    words = {"predictor_order": orders[0], "corrector_order": orders[1], "sde_start": 0.0, "sde_end": 1.0, "eta": tau}
    mine = ours("sa_solver", Mixture("epsilon"), down_to_the_table(steps), 1, **words)
    assert (mine - yours).abs().max() <= bound * yours.std()


@pytest.mark.parametrize("steps", [10, 50])
def test_ipndm(steps):
    """IPNDMScheduler has a schedule of its own, remembers pure noise, and takes a mean of eps to the clean end: so from
    its second level to its last but one.
    """
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(steps)
    pairs = list(zip(scheduler.alphas, scheduler.betas, scheduler.timesteps, strict=False))[1:]
    levels = [Level(float(alpha), float(sigma), 0.0) for alpha, sigma, _ in pairs]
    net, x = Mixture("sample"), NOISE.normal(SHAPE, draw=PRIOR)
    *_, last = SAMPLERS["ipndm"](lambda x, level: net.x0(x, level.alpha, level.sigma), x, levels, NOISE)
    for level, (_, _, t) in zip(levels[:-1], pairs, strict=False):
        x0 = net.x0(x, level.alpha, level.sigma)
        out = (level.alpha * (x - level.alpha * x0) / level.sigma - level.sigma * x0).to(x.dtype)
        x = scheduler.step(out, t, x).prev_sample
    assert (last.x - x).abs().max() <= 1e-4 * x.std()
