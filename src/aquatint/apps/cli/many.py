"""Options for many pictures at once: prompts from a file, another program's way, a contact sheet, a signature."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from aquatint.apps.cli.chance import Chance, settled
from aquatint.apps.cli.output import Output
from aquatint.base import files
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.pipelines.contact import Print
    from aquatint.pipelines.picture import Picture
    from aquatint.pipelines.provenance import Signing
    from aquatint.pipelines.request import Request

ANY = "any"  # stands for the prompt while those of a file are not read


@Parameter(name="*")
@dataclass
class Many:
    """What is painted besides one prompt, and how files are finished."""

    prompts: Annotated[str | None, Parameter(help="A file of prompts, one a line; see docs/reproduction.md.")] = None
    replay: Annotated[str | None, Parameter(help="As whom: a1111, comfyui, diffusers, aquatint.")] = None
    sheet: Annotated[str | None, Parameter(help="A contact sheet of all pictures, too: a folder or a file.")] = None
    sign: Annotated[Path | None, Parameter(help="A certificate (PEM) for content credentials (C2PA).")] = None
    key: Annotated[Path | None, Parameter(help="Its private key (PEM).")] = None


def check_prompt(prompt: str | None, many: Many) -> str:
    """The prompt, or a stand-in where a file brings them; UserError for none and for both."""
    if (prompt is None) == (many.prompts is None):
        both = prompt is not None
        raise UserError(
            "A prompt and --prompts." if both else "There is no prompt.", "One of: a prompt, --prompts FILE."
        )
    return ANY if prompt is None else prompt


def spread(request: "Request", many: Many, chance: Chance | None) -> list["Request"]:
    """All requests that are to be painted: the file's lines, what chance makes of each, and that in the other's way."""
    requests = [request]
    if many.prompts is not None:
        from aquatint.pipelines.listed import LONGEST, read_list

        text = sys.stdin.read(LONGEST + 1) if many.prompts == "-" else None
        text = files.read_text(many.prompts, limit=LONGEST) if text is None else text
        requests = read_list(text, request)
    made = [one for line in requests for one in settled(line, chance)]
    if many.replay is None:
        return made
    from aquatint.pipelines.profiles import replayed

    return [one for line in made for one in replayed(line, many.replay)]


class Finish:
    """How the files of one run are finished: signed, and gathered on a sheet."""

    def __init__(self, many: Many) -> None:
        self.signing: Signing | None = None
        self.sheet: Output | None = None
        self.prints: list[Print] = []
        if (many.sign is None) != (many.key is None):
            raise UserError("--sign or --key alone.", "Both: the certificate and its key.")
        if many.sign is not None and many.key is not None:
            from aquatint.pipelines.provenance import open_signing

            self.signing = open_signing(many.sign, many.key)
        if many.sheet is not None:
            self.sheet = Output(many.sheet, None, 1)

    def encode(self, picture: "Picture", format: str) -> bytes:
        """A picture's file."""
        if self.sheet is not None:
            from aquatint.pipelines.contact import printed

            self.prints.append(printed(picture.image, f"{picture.request.prompt} ({picture.seed})"))
        return picture.encode(format, self.signing)

    def close(self) -> None:
        """Write the sheet, and say where it is."""
        if self.sheet is None or not self.prints:
            return
        from aquatint.pipelines import metadata
        from aquatint.pipelines.contact import contact

        data = metadata.encode_marked(contact(self.prints), self.sheet.format)
        print(self.sheet.write(data, "sheet", len(self.prints)), file=sys.stderr)
