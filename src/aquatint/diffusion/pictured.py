"""Guidance in two directions, for a net that is shown a picture: toward the picture, and from there toward the text."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from aquatint.diffusion.denoisers import Conditioning, Net, Pair, ask, spread
from aquatint.diffusion.prediction import Prediction
from aquatint.diffusion.schedule import Latents, Level


def pictured_pair(
    net: Net,
    prediction: Prediction,
    conds: Sequence[tuple[float, Conditioning]],
    negative: Conditioning,
    scale: float,
    rescale: float = 0.0,
    *,
    picture: float = 1.0,
) -> Pair:
    """out = out_none + picture * (out_image - out_none) + scale * sum of weight_i * (out_i - out_image).

    Brooks et al. 2023 (InstructPix2Pix), equation 3: out_i is told the i-th text and shown the picture (the channels in
    `concat`), out_image the negative and the picture, out_none the negative and zeros. Beside it stands what the net
    says of none, which CFG++ moves along. One text is asked in a batch of 3 b rows, several one by one.

    rescale is guided's, measured against out_image + sum of weight_i * (out_i - out_image).
    """
    assert negative.concat is not None, "a net that is shown a picture"
    nothing = replace(negative, concat=torch.zeros_like(negative.concat))

    def answers(x: Latents, level: Level) -> list[Tensor]:
        rows = [nothing, negative, *(cond for _, cond in conds)]
        if len(conds) > 1:
            return [ask(net, x, level, row) for row in rows]
        return list(ask(net, torch.cat([x] * 3), level, _stacked(rows)).chunk(3))

    def denoise(x: Latents, level: Level) -> tuple[Latents, Latents]:
        none, image, *texts = answers(x, level)
        told = sum((weight * (text - image) for (weight, _), text in zip(conds, texts, strict=True)), 0 * image)
        out = none + picture * (image - none) + scale * told
        if rescale:
            out = out * (rescale * spread(image + told) / spread(out) + (1 - rescale))
        return prediction.to_x0(x, out, level), prediction.to_x0(x, none, level)

    return denoise


def _stacked(rows: Sequence[Conditioning]) -> Conditioning:
    """Batches as one, the first on top; all have a vector or none has."""
    vectors = [row.vector for row in rows if row.vector is not None]
    channels = [row.concat for row in rows if row.concat is not None]
    assert len(vectors) in (0, len(rows)), "a part of the batch has what the others lack"
    assert len(channels) == len(rows), "a part of the batch is shown what the others are not"
    context = torch.cat([row.context for row in rows])
    return Conditioning(context, torch.cat(vectors) if vectors else None, torch.cat(channels))
