"""Pictures that a request is given: values, told apart by their pixels, that stand in records without them."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from aquatint.base import files, images
from aquatint.base.errors import UserError

Source = str | Path | bytes | Image.Image


@dataclass(frozen=True)
class Given:
    """A picture by its name, its size in pixels and the sha256 of its pixels; `given` makes one.

    A record keeps these four and no pixels: read from there, `image` is None until `supplied` brings the file again.
    """

    name: str
    width: int
    height: int
    sha256: str
    image: Image.Image | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def pixels(self) -> Image.Image:
        """The picture itself; UserError if it is only known by its record."""
        if self.image is None:
            raise UserError(
                f'The picture "{self.name}" ({self.width} x {self.height}, sha256 {self.sha256[:10]}) is not at hand.',
                "Its file: a record holds no pixels.",
                "Give it again (--image, --mask).",
            )
        return self.image


def given(source: Source, name: str | None = None) -> Given:
    """A picture from a path, the bytes of a PNG, JPEG or WebP file, or PIL, held as RGB, RGBA or L.

    UserError for what is no such picture or too large (base.images has the bounds).
    """
    if isinstance(source, str | Path):
        name = name or Path(source).stem
        source = files.read(Path(source), limit=images.LARGEST_FILE)
    image = images.decode(source) if isinstance(source, bytes) else source
    if image.mode not in ("RGB", "L"):
        image = image.convert("RGBA") if image.has_transparency_data else images.rgb(image)
    image = Image.frombytes(image.mode, image.size, image.tobytes())  # a copy, without what a file says besides
    kind = f"{image.mode} {image.width} {image.height}\n".encode()
    made = Given(name or "picture", image.width, image.height, hashlib.sha256(kind + image.tobytes()).hexdigest())
    object.__setattr__(made, "image", image)
    return made


def supplied(wanted: Given, source: Source) -> Given:
    """The picture that a record means, from its file; UserError if it is another."""
    found = given(source, wanted.name)
    if found != wanted:
        raise UserError(
            f"The picture has sha256 {found.sha256[:10]} ({found.width} x {found.height}).",
            f'"{wanted.name}": sha256 {wanted.sha256[:10]} ({wanted.width} x {wanted.height}).',
            "Give the file that the picture was painted from.",
        )
    return found
