"""Texts that would be paths, where a name or a word is due: gate S5.

They stand in prompts, in a grid's axes, in options of `generate` that are no paths, and in every text of two records.
"""

import hashlib
import itertools
import json
import random
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.gates.corpus import Goods

import aquatint
from aquatint import Edit, Hires, Request, Variation, given
from aquatint.apps.cli.generate import generate
from aquatint.base import config
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.generate import generate as paint
from aquatint.pipelines.lora import Lora
from aquatint.pipelines.picture import Picture

_UP = (
    "../outside", "../../outside", "..", ".", "/", "//", "~", "~root/x", "/etc/passwd", "/dev/zero", "/proc/self/mem",
)  # fmt: skip
_ENDS = ("", ".txt", ".safetensors", "/", "\x00.txt")
STRINGS = [
    *(up + end for up, end in itertools.product(_UP[:2], _ENDS)), *_UP[2:],
    "..\\outside", "C:\\outside", "C:outside", "\\\\host\\share", "//host/share", "\\\\?\\C:\\x", "file:///etc/passwd",
    "file:outside", "http://127.0.0.1/x", "https://127.0.0.1/x", "s3://x/y", "hf://x/y", "../" * 40 + "etc/passwd",
    "....//outside", "..;/outside", "%2e%2e%2foutside", "..%2foutside", "..%5coutside", "．．/outside", "..∕outside",
    "leak", "leak.safetensors", "leak.txt", "sub/leak", "sub/../../outside", "folder/x", "LEAK", "leak/outside",
    "CON", "aux.txt", "x:y", "outside\n", "-", "--help", "$HOME", "${PWD}/x", "`id`", "*", "x" * 5_000,
    "\u202e../outside", "outside-loras",
]  # fmt: skip

# What the options of `aquatint generate` take that are texts: places in the file system, which the user may choose ...
PLACES = {
    "model", "tokenizer", "out", "wildcards", "image", "mask", "lora", "lora_folder", "embedding", "refiner", "prompts",
    "replay", "sheet", "sign", "key", "safety", "control", "control_image", "control_mask", "image_encoder", "upscaler",
    "tiny", "depth", "hires_upscaler",
}  # fmt: skip
# ... and names and numbers, which never are such places.
WORDS = {
    "negative", "size", "sampler", "grid", "option", "noise", "grammar", "variant", "revision", "ema", "prediction",
    "device", "dtype", "engine", "memory", "format", "fill", "fit", "outpaint", "guidance_interval", "threshold", "apg",
    "pag_layers",
    "freeu", "original_size", "crop", "target_size", "flagged", "control_fit", "preprocess", "variation_size",
    "hires_size", "hires_sampler", "hires_grid", "hires_prompt", "hires_negative", "tiling", "tiling_weights",
    "seamless",
}  # fmt: skip


def options() -> set[str]:
    """The options of `aquatint generate` that take a text or a path."""
    found = set()
    for group in typing.get_type_hints(generate).values():
        for kind in typing.get_args(group):
            if is_dataclass(kind):
                hints = typing.get_type_hints(kind)
                found |= {name for name, hint in hints.items() if "str" in str(hint) or "Path" in str(hint)}
    return found


def home(root: Path, goods: Goods) -> Path:
    """A folder of LoRAs and one of wildcards, each with links out of it."""
    home = root / "home"
    for name, file in (("loras", goods.lora), ("wildcards", None)):
        (home / name / "sub").mkdir(parents=True)
        (root / f"outside-{name}").write_bytes(file.read_bytes() if file else b"secret\n")
        for place in ("leak", "sub/leak"):
            for ending in (".txt", ".safetensors"):
                (home / name / f"{place}{ending}").symlink_to(root / f"outside-{name}")
        (home / name / "folder").symlink_to(root)
    (home / "loras/cats.safetensors").write_bytes(goods.lora.read_bytes())
    (home / "wildcards/animal.txt").write_text("a cat\n")
    return home


def painted(bundle: Bundle, request: Request) -> Picture:
    """The request's one picture."""
    return next(progress.picture for progress in paint(bundle, request) if progress.picture is not None)


def pictures(home: Path, goods: Goods) -> list[tuple[Path, dict[str, Any]]]:
    """Two records, of all kinds of words and of a picture painted over another, and folders for pictures of them."""
    bundle = aquatint.load(goods.native, loras=[home / "loras/cats.safetensors"], device="cpu", threads=1)
    size = {"width": 16, "height": 16, "steps": 1}
    asked = Request(
        "a cat", "a dog", sampler="dpmpp_sde", grid="karras", loras=(Lora("cats", 0.5, blocks=(("M00", 0.5),)),),
        variation=Variation(seed=3, strength=0.5), hires=Hires(scale=2, upscaler="latent", sampler="ddim"), **size,
    )  # fmt: skip
    first = painted(bundle, Request("a cat", **size)).image
    over = Request(
        "a cat",
        edit=Edit(given(first), mask=given(Image.new("L", first.size, 255)), fill="noise", strength=1.0),
        **size,
    )
    made = []
    for number, (request, picture) in enumerate(((asked, None), (over, first))):
        record = config.to_data(painted(bundle, request).record)
        if picture is not None:
            picture.save(home / "first.png")
            Image.new("L", picture.size, 255).save(home / "mask.png")
        made.append((home / f"pictures-{number}", record))
    return made


def leaves(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the texts are."""
    if isinstance(data, str):
        yield place
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from leaves(value, (*place, key))


def planted(data: Any, place: tuple[Any, ...], text: str) -> Any:
    """The same data with a text at a place."""
    if not place:
        return text
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[place[0]] = planted(data[place[0]], place[1:], text)
    return copy


def told(folder: Path, text: str, place: tuple[Any, ...], record: dict[str, Any]) -> Path:
    """A picture that says it was made so, but for a text at a place of its record."""
    chunks = PngInfo()
    chunks.add_itxt("aquatint", json.dumps(planted(record, place, text)))
    path = folder / f"{'-'.join(map(str, place))}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.png"
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (16, 16)).save(path, pnginfo=chunks)
    return path


Words = Callable[[str], Sequence[object]]  # a text -> the command in which it stands


def commands(at: Path, out: Path, goods: Goods) -> Iterator[tuple[str, Words]]:
    """Every place for a text, by what it is called."""
    common = ("--steps", 1, "--size", "16x16", "--seed", 1, "--threads", 1, "--out", out)
    shelves = ("--lora-folder", at / "loras", "--wildcards", at / "wildcards")
    native, folder, cats = (
        ("--model", goods.native),
        ("--model", goods.folder),
        ("--lora", at / "loras/cats.safetensors"),
    )

    def prompted(form: str) -> Words:
        return lambda text: ("generate", " " + form.replace("NAME", text), *native, *common, *shelves)

    def optional(name: str) -> Words:
        model = folder if name in ("variant", "revision", "ema", "prediction") else native
        return lambda text: ("generate", "a cat", *model, *common, f"--{name.replace('_', '-')}={text}")

    def along(form: str) -> Words:
        return lambda text: ("grid", "a cat", *native, *common, *cats, f"--x={form.replace('NAME', text)}")

    def recorded(command: str, home: Path, place: tuple[Any, ...], record: dict[str, Any], *words: object) -> Words:
        return lambda text: (command, told(home, text, place, record), *words)

    for form in ("a <lora:NAME:1>", "a __NAME__", "NAME"):
        yield form, prompted(form)
    for name in sorted(WORDS - {"size", "flagged", "control_fit", "preprocess"}):  # given already, or not taken alone
        yield name, optional(name)
    for form in ("loras.NAME.weight=0,1", "NAME=1,2", "sampler=NAME"):
        yield form, along(form)
    for home, record in pictures(at, goods):
        edit = ("--image", at / "first.png", "--mask", at / "mask.png") if record["request"]["edit"] else ()
        for place in leaves(record):
            name = ".".join(map(str, place))
            again = (*native, *cats, "--threads", 1, "--out", out, "--anyway", *edit)
            yield f"again {name}", recorded("again", home, place, record, *again)
            yield f"info {name}", recorded("info", home, place, record)


def path_cases(root: Path, goods: Goods, count: int | None = None) -> list[dict[str, Any]]:
    """Every text in every command, or a sample; each case has beside it a harmless one, to be run before."""
    at = home(root, goods)
    pairs = list(itertools.product(commands(at, root / "scratch/out/made", goods), STRINGS))
    return [
        {
            "name": f"{name} {text[:40]!r}", "path": str(at), "roots": [str(goods.folder)], "entries": ["words"],
            "words": list(map(str, words(text))), "before": list(map(str, words("cats"))),
        }
        for (name, words), text in (pairs if count is None else random.Random(6).sample(pairs, count))
    ]  # fmt: skip
