"""Guidance in two directions, for a net that is shown a picture: toward the picture, and from there toward the text."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from aquatint.diffusion.denoisers import Answers, Asking, Conditioning, Net, ask, stacked
from aquatint.diffusion.schedule import Latents, Level


def pictured(
    net: Net, conds: Sequence[tuple[float, Conditioning]], negative: Conditioning, picture: float = 1.0
) -> Asking:
    """away = out_none + picture * (out_image - out_none), told = sum of weight_i * (out_i - out_image).

    With `scaled` that is Brooks et al. 2023 (InstructPix2Pix), equation 3: out_i is told the i-th text and shown the
    picture (the channels in `concat`), out_image the negative and the picture, out_none the negative and zeros. CFG++
    moves along away. One text is asked in a batch of 3 b rows, several one by one.
    """
    assert negative.concat is not None, "a net that is shown a picture"
    rows = [replace(negative, concat=torch.zeros_like(negative.concat)), negative, *(cond for _, cond in conds)]
    together = stacked(rows) if len(conds) == 1 else None

    def answers(x: Latents, level: Level) -> Answers:
        if together is None:
            none, image, *texts = (ask(net, x, level, row) for row in rows)
        else:
            none, image, *texts = ask(net, torch.cat([x] * 3), level, together).chunk(3)
        told = sum((weight * (text - image) for (weight, _), text in zip(conds, texts, strict=True)), 0 * image)
        return Answers(none + picture * (image - none), told, image + told, tuple(texts))

    return answers
