"""From a net to a denoiser, and from denoisers to denoisers: what is asked of a picture is wrapped round the net."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from aquatint.diffusion.prediction import Prediction
from aquatint.diffusion.schedule import Latents, Level

# net(x, t, context, vector): t is float32 [b]; the answer has x's height and width.
Net: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
# denoise(x, level): the clean picture x0 that the noisy x is thought to hold, in x's precision (float32).
Denoiser: TypeAlias = Callable[[Latents, Level], Latents]
# pair(x, level): what the denoiser says, and what the negative alone says: CFG++ moves along the latter's eps.
Pair: TypeAlias = Callable[[Latents, Level], tuple[Latents, Latents]]


@dataclass(frozen=True)
class Conditioning:
    """What a net is told of a picture beside the noisy picture and the time.

    context  what cross-attention looks at: the text, n tokens wide d
    vector   what is added to the time embedding, if the net takes it
    concat   channels set behind the noisy picture's own (an inpainting net's mask and masked picture)
    """

    context: Float[Tensor, "b n d"]
    vector: Float[Tensor, "b v"] | None = None
    concat: Float[Tensor, "b c h w"] | None = None


def predictor(net: Net, prediction: Prediction, cond: Conditioning) -> Denoiser:
    """The net as a denoiser: one forward pass on one batch, read as the prediction that the net makes."""

    def denoise(x: Latents, level: Level) -> Latents:
        return prediction.to_x0(x, ask(net, x, level, cond), level)

    return denoise


@dataclass(frozen=True)
class Answers:
    """What the net said of one x at one level, in its own words (eps, v or x0): what guidance is computed from.

    away     of what guidance leads away from: the negative
    told     what the prompts add to it: out_prompt - away, or such a sum
    toward   away + told: what the prompts alone would have, with no guidance
    each     of each prompt
    """

    away: Latents
    told: Latents
    toward: Latents
    each: tuple[Latents, ...]


# asking(x, level): the forward passes that guidance needs
Asking: TypeAlias = Callable[[Latents, Level], Answers]
# guide(answers, x, level): one answer made of several, in the net's own words
Guide: TypeAlias = Callable[[Answers, Latents, Level], Latents]


def guided(
    net: Net,
    prediction: Prediction,
    cond: Conditioning,
    negative: Conditioning,
    scale: float,
    rescale: float = 0.0,
) -> Denoiser:
    """Classifier-free guidance: out = out_negative + scale * (out_cond - out_negative) (Ho and Salimans 2022).

    The net sees one batch of 2 b rows, the negative ones first. At scale 1 the negative has no say, and only the
    other half is computed. rescale is `rescaled`'s.
    """
    if scale == 1:
        return predictor(net, prediction, cond)
    return first(paired(net, prediction, cond, negative, scale, rescale))


def paired(
    net: Net,
    prediction: Prediction,
    cond: Conditioning,
    negative: Conditioning,
    scale: float,
    rescale: float = 0.0,
) -> Pair:
    """What `guided` says, and the negative's own x0 beside it, from the same forward pass: for CFG++."""
    return judged(twice(net, cond, negative), rescaled(scaled(scale), rescale), prediction)


def judged(asking: Asking, guide: Guide, prediction: Prediction) -> Pair:
    """Answers, made into one by a guide, as x0; and x0 of the negative's answer beside it."""

    def denoise(x: Latents, level: Level) -> tuple[Latents, Latents]:
        answers = asking(x, level)
        out = guide(answers, x, level)
        return prediction.to_x0(x, out, level), prediction.to_x0(x, answers.away, level)

    return denoise


def twice(net: Net, cond: Conditioning, negative: Conditioning) -> Asking:
    """The negative and the prompt, in one batch of two."""
    both = stacked((negative, cond))

    def answers(x: Latents, level: Level) -> Answers:
        away, toward = ask(net, torch.cat([x, x]), level, both).chunk(2)
        return Answers(away, toward - away, toward, (toward,))

    return answers


def scaled(scale: float) -> Guide:
    """out = away + scale * told: guidance itself."""
    return lambda answers, x, level: answers.away + scale * answers.told


def rescaled(guide: Guide, phi: float) -> Guide:
    """out * (phi * std(toward) / std(out) + 1 - phi), for each picture (Lin et al. 2023, equations 15 and 16).

    Guidance widens the spread of what the net says, and this much of the widening is taken back. It works on the net's
    own words (eps, v), not on x0, as it was published and as others compute it.
    """
    if not phi:
        return guide

    def out(answers: Answers, x: Latents, level: Level) -> Latents:
        wide = guide(answers, x, level)
        return wide * (phi * spread(answers.toward) / spread(wide) + (1 - phi))

    return out


def first(pair: Pair) -> Denoiser:
    """The denoiser of a pair."""
    return lambda x, level: pair(x, level)[0]


def alike(denoise: Denoiser) -> Pair:
    """A denoiser as a pair of itself, as if there were no guidance."""

    def both(x: Latents, level: Level) -> tuple[Latents, Latents]:
        x0 = denoise(x, level)
        return x0, x0

    return both


def held(denoise: Denoiser, known: Latents, mask: Float[Tensor, "#b 1 h w"], eps: Latents) -> Denoiser:
    """A denoiser that knows part of the picture: for inpainting with any net and any sampler.

    known  the picture, of which the region where mask is 1 is held; where it is 0 nothing changes, and between them
           the two are mixed
    eps    the noise that is mixed into the known picture to show it to the net at each level: the noise that the
           sampling started from, so that the region lies on one path from beginning to end

    Within the mask the net is shown known at the level's noise, whatever the sampler has there, and the answer is
    known itself: a sampler that ends clean ends on it, to the last bit where its last step is x0 itself (ddim, euler,
    euler_a, heun, dpmpp_2m) and to rounding where it moves along a mean of eps (plms, pndm, lms).
    """

    def hold(x: Latents, level: Level) -> Latents:
        seen = x * (1 - mask) + level.mix(known, eps) * mask
        return denoise(seen, level) * (1 - mask) + known * mask

    return hold


def ask(net: Net, x: Latents, level: Level, cond: Conditioning) -> Latents:
    """What the net says of x at a level, in x's precision."""
    if isinstance(level.t, Tensor):
        t = level.t.to(x.device, torch.float32).reshape(-1).expand(len(x))
    else:
        t = torch.full((len(x),), level.t, dtype=torch.float32, device=x.device)
    seen = x if cond.concat is None else torch.cat([x, cond.concat], dim=1)
    return net(seen, t, cond.context, cond.vector).to(x.dtype)


def stacked(conds: Sequence[Conditioning]) -> Conditioning:
    """Several batches as one; all have a vector or none has, and so with the channels."""

    def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
        held = [part for part in parts if part is not None]
        assert len(held) in (0, len(parts)), "one half of the pair has what the other lacks"
        return torch.cat(held) if held else None

    return Conditioning(
        torch.cat([cond.context for cond in conds]),
        joined([cond.vector for cond in conds]),
        joined([cond.concat for cond in conds]),
    )


def spread(out: Latents) -> Float[Tensor, "b 1 1 1"]:
    """Each picture's standard deviation, one by one: a reduction's order may change with the batch."""
    return torch.stack([picture.std() for picture in out]).reshape(-1, 1, 1, 1)
