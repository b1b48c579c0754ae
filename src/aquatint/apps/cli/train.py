"""`aquatint train`: teach a model a subject, a style or a word from a few pictures."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from aquatint.apps.cli import taught
from aquatint.apps.cli.generate import Source
from aquatint.apps.cli.taught import FORMATS
from aquatint.base.errors import UserError, unknown

if TYPE_CHECKING:
    from aquatint.training.loop import Run


@Parameter(name="*")
@dataclass
class Lesson:
    """What is taught. Everything else is a field of the settings, for --set (see --dry-run)."""

    data: Annotated[Path | None, Parameter(help="A folder of pictures with captions.")] = None
    words: Annotated[str | None, Parameter(help="The caption of pictures that have none.")] = None
    word: Annotated[str | None, Parameter(help="inversion: the word that is learned.")] = None
    prior: Annotated[Path | None, Parameter(help="A folder of pictures of the class (DreamBooth).")] = None
    prior_words: Annotated[str | None, Parameter(help="The caption of these.")] = None
    steps: Annotated[int | None, Parameter(help="How many steps.")] = None
    rank: Annotated[int | None, Parameter(help="lora: the rank.")] = None
    seed: Annotated[int | None, Parameter(help="Of the run.")] = None


@Parameter(name="*")
@dataclass
class Showing:
    """What comes out."""

    out: Annotated[Path, Parameter(help="The run's folder: checkpoints, log, and what was learned.")] = Path(
        "runs/tuned"
    )
    format: Annotated[
        str | None,
        Parameter(help="lora: kohya, diffusers; full: native, diffusers, compvis; controlnet: original, diffusers."),
    ] = None
    prompt: Annotated[
        list[str] | None, Parameter(help="What is painted before and after, for sheet.jpg; several times.", negative="")
    ] = None
    every: Annotated[int, Parameter(help="Paint the prompts after every so many steps too (0: at the end).")] = 0
    dry_run: Annotated[bool, Parameter(help="Print the settings and what would learn, and stop.", negative="")] = False


def train(
    kind: Annotated[str, Parameter(help="lora, inversion (a word's vectors), full (the whole U-Net) or controlnet.")],
    /,
    *,
    lesson: Lesson | None = None,
    source: Source | None = None,
    showing: Showing | None = None,
    changes: Annotated[
        list[str] | None,
        Parameter(name="--set", help="A setting, as optim.lr=1e-4 or reach=all; several times.", negative=""),
    ] = None,
    device: Annotated[str, Parameter(help="auto, cpu, cuda, mps.")] = "auto",
) -> None:
    """Teach a model from a folder of pictures. A run that was stopped goes on from its last checkpoint.

    The learned file goes into the run's folder, and beside it sheet.jpg: what the prompts gave before and after.
    """
    showing = showing or Showing()
    if kind not in FORMATS:
        raise unknown("kind of training", kind, FORMATS)
    format = showing.format or FORMATS[kind][0]
    if format not in FORMATS[kind]:
        raise unknown(f"format for {kind}", format, FORMATS[kind])
    settings = taught.settings_of(kind, vars(lesson or Lesson()), changes or [])
    target = taught.target_of(settings, format, showing.out)
    if target.exists() and not showing.dry_run:
        raise UserError(
            f'"{target}" is there already.', "A folder whose run is not finished, or none.", "Name another --out."
        )
    bundle = taught.opened(source, device)
    settings = replace(settings, aim=replace(settings.aim, prediction=bundle.family.prediction))
    tuned = taught.recipe_of(kind, bundle, settings)
    prompts, hints = showing.prompt or ([settings.words] if settings.words else []), taught.hints_of(settings)
    if showing.every:
        tuned = taught.watched(bundle, tuned, prompts, hints, showing.every)
    if showing.dry_run:
        print(json.dumps(taught.described(kind, settings, tuned), indent=2))
        return
    from aquatint.training.loop import train as run

    before = [taught.painted(bundle, prompt) for prompt in prompts]
    with Bar(tuned.recipe.length.steps) as bar:
        learned = tuned.learned(run(tuned.recipe, showing.out, bar.tell))
    able = taught.taught(bundle, learned)
    after = [taught.painted(able, prompt, hints) for prompt in prompts]
    taught.keep(bundle, learned, target, format, taught.metadata_of(settings))
    if prompts:
        rows = [("shown", [hint.pixels for hint in hints])] if hints else []
        for prompt, *pair in zip(prompts, before, after, strict=True):
            rows += [(f"{when}: {prompt}", row) for when, row in zip(("before", "after"), pair, strict=True)]
        print(taught.sheet(rows, showing.out / "sheet.jpg", columns=3 if hints else 6))
    print(target)


class Bar:
    """Progress on standard error, if that is a terminal: step, loss, samples a second, time left.

    Elsewhere `tell` is None, and the loop writes its lines.
    """

    def __init__(self, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task("learning", total=steps, said="")
        self.tell = self._tell if sys.stderr.isatty() else None

    def __enter__(self) -> "Bar":
        if self.tell is not None:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def _tell(self, run: "Run", logs: Mapping[str, float]) -> None:
        loss = next((value for name, value in logs.items() if name.endswith("/loss")), float("nan"))
        rate = run.step * run.recipe.batch_size / max(run.spent, 1e-9)
        said = f"step {run.step}  loss {loss:.3f}  {rate:.3g} samples/s"
        self.progress.update(self.task, completed=run.step, said=said)
