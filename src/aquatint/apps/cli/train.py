"""`aquatint train`: teach a model a subject, a style or a word from a few pictures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aquatint.apps.cli import recipes, taught
from aquatint.apps.cli.bar import Bar
from aquatint.apps.cli.generate import Source
from aquatint.apps.cli.sights import sights_of
from aquatint.apps.cli.taught import FORMATS
from aquatint.base.errors import UserError, unknown


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

    out: Annotated[
        Path | None, Parameter(help="The run's folder: checkpoints, log, what was learned (usual: runs/tuned).")
    ] = None
    format: Annotated[
        str | None,
        Parameter(help="lora: kohya, diffusers; full: native, diffusers, compvis; controlnet: original, diffusers."),
    ] = None
    prompt: Annotated[
        list[str] | None, Parameter(help="What is painted before and after, for sheet.jpg; several times.", negative="")
    ] = None
    every: Annotated[int, Parameter(help="Paint the prompts after every so many steps too (0: at the end).")] = 0
    tensorboard: Annotated[bool, Parameter(help="Write events for TensorBoard too.", negative="")] = False
    dry_run: Annotated[bool, Parameter(help="Print the settings and what would learn, and stop.", negative="")] = False


def train(
    kind: Annotated[
        str, Parameter(help="lora, inversion (a word's vectors), full (the U-Net), controlnet; or a recipe.py.")
    ],
    /,
    *,
    lesson: Lesson | None = None,
    source: Source | None = None,
    showing: Showing | None = None,
    changes: Annotated[
        list[str] | None,
        Parameter(name="--set", help="A setting, as optim.lr=1e-4 or reach=all; several times.", negative=""),
    ] = None,
    device: Annotated[str, Parameter(help="auto, cpu, cuda, mps, xpu.")] = "auto",
) -> None:
    """Teach a model from a folder of pictures, or carry out a recipe. A stopped run goes on from its last checkpoint.

    The learned file goes into the run's folder, and beside it sheet.jpg: what the prompts gave before and after.
    """
    showing, lesson = showing or Showing(), lesson or Lesson()
    if recipes.is_file(kind):
        refuse(kind, {**vars(lesson), **vars(source or Source()), **vars(showing)})
        recipes.run(kind, changes or [], showing.out, dry=showing.dry_run, tensorboard=showing.tensorboard)
        return
    if kind not in FORMATS:
        raise unknown("kind of training", kind, FORMATS)
    out = showing.out or Path("runs/tuned")
    format = showing.format or FORMATS[kind][0]
    if format not in FORMATS[kind]:
        raise unknown(f"format for {kind}", format, FORMATS[kind])
    settings = taught.settings_of(kind, vars(lesson), changes or [])
    target = taught.target_of(settings, format, out, free=not showing.dry_run)
    bundle = taught.opened(source, device)
    settings = replace(settings, aim=replace(settings.aim, prediction=bundle.family.prediction))
    tuned = taught.recipe_of(kind, bundle, settings)
    prompts, sights = showing.prompt or ([settings.words] if settings.words else []), sights_of(settings, bundle)
    if showing.every:
        tuned = taught.watched(bundle, tuned, prompts, sights, showing.every)
    tuned = tuned._replace(recipe=replace(tuned.recipe, tensorboard=showing.tensorboard))
    if showing.dry_run:
        print(json.dumps(taught.described(kind, settings, tuned), indent=2))
        return
    from aquatint.evaluation import course
    from aquatint.training import parallel
    from aquatint.training.loop import train as run

    first = parallel.share().rank == 0  # the one of several processes that paints and writes
    before = [taught.painted(bundle, prompt, sights) for prompt in prompts if first]
    with Bar() as bar:
        learned = tuned.learned(run(tuned.recipe, out, bar.tell))
    if not first:
        return
    able = taught.taught(bundle, learned)
    after = [taught.painted(able, prompt, sights) for prompt in prompts]
    taught.keep(bundle, learned, target, format, taught.metadata_of(settings))
    if prompts:
        print(taught.pairs(prompts, before, after, sights, out / "sheet.jpg"))
    print(course.write(out))
    print(target)


def refuse(file: str, said: Mapping[str, object]) -> None:
    """UserError for options that say something of a folder of pictures, where a recipe says it all."""
    usual = {**vars(Lesson()), **vars(Source()), **vars(Showing())}
    own = ("out", "tensorboard", "dry_run")
    if odd := [name for name, value in said.items() if name not in own and value != usual[name]]:
        raise UserError(
            f"--{odd[0].replace('_', '-')} for the recipe {file}.",
            "--set, --out, --tensorboard and --dry-run.",
            "Say it with --set.",
        )
