"""From a net to a denoiser, and from denoisers to denoisers: what is asked of a picture is wrapped round the net."""

from collections.abc import Callable
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
    other half is computed.

    rescale is the phi of Lin et al. 2023, equations 15 and 16: guidance widens the spread of what the net says, and
    this much of the widening is taken back, for each picture: out * (phi * std(out_cond) / std(out) + 1 - phi). It
    works on the net's own words (eps, v), not on x0, as it was published and as others compute it.
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
    both = _stack(negative, cond)

    def denoise(x: Latents, level: Level) -> tuple[Latents, Latents]:
        away, toward = ask(net, torch.cat([x, x]), level, both).chunk(2)
        out = away + scale * (toward - away)
        if rescale:
            out = out * (rescale * spread(toward) / spread(out) + (1 - rescale))
        return prediction.to_x0(x, out, level), prediction.to_x0(x, away, level)

    return denoise


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


def _stack(first: Conditioning, second: Conditioning) -> Conditioning:
    """Two batches as one; both have a vector or neither has, and so with the channels."""

    def joined(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        assert (a is None) == (b is None), "one half of the pair has what the other lacks"
        return None if a is None or b is None else torch.cat([a, b])

    return Conditioning(
        torch.cat([first.context, second.context]),
        joined(first.vector, second.vector),
        joined(first.concat, second.concat),
    )


def spread(out: Latents) -> Float[Tensor, "b 1 1 1"]:
    """Each picture's standard deviation, one by one: a reduction's order may change with the batch."""
    return torch.stack([picture.std() for picture in out]).reshape(-1, 1, 1, 1)
