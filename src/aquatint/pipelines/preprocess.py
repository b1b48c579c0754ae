"""From a picture to a hint: preprocessors that need no weights, and what CLIP sees of a picture."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from aquatint.base import images
from aquatint.base.errors import UserError

Array = NDArray[Any]
# Of the pictures that CLIP was trained on, colour by colour.
CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Option:
    """A number that a preprocessor takes: the usual one, and its range."""

    usual: float
    low: float
    high: float


@dataclass(frozen=True)
class Preprocessor:
    """An RGB picture -> the hint, RGB and of its size; what it does, and its options."""

    make: Callable[..., Image.Image]
    what: str
    options: Mapping[str, Option] = field(default_factory=dict)

    def __call__(self, picture: Image.Image, options: Iterable[tuple[str, float]] = ()) -> Image.Image:
        """The hint; UserError for an option that it has not, or out of range."""
        usual = {name: option.usual for name, option in self.options.items()}
        return self.make(images.rgb(picture), **(usual | dict(self.checked(options)))).convert("RGB")

    def checked(self, options: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
        """The options sorted, each known, once, and within its range."""
        pairs = [(str(name), value) for name, value in options]
        for name, value in pairs:
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise UserError(f'The preprocessor has no option "{name[:40]}".', f"Its options: {known}.")
            row = self.options[name]
            if not isinstance(value, int | float) or isinstance(value, bool) or not row.low <= value <= row.high:
                raise UserError(f"{name} = {str(value)[:40]}.", f"A number from {row.low:g} to {row.high:g}.")
        if len(dict(pairs)) != len(pairs):
            raise UserError("An option of the preprocessor is named twice.", "Each once.")
        return tuple(sorted((name, float(value)) for name, value in pairs))


def canny(picture: Image.Image, low: float = 100, high: float = 200, sigma: float = 0) -> Image.Image:
    """Edges, white on black and one pixel wide (Canny 1986), as OpenCV draws them where sigma is 0: so were the hints
    that ControlNets for edges were trained on.

    sigma       of the Gaussian before, in pixels; 0: none
    low, high   of |dx| + |dy| by Sobel's 3x3, in the colour where that is greatest: what is over `high` is an edge, and
                what is over `low` and joined to one
    """
    across, down, length = _gradient(
        _smooth(np.asarray(colour).astype(np.float32), sigma) for colour in picture.split()
    )
    thin = _ridges(length, across, down)
    edges = _joined(thin & (length > low), thin & (length > max(low, high)))
    return Image.fromarray(edges.astype(np.uint8) * 255)


def scribble(
    picture: Image.Image, low: float = 60, high: float = 120, sigma: float = 2, width: float = 5
) -> Image.Image:
    """The larger edges as if drawn with a thick pen, `width` pixels wide (odd), white on black."""
    return canny(picture, low, high, sigma).filter(ImageFilter.MaxFilter(2 * (int(width) // 2) + 1))


def tile(picture: Image.Image, scale: float = 4) -> Image.Image:
    """The picture without what is smaller than `scale` pixels: reduced by means, enlarged again."""
    small = max(1, round(picture.width / scale)), max(1, round(picture.height / scale))
    return picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BICUBIC)


def threshold(picture: Image.Image, value: float = 128) -> Image.Image:
    """White where the grey is at least `value` (0 ... 255), black elsewhere."""
    return picture.convert("L").point([255 * (level >= value) for level in range(256)])


def hint(
    picture: Image.Image, preprocess: str, options: Iterable[tuple[str, float]] = (), mask: Image.Image | None = None
) -> Float[Tensor, "1 3 h w"]:
    """The hint of a picture as the nets take it: 0 ... 1, and with a mask -1 where that is white (at least 128)."""
    made = np.array(PREPROCESSORS[preprocess](picture, options)).astype(np.float32) / 255
    if mask is not None:
        made[np.asarray(mask.convert("L")) >= 128] = -1
    return torch.from_numpy(made.transpose(2, 0, 1).copy())[None]


def clip_pixels(picture: Image.Image, size: int) -> Float[Tensor, "1 3 s s"]:
    """What CLIP's image half sees: the shorter side brought to `size` pixels (bicubic), the middle square of it, each
    colour minus its mean and by its deviation. What is longer than sixteen times its width is cut to that first."""
    picture = images.rgb(picture)
    shorter = min(picture.size)
    picture = _middle(picture, min(picture.width, 16 * shorter), min(picture.height, 16 * shorter))
    near = picture.resize((size * picture.width // shorter, size * picture.height // shorter), Image.Resampling.BICUBIC)
    pixels = np.asarray(_middle(near, size, size)).astype(np.float32) / 255
    made = (pixels - np.array(CLIP_MEAN, np.float32)) / np.array(CLIP_DEVIATION, np.float32)
    return torch.from_numpy(made.transpose(2, 0, 1).copy())[None]


def _middle(picture: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _smooth(x: Array, sigma: float) -> Array:
    """A Gaussian along rows and columns [h, w]; the picture's edges are continued."""
    if sigma <= 0:
        return x
    reach = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    weights /= weights.sum()
    for axis in (0, 1):
        pads = [(0, 0), (0, 0)]
        pads[axis] = (reach, reach)
        padded, side = np.pad(x, pads, mode="edge"), x.shape[axis]
        x = sum((weight * padded.take(range(at, at + side), axis) for at, weight in enumerate(weights)), 0 * x)
    return x


def _gradient(colours: Iterable[Array]) -> tuple[Array, Array, Array]:
    """Derivatives to the right and downwards, and the gradient's length, of the colour where that is greatest."""
    (across, down, length), *others = ((*row, np.abs(row[0]) + np.abs(row[1])) for row in map(_sobel, colours))
    for more in others:
        longer = more[2] > length
        for kept, new in zip((across, down, length), more, strict=True):
            np.copyto(kept, new, where=longer)
    return across, down, length


def _sobel(x: Array) -> tuple[Array, Array]:
    """Sobel's derivatives [h, w] to the right and downwards; the picture's edges are continued."""
    p = np.pad(x, 1, mode="edge")
    rows = p[:-2] + 2 * p[1:-1] + p[2:]
    columns = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    return rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]


def _ridges(length: Array, across: Array, down: Array) -> Array:
    """Where the gradient is longer than on either side of it, in the nearest of four directions."""
    p = np.pad(length, 1)
    height, width = length.shape

    def beside(dy: int, dx: int) -> Array:
        return p[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    octant = np.round(np.arctan2(down, across) / (math.pi / 4)).astype(np.int8) % 4
    found = np.zeros(length.shape, bool)
    for number, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        after, before = beside(dy, dx), beside(-dy, -dx)
        # Along rows and columns an edge between two pixels is as long on both: the first of them is taken.
        longer = (length > after) if number % 2 else (length >= after)
        found |= (octant == number) & longer & (length > before)
    return found


def _joined(weak: Array, strong: Array) -> Array:
    """The strong pixels and the weak ones that a path of weak ones joins to them, in eight directions."""
    height, width = weak.shape
    free = np.pad(weak, 1).ravel()
    steps = np.array([dy * (width + 2) + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx])
    front = np.flatnonzero(np.pad(strong, 1).ravel())
    found = np.zeros(free.shape, bool)
    found[front] = True
    while front.size:
        near = np.unique((front[:, None] + steps).ravel())
        front = near[free[near] & ~found[near]]
        found[front] = True
    return found.reshape(height + 2, width + 2)[1:-1, 1:-1]


PREPROCESSORS: dict[str, Preprocessor] = {
    "none": Preprocessor(lambda picture: picture, "the picture is the hint"),
    "canny": Preprocessor(
        canny,
        "edges, one pixel wide (Canny 1986)",
        {"low": Option(100, 0, 2000), "high": Option(200, 0, 2000), "sigma": Option(0, 0, 20)},
    ),
    "scribble": Preprocessor(
        scribble,
        "the larger edges, drawn with a thick pen",
        {
            "low": Option(60, 0, 2000),
            "high": Option(120, 0, 2000),
            "sigma": Option(2, 0, 20),
            "width": Option(5, 1, 63),
        },
    ),
    "tile": Preprocessor(tile, "the picture without its details", {"scale": Option(4, 1, 64)}),
    "invert": Preprocessor(ImageChops.invert, "black and white exchanged, as line art on paper needs it"),
    "threshold": Preprocessor(threshold, "white where it is bright, black elsewhere", {"value": Option(128, 0, 256)}),
    "inpaint": Preprocessor(lambda picture: picture, "the picture, with -1 where the mask is white"),
}
