"""From a request to pictures: the sentence that the whole house is built round."""

import time
from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aquatint.base import runtime
from aquatint.base.noise import PRIOR, Noise
from aquatint.diffusion.denoisers import Denoiser, guided
from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.joined import composed, switched
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import Level, NoiseSchedule
from aquatint.pipelines.bundle import Bundle, finite
from aquatint.pipelines.encode import tell
from aquatint.pipelines.picture import Picture, Progress
from aquatint.pipelines.prompt import parse
from aquatint.pipelines.record import record_of
from aquatint.pipelines.request import Request, Resolved

Course = Generator[Progress, None, None]


@dataclass(frozen=True)
class _Plan:
    """What all pictures of a request share."""

    bundle: Bundle
    request: Resolved
    schedule: NoiseSchedule
    levels: list[Level]


def generate(bundle: Bundle, request: Request) -> Course:
    """Paint a request: a Progress after every step, the last one of each picture with the Picture.

    Pictures come one after the other, each computed alone (one row, or two with guidance), so that the picture for a
    seed has the same bits in any company. Closing the generator cancels. A request that the model cannot fulfil is
    refused here, before the first step; NonFiniteError stops at the first value that is no number.
    """
    resolved = request.resolved(bundle.family)
    schedule = NoiseSchedule(bundle.family.schedule)
    plan = _Plan(bundle, resolved, schedule, GRIDS[resolved.grid](schedule, resolved.steps))
    return _pinned(bundle, _pictures(plan))


def _pictures(plan: _Plan) -> Course:
    began = time.perf_counter()
    denoise = _denoiser(plan)
    text = time.perf_counter() - began
    for number, seed in enumerate(plan.request.seeds):
        yield from _picture(plan, denoise, Progress(0, plan.request.steps, number, len(plan.request.seeds), seed), text)
        text = 0.0  # the words were encoded once for all


def _picture(plan: _Plan, denoise: Denoiser, progress: Progress, text: float) -> Course:
    """One picture from its seed: noise, steps, decoder."""
    began = time.perf_counter()
    bundle, request = plan.bundle, plan.request
    sampler, noise = SAMPLERS[request.sampler], Noise((progress.seed,))
    eps = noise.normal(bundle.latent_shape(request.width, request.height), draw=PRIOR, device=bundle.device)
    start = plan.schedule.prior(plan.levels[0], eps, sampler.start)
    options = dict(request.options) | ({} if request.eta is None else {"eta": request.eta})
    seconds = {"text": text, "steps": 0.0, "decode": 0.0}
    for step in sampler(denoise, start, plan.levels, noise, schedule=plan.schedule, **options):
        finite(step.x, f"U-Net (step {step.index + 1})", bundle)
        progress = replace(progress, index=step.index + 1, x0=step.x0)
        seconds["steps"] += time.perf_counter() - began
        if progress.index < progress.total:
            yield progress
        began = time.perf_counter()
    (image,) = bundle.decode(step.x)
    seconds["decode"] = time.perf_counter() - began
    record = record_of(replace(request, seeds=(progress.seed,)), bundle.model, bundle.key)
    yield replace(progress, picture=Picture(image, record, seconds))


def _denoiser(plan: _Plan) -> Denoiser:
    """The U-Net, told the prompt and the negative, as one denoiser with guidance."""
    bundle, request = plan.bundle, plan.request
    prompt = parse(request.prompt, request.grammar, steps=request.steps)
    negative = parse(request.negative, request.grammar, steps=request.steps, negative=True)
    extra = _nothing_known(bundle, request)
    prediction = PREDICTIONS[bundle.family.prediction]
    parts = []
    for told in tell(bundle, prompt, negative, request.clip_skip):
        away = replace(told.negative, concat=extra)
        toward = [(weight, replace(cond, concat=extra)) for weight, cond in told.positives]
        for _, cond in toward:
            finite(cond.context, "text encoder", bundle)
        if len(toward) == 1:
            denoise = guided(bundle.unet, prediction, toward[0][1], away, request.guidance, request.rescale)
        else:
            denoise = composed(bundle.unet, prediction, toward, away, request.guidance, request.rescale)
        parts.append((plan.levels[told.until], denoise))
    return switched(parts)


def _nothing_known(bundle: Bundle, request: Resolved) -> Tensor | None:
    """For an inpainting U-Net: the mask and the masked picture that leave everything to be painted.

    Its further channels are the mask (1 where to paint) and the latents of the picture with that part greyed out.
    """
    if bundle.unet.config.channels_in == bundle.autoencoder.config.latents:
        return None
    _, height, width = bundle.latent_shape(request.width, request.height)
    grey = torch.zeros(1, bundle.autoencoder.config.channels, request.height, request.width, device=bundle.device)
    return torch.cat([torch.ones(1, 1, height, width, device=bundle.device), bundle.autoencoder.encode(grey)], dim=1)


def _pinned(bundle: Bundle, pictures: Course) -> Course:
    """Compute as the reproduction key says, but only while computing: between two steps the caller's settings hold.

    Memory that the steps kept for one another goes back to the system at the end.
    """
    try:
        while True:
            with runtime.exact(bundle.device, bundle.threads):
                progress = next(pictures, None)
            if progress is None:
                return
            yield progress
    finally:
        pictures.close()
        runtime.return_pages()
