"""`aquatint info`: all that a picture's file tells of its making, whoever made it."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aquatint.apps.cli.lists import Json
from aquatint.apps.cli.look import picture as facts_of
from aquatint.apps.cli.look import show


def info(
    picture: Annotated[Path, Parameter(help="A PNG, JPEG or WebP file.")],
    /,
    *,
    trust: Annotated[Path | None, Parameter(help="Certificates (PEM) of signers that you trust.")] = None,
    json: Json = False,
) -> None:
    """Say what a picture's file tells: our record, the infotext, ComfyUI's and InvokeAI's words, XMP, credentials.

    Of other programs' pictures, how much `aquatint again` would repeat, too. --json has all entries as they stand.
    """
    show(facts_of(picture, trust, raw=json), json)
