"""`aquatint info`: what a picture's file tells of its making, whoever made it; and what computes on this machine."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from aquatint.apps.cli.lists import Json
from aquatint.apps.cli.look import picture as facts_of
from aquatint.apps.cli.look import show
from aquatint.base.errors import UserError


def info(
    picture: Annotated[Path | None, Parameter(help="A PNG, JPEG or WebP file.")] = None,
    /,
    *,
    engine: Annotated[bool, Parameter(help="What computes on this machine, and why.", negative="")] = False,
    trust: Annotated[Path | None, Parameter(help="Certificates (PEM) of signers that you trust.")] = None,
    json: Json = False,
) -> None:
    """Say what a picture's file tells: our record, the infotext, ComfyUI's and InvokeAI's words, XMP, credentials.

    Of other programs' pictures, how much `aquatint again` would repeat, too. --json has all entries as they stand.
    With --engine and no picture: the engine that models are run by here (docs/speed.md).
    """
    if engine == (picture is not None):
        raise UserError("A picture and --engine." if engine else "No picture.", "A picture's file, or --engine.")
    if picture is not None:
        show(facts_of(picture, trust, raw=json), json)
        return
    facts = engine_facts()
    print(jsonlib.dumps(facts) if json else "\n".join(f"{name:<17} {value}" for name, value in facts.items()))


def engine_facts() -> dict[str, Any]:
    """The engine of this machine: its name in reproduction keys, its library, and the memory that it would take."""
    from aquatint.base import runtime
    from aquatint.engines.choice import WORK, choose_engine, usual_memory
    from aquatint.engines.kernels.build import found

    device, library = runtime.choose_device(), found()
    chosen = choose_engine("auto", device, runtime.choose_dtype("auto", device))
    return {
        "device": str(device),
        "engine": chosen.name,
        **({"note": chosen.note} if chosen.note else {}),
        "kernels": f"none: {library.reason}" if library.library is None else library.library._name,
        "threads": runtime.choose_threads(),
        "memory free": runtime.free_memory(),
        "without --memory": usual_memory(),
        "beside weights": WORK,
    }
