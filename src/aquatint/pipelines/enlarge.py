"""Enlarging: latents by interpolation, pictures by interpolation or by a trained upscaler."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from aquatint.base import images
from aquatint.base.errors import UserError
from aquatint.nets.upscaler import Upscaler

WAYS: dict[str, tuple[str, bool]] = {  # F.interpolate's mode, and whether it is smoothed first
    "latent": ("bilinear", False),
    "latent_antialiased": ("bilinear", True),
    "latent_bicubic": ("bicubic", False),
    "latent_bicubic_antialiased": ("bicubic", True),
    "latent_nearest": ("nearest", False),
    "latent_nearest_exact": ("nearest-exact", False),
}
FILTERS = {"lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}
REACH = 4  # pixels beyond an edge that an interpolation may look at
MOST_TURNS = 3  # times that an upscaler is asked before the rest is interpolated


def latents_to(
    latents: Float[Tensor, "b c h w"], height: int, width: int, way: str, around: tuple[bool, bool] = (False, False)
) -> Float[Tensor, "b c h2 w2"]:
    """Latents at another size, by a way in WAYS (A1111's "Latent" upscalers); the same bits at the same size.

    around   whether they go on at the other side, down and across (a seamless tile)
    """
    if tuple(latents.shape[2:]) == (height, width):
        return latents
    mode, smooth = WAYS[way]

    def interpolated(x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size=size, mode=mode, antialias=smooth)

    return _around(latents, (height, width), around, interpolated)


def picture_to(
    picture: Image.Image,
    width: int,
    height: int,
    way: str | Upscaler,
    around: tuple[bool, bool] = (False, False),
    tile: int = 512,
) -> Image.Image:
    """A picture at another size in pixels: by a filter in FILTERS, or by a net, and Lanczos for what it leaves.

    A net is asked again, up to three times, while the picture is smaller than it shall be, as A1111 does. UserError
    where it gives what are no finite numbers, or would make more pixels on the way than base.images takes.
    """
    if picture.size == (width, height):
        return picture
    if isinstance(way, str):

        def filtered(x: Tensor, size: tuple[int, int]) -> Tensor:
            (one,) = images.to_pictures(x)
            return images.to_tensor(one.resize((size[1], size[0]), FILTERS[way]))

        return images.to_pictures(_around(images.to_tensor(picture), (height, width), around, filtered))[0]
    for _ in range(MOST_TURNS):
        if way.scale == 1 or (picture.width >= width and picture.height >= height):
            break
        wide, high = picture.width * way.scale, picture.height * way.scale
        if wide * high > images.LARGEST_AREA:
            raise UserError(
                f'"{way.name}" would make {wide} x {high} pixels on the way.',
                f"At most {images.LARGEST_AREA:,} in all.",
                "Take lanczos, or a smaller picture.",
            )
        x = way(images.to_tensor(picture), tile, around)
        if not bool(torch.isfinite(x).all()):
            raise UserError(
                f'"{way.name}" gave values that are not finite numbers.', "Sound weights.", "Try --dtype float32."
            )
        (picture,) = images.to_pictures(x)
    return picture_to(picture, width, height, "lanczos", around)


def cut(x: Float[Tensor, "b c h w"], height: int, width: int) -> Float[Tensor, "b c h2 w2"]:
    """The middle of x, of that size."""
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]


def _around(
    x: Tensor,
    size: tuple[int, int],
    around: tuple[bool, bool],
    way: Callable[[Tensor, tuple[int, int]], Tensor],
) -> Tensor:
    """way(x, size), where x is first drawn out beyond the edges that meet by what is cut off again afterwards."""
    pads = []
    for side, target, meets in zip(x.shape[2:], size, around, strict=True):
        step = side // math.gcd(side, target)  # the fewest pixels that become a whole number of them
        pads.append(-(-min(REACH, side) // step) * step if meets else 0)
    down, across = pads
    grown = [pad * target // side for pad, target, side in zip(pads, size, x.shape[2:], strict=True)]
    drawn = torch.cat([x[:, :, x.shape[2] - down :], x, x[:, :, :down]], dim=2) if down else x
    drawn = torch.cat([drawn[..., x.shape[3] - across :], drawn, drawn[..., :across]], dim=3) if across else drawn
    made = way(drawn, (size[0] + 2 * grown[0], size[1] + 2 * grown[1]))
    return made[:, :, grown[0] : grown[0] + size[0], grown[1] : grown[1] + size[1]]
