"""From what a picture is told to a pair of denoisers: the request's guidance, put round the nets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.diffusion.denoisers import (
    Asking,
    Conditioning,
    Guide,
    Net,
    Pair,
    alike,
    judged,
    predictor,
    rescaled,
    scaled,
    twice,
)
from aquatint.diffusion.guidance import (
    Running,
    blurred,
    interval,
    mimicked,
    once,
    perpendicular,
    projected,
    running,
    thresholded,
    weakened,
)
from aquatint.diffusion.joined import composed, severally
from aquatint.diffusion.pictured import pictured
from aquatint.diffusion.prediction import Prediction
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import Level
from aquatint.nets.distilled import hearing
from aquatint.nets.freeu import freed
from aquatint.nets.perturbed import middle_size, perturbed, watched
from aquatint.nets.reuse import check_skips
from aquatint.nets.token_merging import merging
from aquatint.nets.unet import UNet
from aquatint.pipelines.approximations import merge_of, reuse_of
from aquatint.pipelines.guiding import Guiding
from aquatint.pipelines.request import Resolved


@dataclass(frozen=True)
class Nets:
    """A U-Net as guidance asks it: copies that share its weights.

    plain     the U-Net, with FreeU and token merging if these are asked for
    weak      with perturbed self-attention; None where it is not needed
    watched   with its middle's self-attention noted in `seen`; plain itself where that is not needed
    scale     of the guidance that is yet to be given: 1 for a net that hears it
    size      (height, width) of the middle for latents of a size
    """

    plain: Net
    weak: Net | None
    watched: Net
    scale: float
    seen: list[Tensor] = field(default_factory=list)
    size: Callable[[int, int], tuple[int, int]] = lambda height, width: (height, width)

    def through(self, wrap: Callable[[UNet], Net]) -> "Nets":
        """The same, each within a wrapper of U-Nets (pipelines/steering.py)."""
        assert isinstance(self.plain, UNet), "wrapped once"
        assert isinstance(self.watched, UNet)
        assert isinstance(self.weak, UNet | None)
        weak = None if self.weak is None else wrap(self.weak)
        plain = wrap(self.plain)
        return replace(
            self, plain=plain, weak=weak, watched=plain if self.watched is self.plain else wrap(self.watched)
        )

    def quick(self, run: Callable[[Net], Net]) -> "Nets":
        """The same, run by an engine that may leave Python out; but for the one that is watched by Python."""
        plain, weak = run(self.plain), None if self.weak is None else run(self.weak)
        return replace(self, plain=plain, weak=weak, watched=plain if self.watched is self.plain else self.watched)

    def looks(self) -> Tensor:
        """How much the middle's pixels were looked at since this was last asked, in the first call since then."""
        first = self.seen[0]
        self.seen.clear()
        return first


@dataclass(frozen=True)
class Words:
    """What the nets are told: prompts with their weights, the negative, and the empty prompt where that is needed."""

    toward: tuple[tuple[float, Conditioning], ...]
    away: Conditioning
    empty: Conditioning | None = None


def nets_for(unet: UNet, request: Resolved, size: tuple[int, int]) -> Nets:
    """The nets that a request's guidance needs; UserError where this U-Net or the sampler cannot do what is asked.

    size   (height, width) of the latents that they are asked about
    """
    how = request.guiding or Guiding()
    if (reuse := reuse_of(request)) is not None:
        check_skips(unet.config, reuse.skips)
        if how.sag is not None and how.sag.scale:
            raise UserError(
                "guiding.sag together with approximations.reuse, which leaves out the middle that it looks at.",
                "One of the two.",
            )
    for name in ("perp_neg", "sag"):
        if request.picture_guidance is not None and getattr(how, name) is not None:
            raise UserError(f"guiding.{name} for a model that is shown the picture.", "One of the others.")
    if SAMPLERS[request.sampler].pair:
        for name, asked in (("apg", how.apg), ("threshold.mimic", how.mimic)):
            if asked is not None:
                raise UserError(
                    f'guiding.{name} with the sampler "{request.sampler}".',
                    "Samplers without CFG++, whose guidance is no scale but a share.",
                )

    def free(net: UNet) -> UNet:
        u, net = how.freeu, merging(net, merge_of(request), *size)
        return net if u is None else freed(net, (u.b1, u.b2), (u.s1, u.s2), u.version)

    unet, scale = hearing(unet, request.guidance)
    plain = free(unet)
    weak = free(perturbed(unet, how.pag.layers)) if how.pag else None
    noted, seen = watched(plain) if how.sag and how.sag.scale else (plain, [])
    return Nets(plain, weak, noted, scale, seen, partial(middle_size, unet))


def pair_for(
    nets: Nets, words: Words, prediction: Prediction, request: Resolved, levels: Sequence[Level], average: Running
) -> Pair:
    """The denoiser of a request's guidance, and what CFG++ needs beside it.

    levels    of the whole path: the guidance interval is a share of its steps
    average   APG's memory, one for each picture (`memory`)
    """
    how, single = request.guiding or Guiding(), len(words.toward) == 1
    toward = ((1.0, words.toward[0][1]),) if single else words.toward
    bare = nets.scale == 1 and request.picture_guidance is None and single and not SAMPLERS[request.sampler].pair
    if single:
        plain = alike(predictor(nets.plain, prediction, toward[0][1]))
    else:
        plain = alike(composed(nets.plain, prediction, toward, words.away, 1.0))
    if bare and not (how.pag and how.pag.scale) and not (how.sag and how.sag.scale):
        pair = plain
    else:
        asking, base = _asking(nets.watched, toward, words, request, bare)
        guide = _scale(nets.scale, how, prediction, average)
        if how.pag is not None and nets.weak is not None:
            guide = weakened(guide, nets.weak, toward, how.pag.scale)
        if how.sag is not None:
            sag = (how.sag.scale, how.sag.blur)
            guide = blurred(guide, nets.plain, base, nets.looks, nets.size, *sag, prediction)
        pair = judged(asking, rescaled(guide, request.rescale), prediction)
    if how.threshold is not None and how.mimic is None:
        pair = thresholded(pair, how.threshold.share, how.threshold.limit)
    if how.interval is not None:
        pair = interval(pair, plain, levels, how.interval.start, how.interval.end)
    return pair


def memory(request: Resolved) -> Running:
    """What APG remembers of a picture while it is painted, nothing yet."""
    how = request.guiding
    return running(how.apg.momentum if how is not None and how.apg is not None else 0.0)


def _asking(
    net: Net, toward: tuple[tuple[float, Conditioning], ...], words: Words, request: Resolved, bare: bool
) -> tuple[Asking, Conditioning]:
    """What the net is asked, and what it is told in the answer that guidance leads away from."""
    if bare:
        return once(net, toward[0][1]), toward[0][1]
    if request.picture_guidance is not None:
        return pictured(net, toward, words.away, request.picture_guidance), words.away
    if request.guiding is not None and request.guiding.perp_neg is not None and words.empty is not None:
        return perpendicular(net, toward, words.away, words.empty, request.guiding.perp_neg), words.empty
    if len(toward) == 1:
        return twice(net, toward[0][1], words.away), words.away
    return severally(net, toward, words.away), words.away


def _scale(scale: float, how: Guiding, prediction: Prediction, average: Running) -> Guide:
    """The guide that makes the scale count."""
    if how.apg is not None:
        return projected(scale, how.apg.eta, how.apg.norm, average, prediction)
    if how.threshold is not None and how.threshold.mimic is not None:
        return mimicked(scale, how.threshold.mimic, how.threshold.share, prediction)
    return scaled(scale)
