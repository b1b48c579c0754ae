"""From a request to pictures: the sentence that the whole house is built round."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aquatint.base import images, runtime
from aquatint.base.errors import UserError
from aquatint.base.noise import FILL, Noise
from aquatint.base.replay import noise_from
from aquatint.diffusion.denoisers import Denoiser, Pair, alike, first, guided, held, paired
from aquatint.diffusion.grids import options_of, visited
from aquatint.diffusion.joined import composed, composed_pair, switched, wrapped
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import Level, NoiseSchedule
from aquatint.diffusion.steps import Step
from aquatint.diffusion.windows import Window, windowed, windows
from aquatint.nets.upscaler import Upscaler
from aquatint.pipelines.adapted import adapted, embeddings_of, wanted
from aquatint.pipelines.bundle import Bundle, finite
from aquatint.pipelines.edit import Canvas, canvas
from aquatint.pipelines.encode import tell
from aquatint.pipelines.hires import second
from aquatint.pipelines.picture import Picture, Progress
from aquatint.pipelines.prompt import parse
from aquatint.pipelines.record import File, record_of
from aquatint.pipelines.request import Request, Resolved
from aquatint.pipelines.tools import around, decoded, encoded, enlarged, tileable, tools_of, upscaler_of
from aquatint.pipelines.variation import first_noise

Course = Generator[Progress, None, None]


@dataclass(frozen=True)
class _Plan:
    """What all pictures of a request share in one pass.

    turn   which pass it is, from 0
    """

    bundle: Bundle
    request: Resolved
    schedule: NoiseSchedule
    levels: list[Level]
    canvas: Canvas | None
    files: tuple[File, ...] = ()
    turn: int = 0


@dataclass(frozen=True)
class _Making:
    """A request's passes, each with its denoiser; what enlarges between them, and the files that take part."""

    plans: Sequence[_Plan]
    pairs: Sequence[Pair]
    way: str | Upscaler
    files: tuple[File, ...]


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
    over = canvas(resolved.edit, resolved.width, resolved.height) if resolved.edit else None
    way = upscaler_of(bundle, resolved)
    plans = [_plan(bundle, resolved, resolved.steps, over)]
    if (later := second(resolved, bundle.family)) is not None:
        plans.append(_plan(bundle, later[0], later[1], None, plans[0]))
    files = dict.fromkeys(file for plan in plans for file in plan.files)
    return _pinned(bundle, _pictures(plans, way, (*files, *tools_of(bundle, resolved, way))))


def _plan(bundle: Bundle, resolved: Resolved, steps: int, over: Canvas | None, before: _Plan | None = None) -> _Plan:
    """One pass: the last of the levels of a grid of that many steps; the pass before lends its nets if it can."""
    schedule, made = NoiseSchedule(bundle.family.schedule), resolved.made
    levels = visited(resolved.grid, schedule, steps, dict(resolved.options))[-made - 1 :]
    loras = wanted(bundle, resolved)
    if before is not None and loras == wanted(bundle, before.request):
        nets, files = before.bundle, before.files
    else:
        on = adapted(bundle, loras)
        nets, files = tileable(on.bundle, around(resolved)), on.files
    turn = 0 if before is None else before.turn + 1
    plan = _Plan(nets, resolved, schedule, levels, over, (*files, *embeddings_of(bundle, resolved)), turn)
    if (
        resolved.tiling
        and len(_windows(plan)) > 1
        and bundle.unet.config.channels_in > bundle.autoencoder.config.latents
    ):
        raise UserError(
            f"tiling with {bundle.family.name}, whose net is shown more than the latents.", "Another model."
        )
    return plan


def _pictures(plans: Sequence[_Plan], way: str | Upscaler, files: tuple[File, ...]) -> Course:
    began, request = time.perf_counter(), plans[0].request
    known, pairs = _known(plans[0]), [_windowed(plan, _pair(plan)) for plan in plans]
    text = time.perf_counter() - began
    for number, seed in enumerate(request.seeds):
        progress = Progress(0, request.total, number, len(request.seeds), seed)
        yield from _picture(_Making(plans, pairs, way, files), known, progress, text)
        text = 0.0  # the words were encoded once for all


def _picture(making: _Making, known: _Known | None, progress: Progress, text: float) -> Course:
    """One picture from its seed: noise, steps, a second pass where one is asked for, decoder."""
    seconds = {"text": text, "steps": 0.0, "decode": 0.0}
    first, *later = making.plans
    last = yield from _pass(first, making.pairs[0], known, progress, seconds)
    x, x0 = last.x, last.x0
    for plan, pair in zip(later, making.pairs[1:], strict=True):
        began, hires = time.perf_counter(), first.request.hires
        assert hires is not None, "what a second pass is made from"
        x = x0 = finite(enlarged(first.bundle, x, first.request, hires, making.way), "upscaler", first.bundle)
        seconds["decode"] += time.perf_counter() - began
        if hires.strength:
            at = replace(progress, index=first.request.made)
            last = yield from _pass(plan, pair, _Known(x, None, "original", False, False), at, seconds)
            x, x0 = last.x, last.x0
    began = time.perf_counter()
    image = decoded(making.plans[-1].bundle, x, first.request.decoding, around(first.request))
    image = first.canvas.finished(image) if first.canvas else image
    seconds["decode"] += time.perf_counter() - began
    record = record_of(
        replace(first.request, seeds=(progress.seed,)), first.bundle.model, first.bundle.key, making.files
    )
    done = replace(progress, index=progress.total, x0=x0)
    yield replace(done, picture=Picture(image, record, seconds))


def _pass(
    plan: _Plan, pair: Pair, known: _Known | None, progress: Progress, seconds: dict[str, float]
) -> Generator[Progress, None, Step]:
    """From noise, or from what is known, to clean latents: one walk over the levels. Its last step is not told of."""
    began, before = time.perf_counter(), progress.index
    bundle, request = plan.bundle, plan.request
    sampler = SAMPLERS[request.sampler]
    noise = noise_from(request.noise, (progress.seed,), request.ensd, turn=plan.turn)
    shape, factor = bundle.latent_shape(request.width, request.height), bundle.autoencoder.config.factor
    eps = first_noise(
        request.noise, progress.seed, shape, request.variation, turn=plan.turn, factor=factor, device=bundle.device
    )
    start = plan.schedule.prior(plan.levels[0], eps, sampler.start)
    if known is not None:
        start = known.start(start, plan.levels[0], eps, noise)
        pair = wrapped(partial(known.holding, eps=eps), pair)
    options = {name: value for name, value in request.options if name not in options_of(request.grid)}
    options |= {} if request.eta is None else {"eta": request.eta}
    for step in sampler(first(pair), start, plan.levels, noise, schedule=plan.schedule, pair=pair, **options):
        finite(step.x, f"U-Net (step {step.index + 1})", bundle)
        progress = replace(progress, index=before + step.index + 1, x0=step.x0)
        seconds["steps"] += time.perf_counter() - began
        if progress.index < progress.total:
            yield progress
        began = time.perf_counter()
    return step


def _windowed(plan: _Plan, pair: Pair) -> Pair:
    """The pair, asked about windows where the request says so."""
    return pair if plan.request.tiling is None else windowed(pair, _windows(plan), plan.request.tiling.weights)


def _windows(plan: _Plan) -> list[Window]:
    """The windows of a pass, in latents."""
    usual, request, factor = plan.bundle.family.defaults, plan.request, plan.bundle.autoencoder.config.factor
    assert request.tiling is not None, "only asked where there are windows"
    width, height, overlap = (side // factor for side in request.tiling.sized(usual.width, usual.height))
    return windows(request.height // factor, request.width // factor, height, width, overlap)


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
    x0 = encoded(bundle, plan.canvas.picture, plan.request.decoding, around(plan.request))
    finite(x0, "encoder", bundle)
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
