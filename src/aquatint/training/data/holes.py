"""What an inpainting net is shown while it learns: pictures with holes that chance tears into them."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from aquatint.base import images
from aquatint.base.noise import HOLE, Noise
from aquatint.nets.autoencoder import Autoencoder

WHOLE = 0.25  # share of the samples whose hole is all of the picture, as Stable Diffusion's inpainting net learned
SHAPES = 4  # at most, in one hole


def holes(noise: Noise, height: int, width: int) -> Float[Tensor, "b 1 h w"]:
    """One hole a sample, 1 where to paint: one to four rectangles and thick strokes, or now and then everything."""
    drawn = noise.uniform((2 + 6 * SHAPES,), draw=HOLE).double().tolist()
    return torch.cat([_hole(row, height, width) for row in drawn])


def hidden(
    autoencoder: Autoencoder, pixels: UInt8[Tensor, "b 3 h w"], torn: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b k h2 w2"]:
    """What the net is shown behind the noisy latents: the hole at their size, and the latents of the rest.

    The hole is grey before it is encoded, and a latent belongs to it that has a pixel in it, as in painting
    (pipelines/shown.py). Each picture is encoded alone, so that none depends on another.
    """
    with torch.no_grad():
        rest = images.from_bytes(pixels) * (1.0 - torn)
        latents = torch.cat([autoencoder.encode(one[None]).float() for one in rest])
    return torch.cat([F.max_pool2d(torn, autoencoder.config.factor), latents], dim=1)


def _hole(drawn: list[float], height: int, width: int) -> Float[Tensor, "1 1 h w"]:
    whole, number, *rest = drawn
    if whole < WHOLE:
        return torch.ones(1, 1, height, width)
    mask = Image.new("1", (width, height))
    draw = ImageDraw.Draw(mask)
    for shape in range(1 + int(number * SHAPES)):
        kind, x, y, w, h, thick = rest[6 * shape : 6 * shape + 6]
        left, top = x * 0.9 * width, y * 0.9 * height
        if kind < 0.5:
            draw.rectangle([left, top, left + (0.1 + 0.5 * w) * width, top + (0.1 + 0.5 * h) * height], fill=1)
        else:
            across = max(1, round((0.04 + 0.16 * thick) * min(width, height)))
            draw.line([left, top, w * width, h * height], fill=1, width=across)
    return torch.from_numpy(np.array(mask, dtype=np.float32))[None, None]
