"""What `aquatint train` does with a model: settings, recipe, pictures before and after, and the learned file."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquatint.apps.cli.generate import Source
from aquatint.apps.cli.sights import SHOWN, Sight, hinter_of
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

    from aquatint.pipelines.bundle import Bundle
    from aquatint.training.lesson import Tuning
    from aquatint.training.recipe import Moment
    from aquatint.training.tuning import Learned, Tuned

FORMATS = {
    "lora": ("kohya", "diffusers"),
    "inversion": ("safetensors",),
    "full": ("native", "diffusers", "compvis"),
    "controlnet": ("original", "diffusers"),
}


def settings_of(kind: str, said: Mapping[str, Any], changes: Sequence[str]) -> "Tuning":
    """The settings that the command line asks for: those with options of their own (None: not said), and changes."""
    from aquatint.base import config
    from aquatint.training import tuning

    said = {name: value for name, value in said.items() if value is not None}
    if "data" not in said:
        raise UserError("No pictures to learn from.", "--data FOLDER.")
    words = {name: str(value) if isinstance(value, Path) else value for name, value in said.items()}
    kinds: dict[str, Any] = {
        "lora": tuning.LoRA,
        "inversion": tuning.Inversion,
        "full": tuning.Full,
        "controlnet": tuning.Hinted,
    }
    if kind == "inversion" and "word" not in words:
        raise UserError("No word to learn.", "--word WORD.")
    made: Tuning = config.from_data(kinds[kind], words)
    return config.override(made, changed(changes))


def changed(changes: Sequence[str]) -> dict[str, str]:
    """What --set says: {"optim.lr": "1e-4"}."""
    pairs = [change.partition("=") for change in changes]
    if odd := [name for name, sign, _ in pairs if not sign]:
        raise UserError(f'--set "{odd[0]}".', "NAME=VALUE, as optim.lr=1e-4.")
    return {name.strip(): value for name, _, value in pairs}


def target_of(settings: "Tuning", format: str, out: Path, *, free: bool = False) -> Path:
    """Where what was learned goes. A word's file has the word for its name, which is how web UIs call it.

    free   whether there must be nothing yet, which is a UserError
    """
    from aquatint.training.tuning import Full, Hinted, Inversion

    own = isinstance(settings, Inversion) and re.fullmatch(r"[\w-]{1,100}", settings.word)
    name = f"{own[0] if own else out.name}.safetensors"
    if isinstance(settings, Full):
        name = "model.safetensors" if format == "compvis" else "model"
    elif isinstance(settings, Hinted) and format == "diffusers":
        name = "control"
    if free and (out / name).exists():
        raise UserError(
            f'"{out / name}" is there already.', "A folder whose run is not finished, or none.", "Name another --out."
        )
    return out / name


def metadata_of(settings: "Tuning") -> dict[str, str]:
    """What a LoRA's header says of its training: kohya's keys, and the settings without paths."""
    from aquatint.base import config

    plain = {key: value for key, value in config.to_data(settings).items() if key not in ("data", "prior", "held")}
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
    from aquatint.training import parallel

    source = source or Source()
    if parallel.join().world > 1:  # each has a device of its own
        device = str(parallel.device())
    return load(source.model, device=device, dtype="float32", hashed=False, **source.options())


def recipe_of(kind: str, bundle: "Bundle", settings: "Tuning") -> "Tuned":
    """The recipe, its pictures encoded."""
    from aquatint.training import tuning

    if isinstance(settings, tuning.Hinted):
        return tuning.controlnet(bundle, settings, hinter=hinter_of(settings.hint))
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
    from aquatint.nets.lora import Change, attach
    from aquatint.pipelines.record import File
    from aquatint.pipelines.steering import Controls, Loaded

    nets: dict[str, Any] = dict(learned.nets)
    for net, adapters in learned.adapters.items():
        nets[net] = attach(getattr(bundle, net), {name: [Change(adapter)] for name, adapter in adapters.items()})
    for net in nets.values():
        bundle.engine.prepare(net, often=True)
    words = {**bundle.embeddings, **learned.vectors}
    if learned.control is not None:
        bundle.engine.prepare(learned.control, often=True)
        file = File("control", "taught", "", "")
        return replace(bundle, controls=Controls({"taught": Loaded(learned.control, file)}))
    return replace(bundle, **nets, embeddings=words, counted=Counted(), file=None)


def painted(bundle: "Bundle", prompt: str, sights: Sequence[Sight]) -> "list[Image.Image]":
    """Three pictures of a prompt, at the model's own size and steps, each shown what it needs."""
    from aquatint.pipelines.generate import generate
    from aquatint.pipelines.request import Request

    found = []
    for seed, sight in enumerate(sights):
        request = sight.shown(Request(prompt, seeds=(seed,)), bundle)
        found += [step.picture.image for step in generate(bundle, request) if step.picture is not None]
    return found


def watched(bundle: "Bundle", tuned: "Tuned", prompts: Sequence[str], sights: Sequence[Sight], steps: int) -> "Tuned":
    """The same, with the prompts painted after every so many steps, into sheets/STEP.jpg of the run's folder."""
    if not 0 < steps <= 10_000_000:
        raise UserError(f"--every {steps}.", "1 to 10,000,000 steps; 0: none.")
    if not prompts:
        raise UserError("--every, and nothing to paint.", "A --prompt.")
    seen, own = tuned.recipe.watch, tuned.recipe.watch_steps

    def watch(moment: "Moment", averaged: "Mapping[str, nn.Module]", folder: Path) -> Mapping[str, float]:
        step, end = moment.step, tuned.recipe.length.steps
        if step % steps == 0 or step == end:
            able = taught(bundle, tuned.learned(averaged))
            rows = [(f"{step} steps: {prompt}", painted(able, prompt, sights)) for prompt in prompts]
            (folder / "sheets").mkdir(exist_ok=True)
            sheet(rows, folder / "sheets" / f"{step:08d}.jpg", SHOWN)
        return seen(moment, averaged, folder) if seen and (step % own == 0 or step == end) else {}

    recipe = replace(tuned.recipe, watch=watch, watch_steps=math.gcd(steps, own) if seen else steps)
    return tuned._replace(recipe=recipe)


def keep(bundle: "Bundle", learned: "Learned", target: Path, format: str, metadata: dict[str, str]) -> None:
    """Write what was learned."""
    if learned.adapters:
        from aquatint.weights.lora_writer import save_lora

        save_lora(target, learned.adapters, bundle.family, format, metadata=metadata)
    elif learned.vectors:
        from aquatint.weights.embeddings import save_embedding

        ((word, vectors),) = learned.vectors.items()
        save_embedding(target, word, vectors)
    elif learned.control is not None:
        from aquatint.weights.control_writer import save_control

        save_control(target, learned.control, bundle.family, format, metadata=metadata)
    else:
        from aquatint.pipelines.bundle import save

        save(taught(bundle, learned), target, format, said=metadata)


def pairs(
    prompts: Sequence[str],
    before: "Sequence[Sequence[Image.Image]]",
    after: "Sequence[Sequence[Image.Image]]",
    sights: Sequence[Sight],
    path: Path,
) -> Path:
    """The sheet of a run: what the net was shown, and of each prompt what it gave before and after."""
    seen = [("shown", list(row)) for row in zip(*(sight.pictures for sight in sights), strict=True)]
    rows = list(seen)
    for prompt, *pair in zip(prompts, before, after, strict=True):
        rows += [(f"{when}: {prompt}", list(row)) for when, row in zip(("before", "after"), pair, strict=True)]
    return sheet(rows, path, columns=SHOWN if seen else 2 * SHOWN)


def sheet(rows: "Sequence[tuple[str, Sequence[Image.Image]]]", path: Path, columns: int) -> Path:
    """Rows of three pictures, each with its words below them."""
    from aquatint.base import files
    from aquatint.pipelines.contact import contact, printed
    from aquatint.pipelines.metadata import encode_marked

    prints = [printed(picture, words) for words, pictures in rows for picture in pictures]
    files.write(path, encode_marked(contact(prints, columns=columns), "jpeg"))
    return path
