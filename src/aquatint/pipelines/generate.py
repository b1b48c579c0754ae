"""From a request to pictures: the sentence that the whole house is built round."""

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aquatint.base import images, runtime
from aquatint.base.noise import FILL, PRIOR, Noise
from aquatint.base.replay import noise_from
from aquatint.diffusion.denoisers import Denoiser, Pair, alike, first, guided, held, paired
from aquatint.diffusion.grids import options_of, visited
from aquatint.diffusion.joined import composed, composed_pair, switched, wrapped
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import Level, NoiseSchedule
from aquatint.pipelines.adapted import adapted, embeddings_of, wanted
from aquatint.pipelines.bundle import Bundle, finite
from aquatint.pipelines.edit import Canvas, canvas
from aquatint.pipelines.encode import tell
from aquatint.pipelines.picture import Picture, Progress
from aquatint.pipelines.prompt import parse
from aquatint.pipelines.record import File, Model, record_of
from aquatint.pipelines.request import Request, Resolved
from aquatint.pipelines.safety import check_safety, judged
from aquatint.pipelines.stream import Stream

Course = Generator[Progress, None, None]


@dataclass(frozen=True)
class _Plan:
    """What all pictures of a request share."""

    bundle: Bundle
    request: Resolved
    schedule: NoiseSchedule
    levels: list[Level]
    canvas: Canvas | None
    model: Model
    files: tuple[File, ...] = ()


@dataclass(frozen=True)
class _Known:
    """What is there before painting begins.

    x0, mask     the latents of the picture, and where to paint (1) and where to keep it (0); None: everywhere
    fill         what the masked part begins from
    from_noise   whether painting begins from noise alone
    seen         whether the net is shown mask and picture itself, and need not be held to them
    """

    x0: Tensor
    mask: Tensor | None
    fill: str
    from_noise: bool
    seen: bool

    def start(self, prior: Tensor, level: Level, eps: Tensor, noise: Noise) -> Tensor:
        """Where painting begins: the picture at that level of noise, or `prior`."""
        if self.from_noise:
            return prior
        x0 = self.x0
        if self.mask is not None and self.fill in ("noise", "nothing"):
            drawn = noise.normal(tuple(x0.shape[1:]), draw=FILL, device=x0.device) if self.fill == "noise" else 0 * x0
            x0 = x0 * (1 - self.mask) + drawn * self.mask
        return level.mix(x0, eps)

    def holding(self, denoise: Denoiser, eps: Tensor) -> Denoiser:
        """The denoiser, held to the picture where the mask says so."""
        if self.mask is None or self.seen:
            return denoise
        return held(denoise, self.x0, 1 - self.mask, eps)


def generate(bundle: Bundle, request: Request) -> Course:
    """Paint a request: a Progress after every step, the last one of each picture with the Picture.

    Pictures come one after the other, each computed alone (one row, or two with guidance), so that the picture for a
    seed has the same bits in any company. Closing the generator cancels. A request that the model cannot fulfil is
    refused here, before the first step; NonFiniteError stops at the first value that is no number.
    """
    resolved = request.resolved(bundle.family)
    schedule = NoiseSchedule(bundle.family.schedule)
    levels = visited(resolved.grid, schedule, resolved.steps, dict(resolved.options))[-resolved.made - 1 :]
    over = canvas(resolved.edit, resolved.width, resolved.height) if resolved.edit else None
    on = adapted(bundle, wanted(bundle, resolved))
    added = (*on.files, *embeddings_of(bundle, resolved), *check_safety(bundle, resolved))
    plan = _Plan(on.bundle, resolved, schedule, levels, over, on.bundle.model, added)
    return _pinned(bundle, _pictures(plan))


def _pictures(plan: _Plan) -> Course:
    began = time.perf_counter()
    known = _known(plan)
    pair = _pair(plan)
    text = time.perf_counter() - began
    for number, seed in enumerate(plan.request.seeds):
        progress = Progress(0, plan.request.made, number, len(plan.request.seeds), seed)
        yield from _picture(plan, pair, known, progress, text)
        text = 0.0  # the words were encoded once for all


def _picture(plan: _Plan, pair: Pair, known: _Known | None, progress: Progress, text: float) -> Course:
    """One picture from its seed: noise, steps, decoder."""
    began = time.perf_counter()
    bundle, request = plan.bundle, plan.request
    sampler, stream = SAMPLERS[request.sampler], request.stream or Stream()
    noise = noise_from(request.noise, (progress.seed,), request.ensd, place=stream.place, of=stream.of)
    eps = noise.normal(bundle.latent_shape(request.width, request.height), draw=PRIOR, device=bundle.device)
    options = {name: value for name, value in request.options if name not in options_of(request.grid)}
    start = plan.schedule.prior(plan.levels[0], eps, options.pop("start", sampler.start))
    if known is not None:
        start = known.start(start, plan.levels[0], eps, noise)
        pair = wrapped(partial(known.holding, eps=eps), pair)
    options |= {} if request.eta is None else {"eta": request.eta}
    seconds = {"text": text, "steps": 0.0, "decode": 0.0}
    for step in sampler(first(pair), start, plan.levels, noise, schedule=plan.schedule, pair=pair, **options):
        finite(step.x, f"U-Net (step {step.index + 1})", bundle)
        progress = replace(progress, index=step.index + 1, x0=step.x0)
        seconds["steps"] += time.perf_counter() - began
        if progress.index < progress.total:
            yield progress
        began = time.perf_counter()
    (image,) = bundle.decode(step.x)
    image = plan.canvas.finished(image) if plan.canvas else image
    image, flagged = judged(bundle, request.alone(progress.seed), image)
    seconds["decode"] = time.perf_counter() - began
    record = record_of(replace(request, seeds=(progress.seed,)), plan.model, bundle.key, plan.files)
    yield replace(progress, picture=Picture(image, record, seconds, flagged))


def _pair(plan: _Plan) -> Pair:
    """The U-Net, told the prompt and the negative, as a denoiser with guidance; for CFG++ the negative beside it."""
    bundle, request = plan.bundle, plan.request
    prompt = parse(request.prompt, request.grammar, steps=request.made)
    negative = parse(request.negative, request.grammar, steps=request.made, negative=True)
    extra = _told_of(plan)
    prediction = PREDICTIONS[bundle.family.prediction]
    parts = []
    for told in tell(bundle, prompt, negative, request.clip_skip):
        away = replace(told.negative, concat=extra)
        toward = [(weight, replace(cond, concat=extra)) for weight, cond in told.positives]
        for _, cond in toward:
            finite(cond.context, "text encoder", bundle)
        how = (away, request.guidance, request.rescale)
        several, only, unet = len(toward) > 1, toward[0][1], bundle.unet
        if SAMPLERS[request.sampler].pair:
            both = composed_pair(unet, prediction, toward, *how) if several else paired(unet, prediction, only, *how)
        else:
            both = alike(composed(unet, prediction, toward, *how) if several else guided(unet, prediction, only, *how))
        parts.append((plan.levels[told.until], both))
    return switched(parts)


def _known(plan: _Plan) -> _Known | None:
    """The picture that is edited, as latents; None where there is none."""
    if plan.canvas is None or plan.request.edit is None:
        return None
    bundle, edit = plan.bundle, plan.request.edit
    x0 = finite(bundle.encode(plan.canvas.picture), "encoder", bundle)
    mask = plan.canvas.latent_mask(x0.shape[2], x0.shape[3])
    mask = None if mask is None else mask.to(x0.device)
    seen = bundle.unet.config.channels_in > bundle.autoencoder.config.latents
    return _Known(x0, mask, edit.fill, from_noise=edit.strength == 1 and mask is not None, seen=seen)


def _told_of(plan: _Plan) -> Tensor | None:
    """For an inpainting U-Net: the mask and the masked picture; without an edit, everything is to be painted.

    Its further channels are the mask (1 where to paint) and the latents of the picture with that part greyed out.
    """
    bundle, request, over = plan.bundle, plan.request, plan.canvas
    if bundle.unet.config.channels_in == bundle.autoencoder.config.latents:
        return None
    _, height, width = bundle.latent_shape(request.width, request.height)
    picture = torch.zeros(1, bundle.autoencoder.config.channels, request.height, request.width, device=bundle.device)
    mask = torch.ones(1, 1, height, width, device=bundle.device)
    if over is not None and over.mask is not None:
        hidden = torch.from_numpy(np.asarray(over.mask).astype(np.float32) >= 128)
        picture = (images.to_tensor(over.picture) * ~hidden).to(bundle.device)
        mask = F.max_pool2d(hidden[None, None].float(), bundle.autoencoder.config.factor).to(bundle.device)
    return torch.cat([mask, bundle.autoencoder.encode(picture)], dim=1)


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
