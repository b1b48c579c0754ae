"""What comes out: a Progress for every step, and a Picture at the end of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from aquatint.base import config, files
from aquatint.pipelines import metadata
from aquatint.pipelines.infotext import infotext
from aquatint.pipelines.provenance import Signing, signed
from aquatint.pipelines.record import Record
from aquatint.pipelines.request import Request


@dataclass(frozen=True)
class Picture:
    """A painted picture and where it comes from; shows itself in a notebook.

    image     PIL, RGB
    record    the request for this one picture, the weights, the reproduction key
    seconds   what it took: "text", "steps", "decode" (not part of what is saved: the same picture, the same file)
    flagged   what the safety checker found, if the request asked it; None if not (safety.py)
    """

    image: Image.Image
    record: Record
    seconds: Mapping[str, float] = field(default_factory=dict)
    flagged: bool | None = None

    @property
    def seed(self) -> int:
        """The seed that this picture was painted from."""
        return self.record.seed

    @property
    def request(self) -> Request:
        """The request that paints this picture, and only it, again."""
        return self.record.request

    def metadata(self) -> dict[str, str]:
        """The texts that a file of this picture carries: `parameters` (A1111's infotext) and `aquatint` (JSON)."""
        return {"parameters": infotext(self.record), "aquatint": config.to_json(self.record)}

    def encode(self, format: str = "png", signing: Signing | None = None) -> bytes:
        """The bytes of a PNG, JPEG or WebP file with the metadata in it, signed if that is wanted (provenance.py)."""
        data = metadata.encode(self.image, self.record, format)
        return data if signing is None else signed(data, format, self.record, signing)

    def save(self, path: str | Path, *, replace: bool = True, signing: Signing | None = None) -> Path:
        """Write a file, durably, in the format that its name says; returns the path.

        replace=False raises base.files.Taken where there is a file already.
        """
        path = Path(path)
        files.write(path, self.encode(metadata.format_of(path.name), signing), replace=replace)
        return path

    def _repr_png_(self) -> bytes:
        return self.encode("png")


@dataclass(frozen=True)
class Progress:
    """How far a request is.

    index, total    steps done of this picture, and all of them
    number, count   which picture of the request this is, from 0, and how many there are
    seed            of this picture
    x0              the clean latents as the net now believes them [1, 4, h / 8, w / 8]: what a preview shows
                    (None before the first step)
    picture         the finished picture, in the last Progress of each
    """

    index: int
    total: int
    number: int
    count: int
    seed: int
    x0: Float[Tensor, "1 c h w"] | None = None
    picture: Picture | None = None
