"""Edits: a picture painted from another one, in whole or where a mask says."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from aquatint.base import images
from aquatint.base.errors import UserError
from aquatint.pipelines.checks import number
from aquatint.pipelines.given import Given

Fill = Literal["original", "blur", "noise", "nothing"]
Fit = Literal["exact", "stretch", "crop", "pad"]
MOST_BLUR = 256.0  # pixels
MOST_SIDE = 2_048  # pixels added at one side


@dataclass(frozen=True)
class Outpaint:
    """Pixels of new canvas at each side."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def __post_init__(self) -> None:
        for side, pixels in vars(self).items():
            if not 0 <= pixels <= MOST_SIDE or pixels % 8:
                raise UserError(f"outpaint {side} = {pixels}.", f"A multiple of 8 from 0 to {MOST_SIDE}.")


@dataclass(frozen=True)
class Edit:
    """A picture to begin from, and what of it is to change.

    image      what to begin from
    strength   share of the steps that are made, 0 < s <= 1: how far from the picture it goes (as diffusers counts:
               the last int(steps * strength) of them); None: 0.75, or 1 for a model that is shown the picture
    mask       white where to paint, black where to keep, grey for between; of the picture's size. None: everywhere
    invert     black is where to paint
    grow       pixels by which the mask's white part is widened (or narrowed, below 0)
    blur       standard deviation in pixels of the mask's soft edge
    fill       what the masked part begins from: the picture as it is, its blurred surroundings, or latents that are
               noise or nothing (0)
    masked     paint only the mask's surroundings, at the full size of the request, and set that into the picture
    padding    pixels of surroundings on each side that are seen with it
    keep       what the mask leaves out comes back with the bits that it had
    fit        what to do if the picture's size is not the request's: nothing (an error), stretch, crop, or pad
    outpaint   new canvas at the sides, to be painted; the picture grows by it

    Raises UserError for values out of range or at odds with one another.
    """

    image: Given
    strength: float | None = None
    mask: Given | None = None
    invert: bool = False
    grow: int = 0
    blur: float = 4.0
    fill: Fill = "original"
    masked: bool = False
    padding: int = 32
    keep: bool = True
    fit: Fit = "exact"
    outpaint: Outpaint | None = None

    def __post_init__(self) -> None:
        number("strength", 1.0 if self.strength is None else self.strength, 0.0, 1.0)
        number("blur", self.blur, 0.0, MOST_BLUR)
        number("grow", self.grow, -256, 256)
        number("padding", self.padding, 0, 1024)
        if self.strength == 0:
            raise UserError("strength = 0.", "More than 0, up to 1.", "At 0 nothing would change.")
        if self.mask is None and self.outpaint is None:
            named = [
                name for name, said in (("invert", self.invert), ("grow", self.grow), ("masked", self.masked)) if said
            ]
            if named or self.fill != "original":
                raise UserError(f"{(named or ['fill'])[0]} without a mask.", "A mask to which it applies.")
        if self.outpaint is not None and (self.mask is not None or self.masked):
            raise UserError("outpaint together with a mask.", "One of the two: outpaint makes its own mask.")
        if self.outpaint is not None and self.fit != "exact":
            raise UserError(f"outpaint together with fit = {self.fit}.", "One of the two.")
        if self.mask is not None and (self.mask.width, self.mask.height) != (self.image.width, self.image.height):
            raise UserError(
                f"The mask is {self.mask.width} x {self.mask.height} pixels, "
                f"the picture {self.image.width} x {self.image.height}.",
                "A mask of the picture's size.",
            )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the whole canvas in pixels, the new sides included."""
        more = self.outpaint or Outpaint()
        return self.image.width + more.left + more.right, self.image.height + more.top + more.bottom


@dataclass(frozen=True)
class Canvas:
    """An edit made ready for a size: what is painted over, where, and how it goes back into the whole.

    picture    RGB, of the request's size: what painting begins from
    mask       L, of that size, white where to paint; None for everywhere
    whole      the picture that the result is set into, if it is not the result itself; RGB
    place      where in `whole` the painted part lies: left, top, right, bottom in its pixels
    cover      L, of `whole`'s size: how much of the painted part shows
    """

    picture: Image.Image
    mask: Image.Image | None
    whole: Image.Image | None
    place: tuple[int, int, int, int]
    cover: Image.Image | None

    def finished(self, painted: Image.Image) -> Image.Image:
        """The painted picture set into the whole; where nothing of it shows, every bit is the whole's."""
        if self.whole is None or self.cover is None:
            return painted
        left, top, right, bottom = self.place
        layer = self.whole.copy()
        layer.paste(painted.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
        return Image.composite(layer, self.whole, self.cover)

    def latent_mask(self, height: int, width: int) -> Float[Tensor, "1 1 h w"] | None:
        """The mask as the latents see it: 1 where to paint, the mean of each latent's own pixels in between."""
        if self.mask is None:
            return None
        small = self.mask.resize((width, height), Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(small).astype(np.float32) / 255.0)[None, None]


def canvas(edit: Edit, width: int, height: int) -> Canvas:
    """The edit at a size in pixels; UserError where the sizes do not go together."""
    picture, mask = images.rgb(edit.image.pixels), _mask(edit)
    if edit.outpaint is not None:
        picture, mask = _grown(picture, edit.outpaint, edit.blur)
    if edit.masked:
        assert mask is not None, "checked when the edit was made"
        return _close(edit, picture, mask, width, height)
    if picture.size != (width, height):
        if edit.fit == "exact":
            raise UserError(
                f"The picture is {picture.width} x {picture.height} pixels, and {width} x {height} are asked for.",
                "A picture of the size that is painted.",
                "Say how it is to fit (stretch, crop or pad), or another size.",
            )
        picture = fitted(picture, width, height, edit.fit)
        mask = None if mask is None else fitted(mask, width, height, edit.fit)
    whole = picture if mask is not None and edit.keep else None
    seen = picture if mask is None else _filled(picture, mask, edit.fill)
    return Canvas(seen, mask, whole, (0, 0, width, height), mask)


def fitted(picture: Image.Image, width: int, height: int, fit: Fit) -> Image.Image:
    """Stretched to a size, cropped in the middle, or set in the middle with its edges drawn out."""
    if fit == "stretch":
        return picture.resize((width, height), Image.Resampling.LANCZOS)
    scales = width / picture.width, height / picture.height
    scale = max(scales) if fit == "crop" else min(scales)
    near = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    near = (max(near[0], width), max(near[1], height)) if fit == "crop" else (min(near[0], width), min(near[1], height))
    scaled = np.asarray(picture.resize(near, Image.Resampling.LANCZOS))
    across, down = (near[0] - width) // 2, (near[1] - height) // 2
    if fit == "crop":
        return Image.fromarray(np.ascontiguousarray(scaled[down : down + height, across : across + width]))
    pads = ((-down, height - near[1] + down), (-across, width - near[0] + across))
    return Image.fromarray(np.pad(scaled, (*pads, (0, 0)) if scaled.ndim == 3 else pads, mode="edge"))


def _mask(edit: Edit) -> Image.Image | None:
    """The mask as it is meant: grown, then softened; UserError if nothing is white in it."""
    if edit.mask is None:
        return None
    mask = images.rgb(edit.mask.pixels).convert("L")
    if edit.invert:
        mask = ImageChops.invert(mask)
    if edit.grow:
        kind = ImageFilter.MaxFilter if edit.grow > 0 else ImageFilter.MinFilter
        mask = mask.filter(kind(2 * abs(edit.grow) + 1))
    if edit.blur:
        mask = mask.filter(ImageFilter.GaussianBlur(edit.blur))
    if mask.getbbox() is None:
        raise UserError(
            "The mask has nothing to paint: it is black everywhere.", "White where to paint.", "Try invert."
        )
    return mask


def _grown(picture: Image.Image, sides: Outpaint, blur: float) -> tuple[Image.Image, Image.Image]:
    """The picture on its larger canvas, its edges drawn out over the new part, and the mask of that part.

    The mask is soft on the picture's side of the seam, so that what is new grows out of what is there.
    """
    pads = ((sides.top, sides.bottom), (sides.left, sides.right))
    larger = np.pad(np.asarray(picture), (*pads, (0, 0)), mode="edge")
    inner = np.zeros((picture.height, picture.width), np.uint8)
    mask = Image.fromarray(np.pad(inner, pads, constant_values=255))
    reach = int(2 * blur)
    soft = mask.filter(ImageFilter.MaxFilter(2 * reach + 1)).filter(ImageFilter.GaussianBlur(blur)) if reach else mask
    return Image.fromarray(larger), ImageChops.lighter(mask, soft)


def _close(edit: Edit, picture: Image.Image, mask: Image.Image, width: int, height: int) -> Canvas:
    """The mask's surroundings alone, in the shape of the request, enlarged or reduced to its size."""
    box = mask.getbbox()
    assert box is not None, "a mask without white is refused before"
    left, top, right, bottom = (
        box[0] - edit.padding,
        box[1] - edit.padding,
        box[2] + edit.padding,
        box[3] + edit.padding,
    )
    wide, high = right - left, bottom - top
    if wide * height < high * width:  # too narrow for the request's shape: widen, else heighten
        wide = -(-high * width // height)
    else:
        high = -(-wide * height // width)
    wide, high = min(wide, picture.width), min(high, picture.height)
    middle = (left + right) // 2, (top + bottom) // 2
    left = min(max(middle[0] - wide // 2, 0), picture.width - wide)
    top = min(max(middle[1] - high // 2, 0), picture.height - high)
    place = (left, top, left + wide, top + high)
    seen = picture.crop(place).resize((width, height), Image.Resampling.LANCZOS)
    part = mask.crop(place).resize((width, height), Image.Resampling.BILINEAR)
    return Canvas(_filled(seen, part, edit.fill), part, picture, place, _inside(mask, place))


def _inside(mask: Image.Image, place: tuple[int, int, int, int]) -> Image.Image:
    """The mask where the painted part lies, and black elsewhere."""
    cover = Image.new("L", mask.size, 0)
    cover.paste(mask.crop(place), place[:2])
    return cover


def _filled(picture: Image.Image, mask: Image.Image, fill: Fill) -> Image.Image:
    """What the masked part begins from, as far as pixels go: "noise" and "nothing" are put into the latents."""
    if fill == "blur":
        surroundings = picture
        # From wide to narrow, each blur fills what the one before left over with what lies nearer.
        for radius in (256, 64, 16, 4):
            outside = Image.composite(Image.new("RGB", picture.size), picture, mask)
            share = np.asarray(ImageChops.invert(mask).filter(ImageFilter.GaussianBlur(radius)), np.float32)[..., None]
            smooth = np.asarray(outside.filter(ImageFilter.GaussianBlur(radius)), np.float32)
            known = np.where(share > 1, smooth * 255 / np.maximum(share, 1), np.asarray(surroundings))
            near = Image.fromarray(known.clip(0, 255).astype(np.uint8))
            strong = Image.fromarray((share[..., 0].clip(0, 255)).astype(np.uint8))
            surroundings = near if radius == 256 else Image.composite(near, surroundings, strong)
        return Image.composite(surroundings, picture, mask)
    return picture
