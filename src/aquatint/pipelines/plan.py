"""A pass over a picture, planned: which nets are asked, what they are told, at which levels, from what it begins."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.base.noise import FILL, Noise
from aquatint.diffusion.denoisers import Denoiser, Pair, held
from aquatint.diffusion.grids import visited
from aquatint.diffusion.joined import switched
from aquatint.diffusion.prediction import PREDICTIONS, Prediction
from aquatint.diffusion.reuse import renewed
from aquatint.diffusion.schedule import Level, NoiseSchedule
from aquatint.diffusion.windows import Window, windowed, windows
from aquatint.nets.reuse import Kept, reusing
from aquatint.pipelines.adapted import adapted, embeddings_of, wanted
from aquatint.pipelines.approximations import reuse_of
from aquatint.pipelines.bundle import Bundle, finite
from aquatint.pipelines.edit import Canvas
from aquatint.pipelines.encode import tell
from aquatint.pipelines.guided import Nets, Words, memory, nets_for, pair_for
from aquatint.pipelines.micro import with_micro
from aquatint.pipelines.prompt import parse
from aquatint.pipelines.record import File
from aquatint.pipelines.refine import Refine, refiner_of
from aquatint.pipelines.refine import files_of as refiners_of
from aquatint.pipelines.request import Resolved
from aquatint.pipelines.shown import check_shown, shown
from aquatint.pipelines.steering import Span, Steering, steering
from aquatint.pipelines.tools import around, encoded, tileable


class Line(NamedTuple):
    """Down to the level `end` these nets are asked, which say this kind of prediction, and are told these words."""

    end: Level
    nets: Nets
    prediction: Prediction
    words: Words


Script = list[Line]


@dataclass(frozen=True)
class Plan:
    """What all pictures of a request share in one pass.

    turn    which pass it is, from 0
    after   what the refiner does of it, where there is one
    kept    what nets keep from step to step; it is forgotten before each picture
    """

    bundle: Bundle
    request: Resolved
    schedule: NoiseSchedule
    levels: list[Level]
    nets: Nets
    steering: Steering
    canvas: Canvas | None
    files: tuple[File, ...] = ()
    turn: int = 0
    after: "Plan | None" = None
    kept: Kept = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """What is there before painting begins.

    x0, mask     the latents of the picture, and where to paint (1) and where to keep it (0); None: everywhere
    fill         what the masked part begins from
    from_noise   whether painting begins from noise alone
    seen         whether the net is shown mask and picture itself, and need not be held to them
    """

    x0: Tensor
    mask: Tensor | None = None
    fill: str = "original"
    from_noise: bool = False
    seen: bool = False

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


def planned(bundle: Bundle, request: Resolved, steps: int, over: Canvas | None, before: Plan | None = None) -> Plan:
    """One pass: the last of the levels of a grid of that many steps; the pass before lends its nets if it can.

    Raises UserError for all of the request that the bundle cannot do.
    """
    check_shown(bundle.family, request)
    schedule = NoiseSchedule(bundle.family.schedule)
    levels = visited(request.grid, schedule, steps, dict(request.options))[-request.made - 1 :]
    loras = wanted(bundle, request)
    if before is not None and loras == wanted(bundle, before.request):
        on, files = before.bundle, before.files
    else:
        changed = adapted(bundle, loras)
        on, files = tileable(changed.bundle, around(request)), changed.files
    nets, steered = nets_for(on.unet, request, _asked(on, request)), steering(on, request, over)
    every = (*files, *embeddings_of(bundle, request), *steered.files, *refiners_of(bundle, request))
    turn = 0 if before is None else before.turn + 1
    plan = Plan(on, request, schedule, levels, nets, steered, over, tuple(dict.fromkeys(every)), turn)
    _check_windows(plan)
    return plan if request.refine is None else replace(plan, after=_refining(plan, request.refine))


def _refining(plan: Plan, refine: Refine) -> Plan:
    """The refiner's part of a pass; UserError where it would have no step."""
    refine.level(plan.levels, plan.schedule)
    refiner, request = refiner_of(plan.bundle, plan.request)
    on, request = tileable(refiner, around(request)), replace(request, controls=())
    nets = nets_for(on.unet, request, _asked(on, request))
    return replace(plan, bundle=on, request=request, nets=nets, steering=steering(on, request))


def script(plan: Plan) -> Script:
    """What the nets are told, prompt and negative encoded; mostly there is one line. A refiner's follow the base's."""
    lines, refine = _lines(plan), plan.request.refine
    if refine is None or plan.after is None:
        return lines
    cut = refine.level(plan.levels, plan.schedule)
    return [line._replace(end=line.end if line.end.ratio > cut.ratio else cut) for line in lines] + _lines(plan.after)


def _lines(plan: Plan) -> Script:
    """One model's."""
    bundle, request = plan.bundle, plan.request
    prompt = parse(request.prompt, request.grammar, steps=request.made)
    negative = parse(request.negative, request.grammar, steps=request.made, negative=True)
    extra, empty = shown(bundle, request, plan.canvas), None
    if request.guiding is not None and request.guiding.perp_neg is not None:
        silence = parse("", request.grammar, steps=request.made, negative=True)
        alone = tell(bundle, prompt, silence, request.clip_skip)
        empty = with_micro(alone, replace(request, negative=""), bundle.family)[0].negative
    lines, prediction = [], PREDICTIONS[bundle.family.prediction]
    told_all = with_micro(tell(bundle, prompt, negative, request.clip_skip), request, bundle.family)
    for told, span in plan.steering.over(told_all):
        away = replace(told.negative, concat=extra)
        toward = tuple((weight, replace(cond, concat=extra)) for weight, cond in told.positives)
        for _, cond in toward:
            finite(cond.context, "text encoder", bundle)
        nothing = None if empty is None else replace(span.away(empty), concat=extra)
        nets, words = _nets(plan, span), Words(toward, away, nothing)
        lines.append(Line(plan.levels[told.until], nets, prediction, words))
    return lines


def _nets(plan: Plan, span: Span) -> Nets:
    """The nets that are asked: steered, and run by the engine; or reusing deep features, which Python keeps."""
    reuse = reuse_of(plan.request)
    if reuse is None:
        return plan.nets.through(span.steer).quick(plan.bundle.engine.quick)
    return plan.nets.through(lambda unet: reusing(span.steer(unet), reuse.skips, plan.kept))


def pair_of(plan: Plan, told: Script) -> Pair:
    """The nets, told these words, as a denoiser with guidance; for CFG++ the negative too. New for each picture."""
    how = (plan.request, plan.levels, memory(plan.request))
    pair = switched([(line.end, pair_for(line.nets, line.words, line.prediction, *how)) for line in told])
    if (reuse := reuse_of(plan.request)) is not None:
        pair = renewed(pair, plan.levels, reuse.every, plan.kept.clear)
    tiling = plan.request.tiling
    return pair if tiling is None else windowed(pair, _windows(plan.bundle, plan.request), tiling.weights)


def known_of(plan: Plan) -> Known | None:
    """The picture that is edited, as latents; None where there is none."""
    if plan.canvas is None or plan.request.edit is None:
        return None
    bundle, edit = plan.bundle, plan.request.edit
    x0 = encoded(bundle, plan.canvas.picture, plan.request.decoding, around(plan.request))
    finite(x0, "encoder", bundle)
    mask = plan.canvas.latent_mask(x0.shape[2], x0.shape[3])
    mask = None if mask is None else mask.to(x0.device)
    sees = bundle.family.sees
    from_noise = edit.strength == 1 and (mask is not None or sees == "picture")
    return Known(x0, mask, edit.fill, from_noise=from_noise, seen=sees == "mask")


def files_of(plans: Iterable[Plan]) -> tuple[File, ...]:
    """The files besides the model that take part, each once."""
    return tuple(dict.fromkeys(file for plan in plans for file in plan.files))


def _asked(bundle: Bundle, request: Resolved) -> tuple[int, int]:
    """(height, width) of the latents that nets are asked about: the picture's, or a window's."""
    if request.tiling is None:
        _, height, width = bundle.latent_shape(request.width, request.height)
        return height, width
    rows, columns = _windows(bundle, request)[0]
    return rows.stop - rows.start, columns.stop - columns.start


def _windows(bundle: Bundle, request: Resolved) -> list[Window]:
    """The windows of a pass, in latents."""
    usual, factor = bundle.family.defaults, bundle.autoencoder.config.factor
    assert request.tiling is not None, "only asked where there are windows"
    width, height, overlap = (side // factor for side in request.tiling.sized(usual.width, usual.height))
    return windows(request.height // factor, request.width // factor, height, width, overlap)


def _check_windows(plan: Plan) -> None:
    """UserError for what sees or remembers the whole picture, where the net is asked about several windows of it."""
    request, bundle = plan.request, plan.bundle
    if request.tiling is None or len(_windows(bundle, request)) == 1:
        return
    if bundle.family.sees != "nothing":
        raise UserError(
            f"tiling with {bundle.family.name}, whose net is shown more than the latents.", "Another model."
        )
    if plan.steering.shaped:
        raise UserError(
            "tiling together with ControlNets or T2I-Adapters, whose hints are of one size.", "One of them."
        )
    if request.guiding is not None and request.guiding.apg is not None and request.guiding.apg.momentum:
        raise UserError("tiling together with guiding.apg.momentum.", "A momentum of 0.")
    if reuse_of(request) is not None:
        raise UserError("tiling together with approximations.reuse.", "One of the two, or a window that covers all.")
