"""Pictures larger than a net was trained for: it is asked about overlapping windows, and its answers are joined."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from aquatint.base.errors import unknown
from aquatint.diffusion.denoisers import Pair
from aquatint.diffusion.schedule import Latents, Level

Window = tuple[slice, slice]  # rows, columns


def windowed(pair: Pair, windows: Sequence[Window], weights: str = "even") -> Pair:
    """sum_i w_i * pair(x in window i) / sum_i w_i: MultiDiffusion (Bar-Tal et al. 2023, eq. 5) at every level.

    weights   a name in WEIGHTS. Windows are of one size, each is asked in a batch of its own, in their order. Where a
              single one covers x its answer is the result, to the last bit
    """
    if weights not in WEIGHTS:
        raise unknown("weights", weights, WEIGHTS)

    def denoise(x: Latents, level: Level) -> tuple[Latents, Latents]:
        if len(windows) == 1 and windows[0] == (slice(0, x.shape[2]), slice(0, x.shape[3])):
            return pair(x, level)
        rows, columns = windows[0]
        share = WEIGHTS[weights](rows.stop - rows.start, columns.stop - columns.start).to(x.device)
        sums, total = [torch.zeros_like(x), torch.zeros_like(x)], torch.zeros_like(x[:1, :1])
        for rows, columns in windows:
            for whole, part in zip(sums, pair(x[:, :, rows, columns].contiguous(), level), strict=True):
                whole[:, :, rows, columns] += part * share
            total[:, :, rows, columns] += share
        return sums[0] / total, sums[1] / total

    return denoise


def windows(height: int, width: int, tall: int, wide: int, overlap: int) -> list[Window]:
    """Windows of tall x wide (or less, where the whole is less) over height x width, row by row.

    Neighbours share `overlap` or more; they are spread evenly, and the last ones end with the picture.
    """
    rows, columns = _begins(height, tall, overlap), _begins(width, wide, overlap)
    tall, wide = min(tall, height), min(wide, width)
    return [(slice(top, top + tall), slice(left, left + wide)) for top in rows for left in columns]


def _begins(side: int, window: int, overlap: int) -> list[int]:
    if window >= side:
        return [0]
    count = math.ceil((side - overlap) / (window - overlap))
    return [round(index * (side - window) / (count - 1)) for index in range(count)]


def even(height: int, width: int) -> Float[Tensor, "h w"]:
    """1 everywhere: MultiDiffusion."""
    return torch.ones(height, width)


def gaussian(height: int, width: int) -> Float[Tensor, "h w"]:
    """exp(-(u^2 + v^2) / (2 * 0.01)), u and v being the distance from the window's middle in windows.

    The weights of Mixture of Diffusers (Barbero Jimenez 2023). A thousandth is the least, so that every latent has a
    weight that float32 can divide by.
    """

    def bell(side: int) -> Tensor:
        return torch.exp(-(((torch.arange(side) + 0.5) / side - 0.5) ** 2) / 0.02)

    return (bell(height)[:, None] * bell(width)[None]).clamp(min=1e-3)


WEIGHTS = {"even": even, "gaussian": gaussian}
