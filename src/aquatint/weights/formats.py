"""The formats that are read: how each is recognised by what it holds, its family, and where each tensor goes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.families import Family
from aquatint.weights import assembly, compvis, deduce, description, diffusers, keymap, store
from aquatint.weights.keymap import Pair, config_of
from aquatint.weights.store import Held

STEMS = {"unet": "diffusion_pytorch_model", "autoencoder": "diffusion_pytorch_model", "text": "model", "text2": "model"}
TOKENIZERS = ("tokenizer", "tokenizer_2")
PICKLES = (".bin", ".ckpt", ".pt", ".pth")


@runtime_checkable  # for the tests, which check every annotation
class Format(Protocol):
    """One way of keeping a model; it decides by tensors and documents, never by a file's name."""

    @property
    def name(self) -> str:
        """As the user writes it."""

    def recognises(self, held: Held) -> bool:
        """Whether this is how the model is kept."""

    def family(self, held: Held, prediction: str | None) -> tuple[Family, list[str]]:
        """The family, and what was assumed on the way; `prediction` is the user's word where the format has none."""

    def pairs(self, family: Family, part: str, held: Held | None, *, ema: bool) -> list[Pair]:
        """The pairs of one net, as the tensors at hand are spelled; as we write them, where there are none."""

    def leftover(self, name: str, family: Family) -> str:
        """Why a tensor has no place; empty if there is no reason, which is an error."""


class Native:
    """Our own names behind "unet.", "autoencoder." and "text.", with the family in the header."""

    name = "native"

    def recognises(self, held: Held) -> bool:
        """Our U-Net's first layer is there."""
        return "unet.enter.weight" in held.where

    def family(self, held: Held, prediction: str | None) -> tuple[Family, list[str]]:
        """What the header describes."""
        if description.KEY not in held.metadata:
            raise UserError("it has the tensors of a native model and no description.", "", "Fetch it again.")
        return description.described(held.metadata[description.KEY])[0], []

    def pairs(self, family: Family, part: str, held: Held | None, *, ema: bool) -> list[Pair]:
        """Every tensor under its own name."""
        names = keymap.shapes(config_of(family, part))
        return [Pair((name,), f"{part}.{name}", keymap.SAME) for name in names]

    def leftover(self, name: str, family: Family) -> str:
        """Nothing may be left over."""
        return ""


class Diffusers:
    """A folder for each net, each with its config.json."""

    name = "diffusers"

    def recognises(self, held: Held) -> bool:
        """It has the folders' documents."""
        return "unet/config.json" in held.documents

    def family(self, held: Held, prediction: str | None) -> tuple[Family, list[str]]:
        """What the documents describe."""
        if "model_index.json" in held.documents:
            assembly.check_index(held.documents["model_index.json"])
        return assembly.family(held.documents, *(_pad(held.documents, folder) for folder in TOKENIZERS))

    def pairs(self, family: Family, part: str, held: Held | None, *, ema: bool) -> list[Pair]:
        """diffusers' and transformers' names behind the folder's."""
        prefix = diffusers.folders(family)[part] + "/"
        names = {name.removeprefix(prefix) for name in held.where if name.startswith(prefix)} if held else ()
        made = diffusers.pairs(config_of(family, part), names, added=bool(family.micro))
        return [pair._replace(theirs=prefix + pair.theirs) for pair in made]

    def leftover(self, name: str, family: Family) -> str:
        """Position numbers and CLIP's alignment."""
        return diffusers.leftover(name)


class Compvis:
    """The original single file."""

    name = "compvis"

    def recognises(self, held: Held) -> bool:
        """It has the original U-Net's first layer."""
        return compvis.UNET + "input_blocks.0.0.weight" in held.where

    def family(self, held: Held, prediction: str | None) -> tuple[Family, list[str]]:
        """What our own description says, or what the shapes do."""
        if description.KEY in held.metadata:
            return description.described(held.metadata[description.KEY])[0], []
        return deduce.family(held, prediction)

    def pairs(self, family: Family, part: str, held: Held | None, *, ema: bool) -> list[Pair]:
        """The single file's names."""
        text = compvis.conditioner(family, part)
        return compvis.pairs(config_of(family, part), held.where.keys() if held else (), ema=ema, text=text)

    def leftover(self, name: str, family: Family) -> str:
        """Averages, schedule tables, position numbers and what else trainers leave in."""
        return compvis.leftover(name, family.text.layers)


FORMATS: dict[str, Format] = {format.name: format for format in (Native(), Diffusers(), Compvis())}


def recognise(held: Held) -> Format:
    """The format of what is held; a UserError that says what it is instead, where we can tell."""
    for format in FORMATS.values():
        if format.recognises(held):
            return format
    kind = compvis.other_kind(held.where)
    examples = ", ".join(sorted(held.where)[:3])
    raise UserError(
        f'"{held.path}" {f"is {kind}" if kind else "is no model that is known here"}'
        f"{f' (it holds {examples}, ...)' if examples and not kind else ''}.",
        "A Stable Diffusion 1, 2 or XL checkpoint, a diffusers folder, or a model saved by aquatint.",
    )


def look(path: Path, variant: str | None = None) -> Held:
    """What lies at a path: one file, the folder of a native model, or a diffusers folder."""
    if not path.is_dir():
        return store.single(path)
    if any((path / name).exists() for name in ("model_index.json", "unet", "vae", "text_encoder")):
        return _diffusers_folder(path, variant)
    opened, note = store.find(path, "", "model", variant)
    if opened:
        return store.hold(path, [("", file) for file in opened], notes=(note,) if note else ())
    with files.telling(path, "read"):
        names = sorted(entry.name for entry in path.iterdir())
    single = [name for name in names if name.endswith((store.SUFFIX, *PICKLES))]
    raise UserError(
        f'"{path}" is a folder that holds no model.',
        "A diffusers folder (unet, vae, text_encoder), or one that aquatint saved.",
        f'Did you mean "{path / single[0]}"?' if single else "Check the path.",
    )


def _diffusers_folder(path: Path, variant: str | None) -> Held:
    """All documents and weights of a diffusers folder; names the part that is missing."""
    names = ["model_index.json", "scheduler/scheduler_config.json"]
    names += [f"{folder}/{name}.json" for folder in TOKENIZERS for name in ("tokenizer_config", "special_tokens_map")]
    folders = _folders_there(path)
    names += [f"{folder}/config.json" for folder in folders.values()]
    for part, folder in folders.items():
        store.inside(path, folder)
        if not (path / folder / "config.json").exists():
            raise UserError(
                f'"{path}" lacks {"" if (path / folder).is_dir() else "the folder "}{folder}'
                f"{'/config.json' if (path / folder).is_dir() else ''}: the {keymap.WORDS[part]}.",
                "A folder with unet, vae and text_encoder.",
                "Fetch it again.",
            )
    documents = {name: found for name in names if (found := store.document(path, name)) is not None}
    if variant is not None:
        offered = {there for part in folders for there in store.variants(path / folders[part], STEMS[part])}
        if variant not in offered:
            others = ", ".join(sorted(there for there in offered if there)) or "none"
            raise UserError(f'"{path}" has no variant {variant}.', f"Variants there: {others}.", "Leave --variant out.")
    opened: list[tuple[str, store.File]] = []
    notes: list[str] = []
    for part, folder in folders.items():
        found, note = store.find(path, folder, STEMS[part], variant)
        if not found:
            raise UserError(
                f'"{path}" lacks the weights of the {keymap.WORDS[part]} ({folder}/{STEMS[part]}.safetensors).',
                "A folder with the weights of all three nets.",
                "Fetch it again.",
            )
        opened += [(f"{folder}/", file) for file in found]
        notes += [note] if note else []
    if "model_index.json" not in documents:
        notes.append("no model_index.json; the folders say enough")
    return store.hold(path, opened, documents=documents, notes=tuple(notes))


def _folders_there(path: Path) -> dict[str, str]:
    """The folders that must be there: the three, and a second text encoder, or that one alone, where it is there."""
    if not (path / diffusers.SECOND).is_dir():
        return diffusers.FOLDERS
    both = (path / diffusers.FOLDERS["text"]).is_dir()
    return diffusers.FOLDERS | ({"text2": diffusers.SECOND} if both else {"text": diffusers.SECOND})


def _pad(documents: Mapping[str, Any], folder: str) -> str:
    """How a folder's tokenizer fills up: by id 0 where it names "!", as in Stable Diffusion 2; else by the end."""
    for name in (f"{folder}/tokenizer_config.json", f"{folder}/special_tokens_map.json"):
        token = documents.get(name, {}).get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            return "zero" if token == "!" else "end"
    return "end"
