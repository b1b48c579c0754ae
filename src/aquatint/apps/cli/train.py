"""`aquatint train`: teach a model a subject, a style or a word from a few pictures."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aquatint.apps.cli.generate import Source
from aquatint.base.errors import UserError, unknown

if TYPE_CHECKING:
    from PIL import Image

    from aquatint.pipelines.bundle import Bundle
    from aquatint.training.loop import Run
    from aquatint.training.tuning import Learned, Tuned, Tuning

FORMATS = {"lora": ("kohya", "diffusers"), "inversion": ("safetensors",), "full": ("native", "diffusers", "compvis")}


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
        str | None, Parameter(help="lora: kohya (usual) or diffusers; full: native (usual), diffusers or compvis.")
    ] = None
    prompt: Annotated[
        list[str] | None, Parameter(help="What is painted before and after, for sheet.jpg; several times.", negative="")
    ] = None
    dry_run: Annotated[bool, Parameter(help="Print the settings and what would learn, and stop.", negative="")] = False


def train(
    kind: Annotated[str, Parameter(help="lora, inversion (a word's vectors) or full (the whole U-Net).")],
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
    settings = settings_of(kind, lesson or Lesson(), changes or [])
    target = target_of(settings, format, showing.out)
    if target.exists() and not showing.dry_run:
        raise UserError(
            f'"{target}" is there already.', "A folder whose run is not finished, or none.", "Name another --out."
        )
    bundle = opened(source, device)
    settings = replace(settings, aim=replace(settings.aim, prediction=bundle.family.prediction))
    tuned = recipe_of(kind, bundle, settings)
    if showing.dry_run:
        print(json.dumps(described(kind, settings, tuned), indent=2))
        return
    from aquatint.training.loop import train as run

    prompts = showing.prompt or ([settings.words] if settings.words else [])
    before = [painted(bundle, prompt) for prompt in prompts]
    with Bar(tuned.recipe.length.steps) as bar:
        learned = tuned.learned(run(tuned.recipe, showing.out, bar.tell))
    after = [painted(taught(bundle, learned), prompt) for prompt in prompts]
    keep(bundle, learned, target, format, metadata_of(settings))
    if prompts:
        print(sheet(prompts, before, after, showing.out / "sheet.jpg"))
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


def settings_of(kind: str, lesson: Lesson, changes: list[str]) -> "Tuning":
    """The settings that the command line asks for."""
    from aquatint.base import config
    from aquatint.training import tuning

    if lesson.data is None:
        raise UserError("No pictures to learn from.", "--data FOLDER.")
    said = {name: value for name, value in vars(lesson).items() if value is not None}
    words = {name: str(value) if isinstance(value, Path) else value for name, value in said.items()}
    kinds: dict[str, Any] = {"lora": tuning.LoRA, "inversion": tuning.Inversion, "full": tuning.Full}
    if kind == "inversion" and "word" not in words:
        raise UserError("No word to learn.", "--word WORD.")
    made: Tuning = config.from_data(kinds[kind], words)
    pairs = [change.partition("=") for change in changes]
    if odd := [name for name, sign, _ in pairs if not sign]:
        raise UserError(f'--set "{odd[0]}".', "NAME=VALUE, as optim.lr=1e-4.")
    return config.override(made, {name.strip(): value for name, _, value in pairs})


def target_of(settings: "Tuning", format: str, out: Path) -> Path:
    """Where what was learned goes. A word's file has the word for its name, which is how web UIs call it."""
    from aquatint.training.tuning import Full, Inversion

    if isinstance(settings, Full):
        return out / ("model.safetensors" if format == "compvis" else "model")
    own = isinstance(settings, Inversion) and re.fullmatch(r"[\w-]{1,100}", settings.word)
    return out / f"{own[0] if own else out.name}.safetensors"


def metadata_of(settings: "Tuning") -> dict[str, str]:
    """What a LoRA's header says of its training: kohya's keys, and the settings without paths."""
    from aquatint.base import config

    plain = {key: value for key, value in config.to_data(settings).items() if key not in ("data", "prior")}
    said = {
        "ss_max_train_steps": str(settings.steps),
        "ss_seed": str(settings.seed),
        "ss_learning_rate": repr(settings.optim.lr),
        "aquatint.training": json.dumps(plain),
    }
    return said | ({"modelspec.trigger_phrase": settings.words} if settings.words else {})


def opened(source: Source | None, device: str) -> "Bundle":
    """The model in float32: what learns is never in half."""
    from aquatint.pipelines.bundle import load

    source = source or Source()
    return load(source.model, device=device, dtype="float32", hashed=False, **source.options())


def recipe_of(kind: str, bundle: "Bundle", settings: "Tuning") -> "Tuned":
    """The recipe, its pictures encoded."""
    from aquatint.training import tuning

    makers: dict[str, Any] = {"lora": tuning.lora, "inversion": tuning.inversion, "full": tuning.full}
    made: Tuned = makers[kind](bundle, settings)
    return made


def described(kind: str, settings: "Tuning", tuned: "Tuned") -> dict[str, Any]:
    """What --dry-run prints."""
    from aquatint.base import config

    players = tuned.recipe.objective.players.values()
    numbers = sum(weight.numel() for player in players for weight in player.parameters() if weight.requires_grad)
    return {"kind": kind, "numbers that learn": numbers, "settings": config.to_data(settings)}


def taught(bundle: "Bundle", learned: "Learned") -> "Bundle":
    """The bundle as it is with what was learned."""
    from aquatint.base.counted import Counted
    from aquatint.engines import plain
    from aquatint.nets.lora import Change, attach

    nets: dict[str, Any] = dict(learned.nets)
    for net, adapters in learned.adapters.items():
        nets[net] = attach(getattr(bundle, net), {name: [Change(adapter)] for name, adapter in adapters.items()})
    for net in nets.values():
        plain.prepare(net)
    words = {**bundle.embeddings, **learned.vectors}
    return replace(bundle, **nets, embeddings=words, counted=Counted(), file=None)


def painted(bundle: "Bundle", prompt: str) -> "list[Image.Image]":
    """Three pictures of a prompt, at the model's own size and steps."""
    from aquatint.pipelines.generate import generate
    from aquatint.pipelines.request import Request

    course = generate(bundle, Request(prompt, seeds=(0, 1, 2)))
    return [progress.picture.image for progress in course if progress.picture is not None]


def keep(bundle: "Bundle", learned: "Learned", target: Path, format: str, metadata: dict[str, str]) -> None:
    """Write what was learned."""
    if learned.adapters:
        from aquatint.weights.lora_writer import save_lora

        save_lora(target, learned.adapters, bundle.family, format, metadata=metadata)
    elif learned.vectors:
        from aquatint.weights.embeddings import save_embedding

        ((word, vectors),) = learned.vectors.items()
        save_embedding(target, word, vectors)
    else:
        from aquatint.pipelines.bundle import save

        save(taught(bundle, learned), target, format)


def sheet(prompts: list[str], before: "list[list[Image.Image]]", after: "list[list[Image.Image]]", path: Path) -> Path:
    """The pictures before and after, a prompt a row."""
    from aquatint.base import files
    from aquatint.pipelines.contact import contact, printed
    from aquatint.pipelines.metadata import encode_marked

    prints = [
        printed(picture, f"{when}: {prompt}")
        for prompt, *rows in zip(prompts, before, after, strict=True)
        for when, row in zip(("before", "after"), rows, strict=True)
        for picture in row
    ]
    files.write(path, encode_marked(contact(prints, columns=6), "jpeg"))
    return path
