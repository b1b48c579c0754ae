"""`aquatint evaluate`: what a model paints, measured, with intervals; and evaluations side by side."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from aquatint.apps.cli.adapters import Adapting, opening, read_loras
from aquatint.apps.cli.generate import Machine, Source, Wishes, open_bundle, read_request
from aquatint.base import files
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aquatint.evaluation.measures import Eyes
    from aquatint.evaluation.sets import Asked, Gallery
    from aquatint.pipelines.request import Request

POCKET = "pocket"
OUT = Path("runs/evaluation")
EACH = 12  # prompts a category of the pocket world


@Parameter(name="*")
@dataclass
class Asking:
    """What is asked, and what the pictures are held against."""

    set: Annotated[
        str, Parameter(help="pocket, a file of prompts, a .jsonl file of prompts and pictures, a folder of pictures.")
    ] = POCKET
    each: Annotated[int | None, Parameter(help="How many prompts of each category; 12 of pocket's, else all.")] = None
    category: Annotated[list[str] | None, Parameter(help="Only these; several times.", negative="")] = None
    reference: Annotated[Path | None, Parameter(help="A folder of true pictures for the distances.")] = None
    training: Annotated[
        Path | None, Parameter(help="A folder of training pictures; copies are looked for among them.")
    ] = None
    reconstruct: Annotated[int, Parameter(help="How many references go through the autoencoder.")] = 64


@Parameter(name="*")
@dataclass
class Looking:
    """What looks at the pictures besides what is carried."""

    clip: Annotated[Path | None, Parameter(help="A folder with a whole CLIP, for CLIP score and R-precision.")] = None
    inception: Annotated[Path | None, Parameter(help="FID's Inception as a TorchScript file, for FID and KID.")] = None
    trust_sha256: Annotated[str | None, Parameter(help="Run the --inception file of this sum, though unknown.")] = None


def evaluate(
    bundle: Annotated[str | None, Parameter(help="As --model: a file, a folder, a hub id.")] = None,
    /,
    *,
    asking: Asking | None = None,
    looking: Looking | None = None,
    out: Annotated[
        Path | None, Parameter(help="The run's folder, runs/evaluation if not said; with --compare, of the page.")
    ] = None,
    wishes: Wishes | None = None,
    source: Source | None = None,
    machine: Machine | None = None,
    adapting: Adapting | None = None,
    compare: Annotated[
        list[Path] | None,
        Parameter(help="Folders of evaluations, to lay side by side.", negative="", consume_multiple=True),
    ] = None,
) -> None:
    """Paint a set of prompts and measure the pictures: table, results.json, report.html.

    A run that was stopped goes on with the pictures that are not there yet; with other settings it refuses its folder.
    """
    if compare is not None:
        _compare(compare, out)
        return
    out = OUT if out is None else out
    asking, looking, wishes = asking or Asking(), looking or Looking(), wishes or Wishes()
    from aquatint.evaluation import measures, page, results
    from aquatint.evaluation.painted import open_painted, settings_of
    from aquatint.training.state import locked

    asked = asked_of(asking)
    training = training_of(asking, asked, pocket_model=_named(bundle, source) is None)
    eyes = eyes_of(looking, asked)
    measures.check(asked, eyes, training)
    request = request_of(wishes, adapting)
    opened = open_bundle(_source(bundle, source), machine, opening(adapting))
    settings = settings_of(opened, request, asked)
    files.make_folder(out)
    with locked(out):
        painted = open_painted(out, settings, asked)
        with telling(len(painted)) as tell:
            painted.paint(opened, tell)
        found, features = measures.measure(
            painted, eyes, opened, training=training, reconstruct=asking.reconstruct, tell=_say
        )
        results.keep(out, found, features)
        written = page.write(out, found, painted)
    print(found.markdown())
    if found.scores is not None:
        print(f"\n{found.scores.total().markdown()}")
    for note in found.notes:
        print(note)
    print(written)


def asked_of(asking: Asking) -> "Asked":
    """The set that the command line names, with the references."""
    from aquatint.evaluation import sets
    from aquatint.evaluation.prompts import CATEGORIES

    each, categories = asking.each, asking.category or []
    if asking.set == POCKET:
        asked = sets.pocket(EACH if each is None else each, categories or CATEGORIES)
    else:
        asked = sets.read(asking.set, each, categories)
    if asking.reference is None:
        return asked
    return replace(asked, references=sets.pictures(asking.reference))


def training_of(asking: Asking, asked: "Asked", *, pocket_model: bool) -> "Gallery | None":
    """The training pictures that the command line names; of the carried model in its own world, the scenes it saw."""
    from aquatint.evaluation import sets

    if asking.training is not None:
        return sets.pictures(asking.training)
    return sets.taught() if pocket_model and asked.scenes else None


def eyes_of(looking: Looking, asked: "Asked") -> "Eyes":
    """What looks at the pictures: files that are no such thing are refused before anything is painted."""
    from aquatint.evaluation import spaces
    from aquatint.evaluation.detector import Detector
    from aquatint.evaluation.measures import Eyes
    from aquatint.weights.clip import open_clip

    if looking.trust_sha256 is not None and looking.inception is None:
        raise UserError("--trust-sha256 without --inception.", "--inception FILE, and the sum of it.")
    clip = None if looking.clip is None else open_clip(looking.clip)
    found = [spaces.pixels()]
    detector = Detector.open(spaces.DETECTOR) if asked.scenes else None
    found += [spaces.detector()] if detector is not None else []
    found += [] if clip is None else [spaces.clip(clip)]
    found += [] if looking.inception is None else [spaces.inception(looking.inception, looking.trust_sha256)]
    return Eyes(tuple(found), detector, clip)


def request_of(wishes: Wishes, adapting: Adapting | None) -> "Request":
    """What every picture is painted by, but for its prompt; the first seed is 0 if none is said."""
    if wishes.count != 1:
        raise UserError(f"--count {wishes.count} in an evaluation.", "One picture a prompt.")
    seed = 0 if wishes.seed is None else wishes.seed
    return replace(read_request("any", replace(wishes, seed=seed)), loras=read_loras(adapting))


def _named(bundle: str | None, source: Source | None) -> str | None:
    return bundle if source is None or source.model is None else source.model


def _source(bundle: str | None, source: Source | None) -> Source:
    """The model's source, from either place."""
    source = source or Source()
    if bundle is not None and source.model is not None:
        raise UserError(f'Two models, "{bundle}" and --model "{source.model}".', "One of the two.")
    return replace(source, model=_named(bundle, source))


def _say(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr)


@contextmanager
def telling(total: int) -> "Iterator[Callable[[int, int], None]]":
    """How far painting is, on standard error: a bar on a terminal, else a line for every tenth of it."""
    if not sys.stderr.isatty():
        yield lambda done, of: _line(done, of)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("painting", total=total)
        yield lambda done, of: progress.update(task, completed=done, description=f"painting {done} of {of}")


def _line(done: int, of: int) -> None:
    if done == of or done % max(1, of // 10) == 0:
        print(f"painted {done} of {of}", file=sys.stderr)


def _compare(folders: list[Path], out: Path | None) -> None:
    from aquatint.evaluation.compared import compared, write

    found = compared(folders)
    print(found.markdown())
    if out is not None:
        print(f"\n{write(out, found, folders)}")
