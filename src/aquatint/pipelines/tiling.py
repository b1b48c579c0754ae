"""How a picture is put together: of windows, without edges, and of tiles of the autoencoder; as values of a request."""

from dataclasses import dataclass
from typing import Literal

from aquatint.base.errors import UserError
from aquatint.pipelines.checks import whole

Weights = Literal["even", "gaussian"]
Seamless = Literal["x", "y", "both"]
LARGEST_SIDE = 4_096  # pixels


@dataclass(frozen=True)
class Tiling:
    """Windows in which the net is asked, for pictures larger than it was trained for (diffusion/windows.py).

    width, height   of a window in pixels, multiples of 8; None: the family's own size
    overlap         pixels that neighbours share, a multiple of 8, less than the window's sides; None: half of them
    weights         how answers are joined: "even" (MultiDiffusion) or "gaussian" (Mixture of Diffusers)

    Raises UserError for values out of range or at odds with one another.
    """

    width: int | None = None
    height: int | None = None
    overlap: int | None = None
    weights: Weights = "even"

    def __post_init__(self) -> None:
        for name, least in (("width", 8), ("height", 8), ("overlap", 0)):
            side = getattr(self, name)
            if side is not None and whole(f"tiling {name}", side, least, LARGEST_SIDE) % 8:
                raise UserError(f"tiling {name} = {side}.", "A multiple of 8.")
        self.sized(self.width or LARGEST_SIDE, self.height or LARGEST_SIDE)
        if self.weights not in ("even", "gaussian"):
            raise UserError(f"tiling weights = {str(self.weights)[:60]!r}.", "even or gaussian.")

    def sized(self, width: int, height: int) -> tuple[int, int, int]:
        """(width, height, overlap) in pixels, for a family of that size; UserError if the overlap is too much."""
        width, height = self.width or width, self.height or height
        overlap = min(width, height) // 16 * 8 if self.overlap is None else self.overlap
        if overlap >= min(width, height):
            raise UserError(
                f"tiling overlap = {overlap} of windows of {width} x {height}.", "Less than a window's shorter side."
            )
        return width, height, overlap


@dataclass(frozen=True)
class Decoding:
    """How latents become pixels, and pictures latents.

    tile   side in pixels of the tiles in which the autoencoder works (nets/tiled_autoencoder.py): the same picture to
           rounding, in less memory; 0: whole
    tiny   decode with the tiny autoencoder that the bundle was opened with (load(tiny=...)): quick, and less exact

    Raises UserError for values out of range.
    """

    tile: int = 0
    tiny: bool = False

    def __post_init__(self) -> None:
        if self.tile and whole("decoding tile", self.tile, 64, LARGEST_SIDE) % 8:
            raise UserError(f"decoding tile = {self.tile}.", "A multiple of 8, or 0.")
        if not isinstance(self.tiny, bool):
            raise UserError(f"decoding tiny = {str(self.tiny)[:60]!r}.", "true or false.")
