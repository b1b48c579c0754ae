"""From a request to pictures: the sentence that the whole house is built round."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from aquatint.base import runtime
from aquatint.base.replay import noise_from
from aquatint.diffusion.denoisers import Pair, first
from aquatint.diffusion.grids import options_of
from aquatint.diffusion.joined import wrapped
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.steps import Step
from aquatint.nets.upscaler import Upscaler
from aquatint.pipelines.bundle import Bundle, finite
from aquatint.pipelines.edit import canvas
from aquatint.pipelines.hires import second
from aquatint.pipelines.picture import Picture, Progress
from aquatint.pipelines.plan import Known, Plan, Script, files_of, known_of, pair_of, planned, script
from aquatint.pipelines.record import File, record_of
from aquatint.pipelines.request import Request
from aquatint.pipelines.safety import check_safety, judged
from aquatint.pipelines.stream import Stream
from aquatint.pipelines.tools import around, decoded, enlarged, tools_of, upscaler_of
from aquatint.pipelines.variation import first_noise

Course = Generator[Progress, None, None]


@dataclass(frozen=True)
class _Making:
    """A request's passes, each with what its nets are told; what enlarges between them; files for the record."""

    plans: Sequence[Plan]
    scripts: Sequence[Script]
    way: str | Upscaler
    files: tuple[File, ...]


def generate(bundle: Bundle, request: Request) -> Course:
    """Paint a request: a Progress after every step, the last one of each picture with the Picture.

    Pictures come one after the other, each computed alone (one row, or a few with guidance), so that the picture for a
    seed has the same bits in any company. Closing the generator cancels. A request that the model cannot fulfil is
    refused here, before the first step; NonFiniteError stops at the first value that is no number.
    """
    resolved = request.resolved(bundle.family)
    over = canvas(resolved.edit, resolved.width, resolved.height) if resolved.edit else None
    way = upscaler_of(bundle, resolved)
    plans = [planned(bundle, resolved, resolved.steps, over)]
    if (later := second(resolved, bundle.family)) is not None:
        plans.append(planned(bundle, *later, None, plans[0]))
    files = (*files_of(plans), *tools_of(bundle, resolved, way), *check_safety(bundle, resolved))
    return _pinned(bundle, _pictures(plans, way, files))


def _pictures(plans: Sequence[Plan], way: str | Upscaler, files: tuple[File, ...]) -> Course:
    plans[0].bundle.count()
    began, request = time.perf_counter(), plans[0].request
    known, scripts = known_of(plans[0]), [script(plan) for plan in plans]
    making = _Making(plans, scripts, way, files)
    text = time.perf_counter() - began
    for number, seed in enumerate(request.seeds):
        progress = Progress(0, request.total, number, len(request.seeds), seed)
        yield from _picture(making, known, progress, text)
        text = 0.0  # the words were encoded once for all


def _picture(making: _Making, known: Known | None, progress: Progress, text: float) -> Course:
    """One picture from its seed: noise, steps, a second pass where one is asked for, decoder."""
    seconds = {"text": text, "steps": 0.0, "decode": 0.0}
    plan, *later = making.plans
    bundle, request = plan.bundle, plan.request
    pair, *pairs = map(pair_of, making.plans, making.scripts)
    last = yield from _pass(plan, pair, known, progress, seconds)
    x, x0 = last.x, last.x0
    for after, pair in zip(later, pairs, strict=True):
        began, hires = time.perf_counter(), request.hires
        assert hires is not None, "what a second pass is made from"
        x = x0 = finite(enlarged(bundle, x, request, hires, making.way), "upscaler", bundle)
        seconds["decode"] += time.perf_counter() - began
        if hires.strength:
            last = yield from _pass(after, pair, Known(x), replace(progress, index=request.made), seconds)
            x, x0 = last.x, last.x0
    began = time.perf_counter()
    image = decoded(making.plans[-1].bundle, x, request.decoding, around(request))
    image = plan.canvas.finished(image) if plan.canvas else image
    image, flagged = judged(bundle, request.alone(progress.seed), image)
    seconds["decode"] += time.perf_counter() - began
    record = record_of(replace(request, seeds=(progress.seed,)), bundle.model, bundle.key, making.files)
    picture = Picture(image, record, seconds, flagged)
    yield replace(progress, index=progress.total, x0=x0, picture=picture)


def _pass(
    plan: Plan, pair: Pair, known: Known | None, progress: Progress, seconds: dict[str, float]
) -> Generator[Progress, None, Step]:
    """From noise, or from what is known, to clean latents: one walk over the levels. Its last step is not told of."""
    began, before = time.perf_counter(), progress.index
    bundle, request = plan.bundle, plan.request
    sampler, stream = SAMPLERS[request.sampler], request.stream or Stream()
    shape, factor = bundle.latent_shape(request.width, request.height), bundle.autoencoder.config.factor
    where: dict[str, int] = {"turn": plan.turn, "place": stream.place, "of": stream.of}
    noise = noise_from(request.noise, (progress.seed,), request.ensd, **where)
    eps = first_noise(
        request.noise, progress.seed, shape, request.variation, factor=factor, device=bundle.device, **where
    )
    options = {name: value for name, value in request.options if name not in options_of(request.grid)}
    start = plan.schedule.prior(plan.levels[0], eps, options.pop("start", sampler.start))
    if known is not None:
        start = known.start(start, plan.levels[0], eps, noise)
        pair = wrapped(partial(known.holding, eps=eps), pair)
    options |= {} if request.eta is None else {"eta": request.eta}
    for step in sampler(first(pair), start, plan.levels, noise, schedule=plan.schedule, pair=pair, **options):
        finite(step.x, f"U-Net (step {step.index + 1})", bundle)
        progress = replace(progress, index=before + step.index + 1, x0=step.x0)
        seconds["steps"] += time.perf_counter() - began
        if progress.index < progress.total:
            yield progress
        began = time.perf_counter()
    return step


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
