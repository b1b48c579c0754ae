"""What a picture's bits follow from, as one value: the request, the weights, and how it was computed."""

from dataclasses import dataclass, fields

from aquatint import __version__
from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.base.runtime import Key
from aquatint.pipelines.request import Request, Resolved


@dataclass(frozen=True)
class Model:
    """Which weights painted.

    name     for people
    digest   sha256 of the weights' values, the same in every format ("" if unknown)
    family   the kind of Stable Diffusion
    file     sha256 of the whole file, by which web UIs know a model; "" if it is not one file, or nobody asked
    """

    name: str
    digest: str
    family: str
    file: str = ""


@dataclass(frozen=True)
class File:
    """A file that took part besides the model: its kind (lora, embedding), name, and sha256.

    hash   the digest by which web UIs know it: of a LoRA's tensors without the head; of an embedding's file
    """

    kind: str
    name: str
    sha256: str
    hash: str


@dataclass(frozen=True)
class Record:
    """All that a picture's bits follow from: the request for it alone, the weights, files added to them, and the
    reproduction key."""

    aquatint: str
    request: Request
    model: Model
    key: Key
    files: tuple[File, ...] = ()

    @property
    def seed(self) -> int:
        """Of the one picture."""
        return self.request.seeds[0]


def record_of(request: Resolved, model: Model, key: Key, files: tuple[File, ...] = ()) -> Record:
    """The record of a picture that this version paints now."""
    plain = Request(**{field.name: getattr(request, field.name) for field in fields(Request)})
    return Record(__version__, plain, model, key, files)


def record_from(text: str) -> Record:
    """Our record from its JSON, strictly: what this version does not know is refused, never left out."""
    try:
        return config.from_json(Record, text)
    except UserError as error:
        raise UserError(
            f"The picture's record cannot be read: {error.got}",
            error.takes,
            f"This is aquatint {__version__}; a newer one may know more.",
        ) from None
