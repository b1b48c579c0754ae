"""Options for larger pictures and variations, and for the files that they need."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aquatint.base.errors import UserError, unknown

if TYPE_CHECKING:
    from aquatint.pipelines.record import Record
    from aquatint.pipelines.request import Request
    from aquatint.pipelines.variation import Variation


EDGES, WEIGHTS = ("x", "y", "both"), ("even", "gaussian")


@Parameter(name="*")
@dataclass
class Tools:
    """Files besides the model."""

    upscaler: Annotated[
        list[str] | None, Parameter(help="An ESRGAN file that --hires-upscaler may name; several times.", negative="")
    ] = None
    tiny: Annotated[str | None, Parameter(help="A tiny autoencoder (TAESD), for previews and --tiny-decoder.")] = None


@Parameter(name="*")
@dataclass
class Enlarging:
    """Variations, a second pass, windows, seamless tiles, and how latents become pixels."""

    variation_seed: Annotated[int | None, Parameter(help="Turn the noise towards this seed's.")] = None
    variation_strength: Annotated[float | None, Parameter(help="How far, 0 to 1.")] = None
    variation_size: Annotated[str | None, Parameter(help="WIDTHxHEIGHT for which the noise is drawn.")] = None
    hires_scale: Annotated[float | None, Parameter(help="Paint again, this many times larger.")] = None
    hires_size: Annotated[str | None, Parameter(help="Paint again at WIDTHxHEIGHT.")] = None
    hires_upscaler: Annotated[str | None, Parameter(help="latent (and its kin), lanczos, nearest, or a file.")] = None
    hires_strength: Annotated[float | None, Parameter(help="How far from the enlarged picture; 0.7 if not given.")] = (
        None
    )
    hires_steps: Annotated[int | None, Parameter(help="Steps of the second pass.")] = None
    hires_sampler: Annotated[str | None, Parameter(help="Its sampler.")] = None
    hires_grid: Annotated[str | None, Parameter(help="Its grid.")] = None
    hires_prompt: Annotated[str | None, Parameter(help="Its prompt.", allow_leading_hyphen=True)] = None
    hires_negative: Annotated[str | None, Parameter(help="Its negative prompt.", allow_leading_hyphen=True)] = None
    hires_guidance: Annotated[float | None, Parameter(help="Its guidance.")] = None
    tiling: Annotated[str | None, Parameter(help="Ask the net about windows of WIDTHxHEIGHT.")] = None
    tiling_overlap: Annotated[int | None, Parameter(help="Pixels that windows share; half of them if not given.")] = (
        None
    )
    tiling_weights: Annotated[str | None, Parameter(help="even or gaussian.")] = None
    seamless: Annotated[str | None, Parameter(help="Edges that meet: x, y or both.")] = None
    tiled: Annotated[int | None, Parameter(help="Decode and encode by tiles of so many pixels a side.")] = None
    tiny_decoder: Annotated[bool, Parameter(help="Decode with the tiny autoencoder.", negative="")] = False


def read_enlarging(enlarging: Enlarging | None) -> dict[str, Any]:
    """The options as fields of a Request."""
    if enlarging is None or enlarging == Enlarging():
        return {}
    for kind, said, known in (
        ("seamless", enlarging.seamless, EDGES),
        ("tiling weights", enlarging.tiling_weights, WEIGHTS),
    ):
        if said is not None and said not in known:
            raise unknown(kind, said, known)
    from aquatint.pipelines.tiling import Decoding

    tile = enlarging.tiled or 0
    decoding = Decoding(tile, enlarging.tiny_decoder) if tile or enlarging.tiny_decoder else None
    return {
        "variation": _variation(enlarging),
        "hires": _hires(enlarging),
        "tiling": _tiling(enlarging),
        "seamless": enlarging.seamless,
        "decoding": decoding,
    }


def varied(requests: "list[Request]") -> "list[Request]":
    """With a variation, several pictures are of one seed and of variation seeds that follow one another, as in A1111.

    Where the prompts differ from seed to seed, they stay as they are.
    """
    first = requests[0]
    variation = first.variation
    if len(requests) > 1 or variation is None or not variation.strength:
        return requests
    count = range(len(first.seeds))
    turned = [replace(variation, seed=variation.seed + number) for number in count]
    return [replace(first, seeds=first.seeds[:1], variation=one) for one in turned]


def opening_tools(tools: Tools | None, enlarging: Enlarging | None = None, record: "Record | None" = None) -> Any:
    """What `load` is to open of these. With a record, files go by the names that they had in it, told by sha256."""
    paths = [*((tools and tools.upscaler) or ())]
    if enlarging is not None and enlarging.hires_upscaler and is_path(enlarging.hires_upscaler):
        paths.append(enlarging.hires_upscaler)
    options = {"upscalers": _named(paths, record), "tiny": tools and tools.tiny}
    return {name: value for name, value in options.items() if value}


def _named(paths: list[str], record: "Record | None") -> dict[str, Path]:
    from aquatint.pipelines.shelf import name_of

    found: dict[str, Path] = {}
    for given in paths:
        path = Path(given).expanduser()
        if not path.is_file():
            raise UserError(f'There is no file "{given[:200]}".', "An upscaler.", "Check the path.")
        name = name_of(path)
        if record is not None:
            from aquatint.weights.upscalers import open_upscaler

            digest = open_upscaler(path).digest
            name = next((file.name for file in record.files if file.sha256 == digest), name)
        if found.setdefault(name, path) != path:
            raise UserError(f'Two upscalers are named "{name}".', "Names that differ.", "Rename one.")
    return found


def _variation(enlarging: Enlarging) -> "Variation | None":
    seed, strength, size = enlarging.variation_seed, enlarging.variation_strength, enlarging.variation_size
    if seed is None and strength is None and size is None:
        return None
    if seed is not None and strength is None:
        raise UserError("--variation-seed without --variation-strength.", "Both: the strength says how far.")
    from aquatint.pipelines.variation import Variation

    width, height = (None, None) if size is None else _size("variation-size", size)
    chosen = int.from_bytes(os.urandom(4), "big") if seed is None and strength else seed or 0
    return Variation(chosen, strength or 0.0, width, height)


def _hires(enlarging: Enlarging) -> Any:
    said = {name.removeprefix("hires_"): value for name, value in vars(enlarging).items() if name.startswith("hires_")}
    if not any(value is not None for value in said.values()):
        return None
    from aquatint.pipelines.hires import Hires
    from aquatint.pipelines.shelf import name_of

    size = said.pop("size")
    if size is not None:
        said["width"], said["height"] = _size("hires-size", size)
    if said["upscaler"] and is_path(said["upscaler"]):
        said["upscaler"] = name_of(Path(said["upscaler"]))
    return Hires(**{name: value for name, value in said.items() if value is not None})


def _tiling(enlarging: Enlarging) -> Any:
    if enlarging.tiling is None:
        if enlarging.tiling_overlap is not None or enlarging.tiling_weights is not None:
            raise UserError("Options of windows without --tiling.", "--tiling WIDTHxHEIGHT, a window's size.")
        return None
    from aquatint.pipelines.tiling import Tiling

    width, height = _size("tiling", enlarging.tiling)
    return Tiling(width, height, enlarging.tiling_overlap, enlarging.tiling_weights or "even")  # type: ignore[arg-type]


def _size(option: str, text: str) -> tuple[int, int]:
    from aquatint.apps.cli.generate import read_size

    try:
        return read_size(text)
    except UserError as error:
        raise UserError(f'--{option} "{text}".', error.takes) from None


def is_path(text: str) -> bool:
    """Whether a word means a file: it has a folder in it, or the ending of one with weights."""
    return Path(text).suffix.lower() in (".pth", ".pt", ".safetensors", ".bin", ".ckpt") or os.sep in text
