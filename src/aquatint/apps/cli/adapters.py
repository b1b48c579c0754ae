"""Options for adapters: LoRAs and textual inversions."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aquatint.base import files
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.lora import Lora
    from aquatint.pipelines.record import Record
    from aquatint.pipelines.request import Request


@Parameter(name="*")
@dataclass
class Adapting:
    """What is added to the model."""

    lora: Annotated[
        list[str] | None, Parameter(help="FILE, FILE:WEIGHT or FILE:WEIGHT:TEXT WEIGHT; several times.", negative="")
    ] = None
    lora_folder: Annotated[str | None, Parameter(help="A folder for <lora:NAME:WEIGHT> in the prompt.")] = None
    embedding: Annotated[
        list[str] | None, Parameter(help="A textual inversion: its name is a word then; several times.", negative="")
    ] = None
    partial: Annotated[bool, Parameter(help="Take LoRAs whose layers do not all fit.", negative="")] = False
    refiner: Annotated[str | None, Parameter(help="A second model that paints the end; see --refine.")] = None


def read_loras(adapting: Adapting | None) -> tuple["Lora", ...]:
    """The LoRAs that the command line names, for the request."""
    if adapting is None or not adapting.lora:
        return ()
    from aquatint.pipelines.lora import Lora
    from aquatint.pipelines.shelf import name_of

    read = [(path, [*weights, None, None]) for path, weights in map(read_lora, adapting.lora)]
    return tuple(Lora(name_of(path), 1.0 if one is None else one, two) for path, (one, two, *_) in read)


def read_lora(text: str) -> tuple[Path, list[float]]:
    """ "ink.safetensors:0.8:0.5" -> (the path, [0.8, 0.5])."""
    weights: list[float] = []
    while len(weights) < 2:
        before, colon, number = text.rpartition(":")
        try:
            value = float(number)
        except ValueError:
            break
        if not colon or not before:
            break
        weights.insert(0, value)
        text = before
    return Path(text), weights


def opening(adapting: Adapting | None) -> dict[str, Any]:
    """What `load` is to open besides the model; paths that lead nowhere are refused before the model is read."""
    if adapting is None or adapting == Adapting():
        return {}
    paths = [path for path, _ in map(read_lora, adapting.lora or ())]
    return {
        "loras": paths,
        "lora_folder": adapting.lora_folder,
        "embeddings": adapting.embedding or (),
        "partial": adapting.partial,
        "refiner": adapting.refiner,
    }


def tell_notes(bundle: "Bundle", request: "Request") -> None:
    """What of the request's adapters is left out, on standard error."""
    from aquatint.pipelines.adapted import notes

    for note in notes(bundle, request):
        print(f"note: {note}", file=sys.stderr)


def recorded(adapting: Adapting | None, record: "Record | None") -> dict[str, Any]:
    """As `opening`, for a picture's record: each LoRA that it used is looked for among the files by its sha256.

    So a file may have another name than it had.
    """
    from aquatint.pipelines.shelf import name_of

    options = opening(adapting)
    if record is None or not options.get("loras"):
        return options
    by_digest = {measured(path): path for path in options["loras"]}
    used = {file.name: by_digest[file.sha256] for file in record.files if file.sha256 in by_digest}
    return options | {"loras": {name_of(path): path for path in by_digest.values()} | used}


def check_files(record: "Record | None", bundle: "Bundle", request: "Request", anyway: bool) -> None:
    """Whether the adapters that a picture was painted with are at hand, and the same, and no others."""
    from aquatint.pipelines.adapted import adapted, embeddings_of, wanted
    from aquatint.pipelines.hires import passes
    from aquatint.pipelines.refine import files_of
    from aquatint.pipelines.safety import check_safety
    from aquatint.pipelines.tools import tools_of, upscaler_of

    if record is None or anyway:
        return
    there = {
        "lora": lambda name: bool(bundle.shelf),
        "embedding": lambda name: name in bundle.learned,
        "refiner": lambda name: bundle.refiner is not None,
        "safety": lambda name: bundle.safety is not None,
        "upscaler": lambda name: name in bundle.upscalers,
        "tiny": lambda name: bundle.tiny is not None,
    }
    recorded = [file for file in record.files if file.kind in there]  # controls: apps/cli/control.py
    for file in recorded:
        option = f"--{file.kind} FILE"
        if not there[file.kind](file.name):
            raise UserError(
                f'The picture was painted with the {file.kind} "{file.name}" (sha256 {file.sha256[:10]}).',
                "That file again: a record names files and holds none.",
                f"Give it with {option}.",
            )
    now = [file for one in passes(request) for file in adapted(bundle, wanted(bundle, one)).files]
    now += [file for one in passes(request) for file in embeddings_of(bundle, one)]
    now += [*tools_of(bundle, request, upscaler_of(bundle, request)), *check_safety(bundle, request)]
    now += files_of(bundle, request.resolved(bundle.family))
    before, after = (
        {(file.kind, "" if file.kind == "refiner" else file.name): file.sha256 for file in rows}
        for rows in (recorded, now)
    )
    for kind, name in sorted({*before, *after}):
        if before.get((kind, name)) != after.get((kind, name)):
            has, had = (row.get((kind, name), "none")[:10] for row in (after, before))
            raise UserError(
                f'The {kind} "{name}" has sha256 {has}; the picture was painted with {had}.',
                "The same file.",
                "Name it, or paint --anyway.",
            )


def measured(path: Path) -> str:
    """sha256 of a LoRA's file (of a PEFT folder: of its weights)."""
    with files.telling(str(path)[:200], "read"):
        if not path.exists():
            raise UserError(f'There is no file "{str(path)[:200]}".', "A LoRA.", "Check the path.")
    from aquatint.weights.loras import open_lora

    return open_lora(path).digest
