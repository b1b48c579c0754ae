"""Guidance beyond a scale: wrappers of what is asked, of guides, and of pairs, to be put round one another.

In this order, from the inside: what is asked (`twice`, `severally`, `perpendicular`), the scale (`scaled`, or in its
place `mimicked` or `projected`), `weakened` (PAG), `blurred` (SAG), `rescaled`, `judged` (answers become x0),
`thresholded`, and `interval` round all of it. Each does nothing, to the last bit, at its neutral strength.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from aquatint.diffusion.denoisers import Answers, Asking, Conditioning, Guide, Net, Pair, ask, scaled, stacked, twice
from aquatint.diffusion.joined import severally, switched
from aquatint.diffusion.prediction import Prediction
from aquatint.diffusion.schedule import Latents, Level

Running: TypeAlias = Callable[[Latents, Level], Latents]
Weighed: TypeAlias = Sequence[tuple[float, Conditioning]]
REACH = 4  # pixels of the latents to either side that SAG's blur sees


def once(net: Net, cond: Conditioning) -> Asking:
    """The prompt alone, where nothing is led away from."""

    def answers(x: Latents, level: Level) -> Answers:
        out = ask(net, x, level, cond)
        return Answers(out, 0 * out, out, (out,))

    return answers


def perpendicular(net: Net, conds: Weighed, negative: Conditioning, empty: Conditioning, weight: float) -> Asking:
    """told = main - weight * across, across = d - <d, main> / <main, main> main, d = out_negative - out_empty.

    Perp-Neg (Armandpour et al. 2023, section 4): main is what the prompts add to the empty one, and only that part of
    the negative counts which does not contradict it. A prompt that AND weighs below 0 is made perpendicular like the
    negative. One batch of three, the empty one first, where the contexts are equally long and there is one prompt.
    At weight 0 it is guidance away from the empty prompt.
    """
    if not weight:
        return twice(net, conds[0][1], empty) if len(conds) == 1 else severally(net, conds, empty)
    batch = [empty, negative, *(cond for _, cond in conds)]
    together = len(conds) == 1 and len({cond.context.shape for cond in batch}) == 1
    asked = [stacked(batch)] if together else batch

    def answers(x: Latents, level: Level) -> Answers:
        rows = torch.cat([x] * len(batch)) if together else x
        base, away, *each = torch.cat([ask(net, rows, level, cond) for cond in asked]).chunk(len(batch))
        adds = [(part, out - base) for (part, _), out in zip(conds, each, strict=True)]
        main = sum((part * add for part, add in adds if part > 0), 0 * base)
        told = main - weight * across(away - base, main)
        told = sum((part * across(add, main) for part, add in adds if part < 0), told)
        return Answers(base, told, base + main, tuple(each))

    return answers


def mimicked(scale: float, mimic: float, percentile: float, prediction: Prediction) -> Guide:
    """Guidance at `scale` in x0 whose spread is that of guidance at `mimic`, channel by channel.

    About its mean, x0 is held to s = max(percentile of |x0|, most of |x0_mimic|) and multiplied by
    most of |x0_mimic| / s. Dynamic thresholding (Saharia et al. 2022) for latents, as users of A1111 and ComfyUI know
    it ("CFG scale fix", sd-dynamic-thresholding: mode constant, from the mean, by absolute values). Neutral where the
    two scales are equal and the percentile is 1.
    """
    plain, small = scaled(scale), scaled(mimic)

    def out(answers: Answers, x: Latents, level: Level) -> Latents:
        wide = plain(answers, x, level)
        centred, low = (
            x0 - x0.mean((2, 3), keepdim=True)
            for x0 in (prediction.to_x0(x, said, level) for said in (wide, small(answers, x, level)))
        )
        most = low.abs().amax((2, 3), keepdim=True)
        held = torch.quantile(centred.abs().flatten(2), percentile, dim=2)[..., None, None].maximum(most)
        bounded = centred.clamp(-held, held) * (most / held.clamp(min=1e-12))
        return wide + in_words(prediction, bounded - centred, level)

    return out


def running(momentum: float) -> Running:
    """The memory of one painting: given d at a level, d + momentum * what it answered at the level before.

    It counts levels, not calls: a level that is asked again (Heun's two ends) is the same step. Made anew for each
    picture.
    """
    last: tuple[Level, Latents, Latents | None] | None = None

    def average(told: Latents, level: Level) -> Latents:
        nonlocal last
        if not momentum:
            return told
        before = None if last is None else last[2] if last[0].ratio == level.ratio else last[1]
        now = told if before is None or before.shape != told.shape else told + momentum * before
        last = level, now, before
        return now

    return average


def projected(scale: float, eta: float, norm: float, average: Running, prediction: Prediction) -> Guide:
    """x0 = x0_toward + (scale - 1) * (u - (1 - eta) u_along), u the change of x0 that guidance brings.

    Adaptive projected guidance (Sadat et al. 2024, algorithm 1): u is averaged over the steps (`running`), shortened to
    `norm` (0: not at all) and parted into what lies along x0_toward, which makes colours glare, and what lies across.
    Neutral at eta 1, norm 0 and momentum 0.
    """
    plain = scaled(scale)

    def out(answers: Answers, x: Latents, level: Level) -> Latents:
        told = prediction.to_x0(0 * x, answers.told, level)  # x0 is linear in x and what is said
        moved = average(told, level)
        if norm:
            moved = moved * (norm / dot(moved, moved).sqrt()).clamp(max=1)
        along = moved - across(moved, prediction.to_x0(x, answers.toward, level))
        change = (moved - told) + (eta - 1) * along
        return plain(answers, x, level) + (scale - 1) * in_words(prediction, change, level)

    return out


def weakened(guide: Guide, net: Net, conds: Weighed, scale: float) -> Guide:
    """out + scale * sum of weight_i * (out_i - weak_i): away from what a weaker net says of the same prompts.

    Perturbed-attention guidance (Ahn et al. 2024, equation 16), if the weaker net is one of `nets.perturbed.perturbed`.
    One more call for each prompt; none at scale 0.
    """
    if not scale:
        return guide

    def out(answers: Answers, x: Latents, level: Level) -> Latents:
        made = guide(answers, x, level)
        for (weight, cond), said in zip(conds, answers.each, strict=True):
            made = made + scale * weight * (said - ask(net, x, level, cond))
        return made

    return out


def blurred(
    guide: Guide,
    net: Net,
    cond: Conditioning,
    looks: Callable[[], Float[Tensor, "b n"]],
    size: Callable[[int, int], tuple[int, int]],
    scale: float,
    sigma: float,
    prediction: Prediction,
) -> Guide:
    """out + scale * (out_away - weak), weak what is said of x with x0 blurred where the net looked most.

    Self-attention guidance (Hong et al. 2023, algorithm 2): the mask is where the middle's self-attention, summed over
    queries, is above its average 1; there x0 is blurred by a Gaussian of deviation sigma (latent pixels), and the same
    eps is mixed in again. One more call, with the negative's `cond`; none at scale 0.

    looks   gives the attention of the last asking, the rows of away first;  size  of the attention's picture
    """
    if not scale:
        return guide

    def out(answers: Answers, x: Latents, level: Level) -> Latents:
        made = guide(answers, x, level)
        x0 = prediction.to_x0(x, answers.away, level)
        height, width = x.shape[2:]
        mask = (looks()[: len(x)] > 1).to(x.dtype).reshape(len(x), 1, *size(height, width))
        mask = F.interpolate(mask, (height, width))
        soft = blur(x0, sigma) * mask + x0 * (1 - mask)
        weak = ask(net, level.mix(soft, level.eps(x, x0)), level, cond)
        return made + scale * (answers.away - weak)

    return out


def thresholded(pair: Pair, percentile: float, limit: float) -> Pair:
    """The guided x0 held to s = max(percentile of |x0|, limit) and multiplied by limit / s, picture by picture.

    Dynamic thresholding (Saharia et al. 2022, section 2.3), where limit is 1 for pixels; latents of deviation 1 reach
    further. What stays within the limit is not changed.
    """

    def both(x: Latents, level: Level) -> tuple[Latents, Latents]:
        x0, away = pair(x, level)
        held = torch.quantile(x0.abs().flatten(1), percentile, dim=1).clamp(min=limit)[:, None, None, None]
        return x0.clamp(-held, held) * (torch.full_like(held, limit) / held), away  # 1 exactly where held is limit

    return both


def interval(pair: Pair, plain: Pair, levels: Sequence[Level], start: float, end: float) -> Pair:
    """One pair between two levels of noise, another before and after them (Kynkaanniemi et al. 2024).

    start, end   as shares of the steps between `levels`, in the order of sampling: 0 is the noisiest level
    """
    first, last = (int(share * (len(levels) - 1) + 1e-6) for share in (start, end))  # 0.29 * 100 is below 29
    before = [(levels[first], plain)] if first > 0 else []
    after = [(levels[-1], plain)] if last < len(levels) - 1 else []
    return switched([*before, (levels[last], pair), *after]) if before or after else pair


def in_words(prediction: Prediction, change: Latents, level: Level) -> Latents:
    """A change of x0, x staying as it is, as the change of what the net says."""
    return prediction.target(change, -(level.alpha / level.sigma) * change, level)


def across(change: Latents, main: Latents) -> Latents:
    """What of a change is perpendicular to main, picture by picture; all of it where main is 0."""
    return change - dot(change, main) / dot(main, main).clamp(min=1e-30) * main


def dot(one: Latents, two: Latents) -> Float[Tensor, "b 1 1 1"]:
    """Each picture's inner product, one by one: a reduction's order may change with the batch."""
    return torch.stack([(a * b).sum() for a, b in zip(one, two, strict=True)]).reshape(-1, 1, 1, 1)


def blur(x: Latents, sigma: float) -> Latents:
    """x by a Gaussian of nine by nine pixels, reflected at the edges (fewer where the picture is smaller)."""
    for dim in (2, 3):
        reach = min(REACH, x.shape[dim] - 1)
        places = torch.arange(-reach, reach + 1, dtype=torch.float32, device=x.device)
        weights = torch.exp(-0.5 * (places / sigma) ** 2)
        kernel = (weights / weights.sum()).to(x.dtype).reshape(1, 1, *((-1, 1) if dim == 2 else (1, -1)))
        sides = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
        x = F.conv2d(F.pad(x, sides, mode="reflect"), kernel.expand(x.shape[1], 1, -1, -1), groups=x.shape[1])
    return x
