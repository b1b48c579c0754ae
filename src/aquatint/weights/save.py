"""Saving a model as a diffusers folder, an original single file, or our own format; whole, or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import aquatint
from aquatint.base import files
from aquatint.base.errors import UserError, unknown
from aquatint.families import Family
from aquatint.nets.merges import packaged_merges
from aquatint.nets.tokenizer import Tokenizer
from aquatint.weights import assembly, description, diffusers, writer
from aquatint.weights.checks import DTYPES, check_finite, sha256
from aquatint.weights.formats import FORMATS, STEMS, Format
from aquatint.weights.keymap import Pair, config_of, parts_of, shapes
from aquatint.weights.open import FIRST, SECOND, VOCABULARY, Opened
from aquatint.weights.store import INDEX, SUFFIX
from aquatint.weights.writer import Outgoing

VARIANTS = {"fp16": torch.float16, "bf16": torch.bfloat16}
SMALLEST_SHARD = 2**16
ARCHITECTURES = {
    "SD15": "stable-diffusion-v1",
    "SD15_INPAINT": "stable-diffusion-v1-inpainting",
    "SD21": "stable-diffusion-v2-512",
    "SD21_V": "stable-diffusion-v2-768-v",
    "SDXL": "stable-diffusion-xl-v1-base",
    "SDXL_INPAINT": "stable-diffusion-xl-v1-inpainting",
    "SDXL_REFINER": "stable-diffusion-xl-v1-refiner",
    "SD21_INPAINT": "stable-diffusion-v2-inpainting",
    "SD21_DEPTH": "stable-diffusion-v2-depth",
    "SD_TURBO": "stable-diffusion-v2-turbo",
    "SD15_PIX2PIX": "stable-diffusion-v1-edit",
    "SD15_LCM": "stable-diffusion-v1-lcm",
}
IMPLEMENTATIONS = {"compvis": "https://github.com/Stability-AI/generative-models", "native": "aquatint"}
COPIED = ("title", "description", "author", "date", "license", "usage_hint", "thumbnail", "tags", "merged_from")


def save(
    opened: Opened,
    path: str | Path,
    format: str = "native",
    *,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    shard_size: int | None = None,
    said: Mapping[str, str] | None = None,
) -> Path:
    """Write the model to `path`, where there must be nothing yet; returns the path.

    format      "diffusers": a folder that diffusers 0.42 reads; "compvis": the original single file; "native": ours, a
                folder, or a single file where the path ends in .safetensors
    dtype       what the weights are stored as; None leaves them as they are (variant "fp16" means float16)
    variant     a word in the names of a diffusers folder's weights
    shard_size  the most bytes of tensors in one file of a folder
    said        texts for the weights' headers beside what stands there anyway (how it was trained)

    A single file whose tokenizer is not CLIP's has it beside itself, in a folder of the same name ending in .tokenizer.
    Raises UserError for what the format cannot say, and when anything stands in the way; nothing is left half-written.
    """
    path = Path(path).expanduser()
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    dtype = VARIANTS.get(variant or "") if dtype is None else dtype
    _check_options(path, format, dtype, variant, shard_size)
    description.check(opened.family)
    nets, parts = opened.nets, parts_of(opened.family)
    if format != "native" and (reason := assembly.unsayable(opened.family)):
        raise UserError(
            f"{opened.family.name} cannot be written as {format}: {reason}.", "", "Write the native format."
        )
    tensors = {part: outgoing(FORMATS[format], opened.family, part, nets[part], dtype) for part in parts}
    if format == "diffusers":
        _save_diffusers(opened, path, tensors, variant, shard_size, {"format": "pt"} | dict(said or {}))
    else:
        digest = digest_of(opened.family, nets, dtype)
        every = [tensor for part in parts for tensor in tensors[part]]
        metadata = {"format": "pt", description.KEY: description.describe(opened.family, digest)} | dict(said or {})
        if format == "native" and path.suffix != SUFFIX:
            _save_native(opened, path, every, metadata, shard_size)
        else:
            _save_single(opened, path, every, metadata | modelspec(opened, format, every))
    return path


def outgoing(format: Format, family: Family, part: str, net: nn.Module, dtype: torch.dtype | None) -> list[Outgoing]:
    """One net's tensors under the format's names, to be made when they are written."""
    state = net.state_dict()
    ours = shapes(config_of(family, part))
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == ours, "the net is not the family's"
    made = []
    for pair in format.pairs(family, part, None, ema=False):
        shape = pair.turn.shapes([ours[name] for name in pair.ours])[0]
        kind = state[pair.ours[0]].dtype if dtype is None else dtype
        made.append(Outgoing(pair.theirs, kind, shape, partial(_given, pair, state, kind)))
    return made


def digest_of(family: Family, nets: dict[str, nn.Module], dtype: torch.dtype | None) -> str:
    """The digest that the model will have once its weights are stored as `dtype`."""

    items = [(f"{part}.{name}", tensor) for part, net in nets.items() for name, tensor in net.state_dict().items()]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return description.digest(family, pool.map(partial(_sum, dtype), *zip(*items, strict=True)))


def modelspec(opened: Opened, format: str, tensors: Sequence[Outgoing]) -> dict[str, str]:
    """Stability AI's ModelSpec 1.0.1 for a single file; what came with the weights (author, license) is kept.

    There is no date unless one came along: the same model saved twice is the same file twice.
    """
    family = opened.family
    kept = {key: text for key, text in opened.metadata.items() if key.removeprefix("modelspec.") in COPIED}
    said = {
        "sai_model_spec": "1.0.1",
        "architecture": ARCHITECTURES.get(family.name, f"aquatint-{family.name.lower()}"),
        "implementation": IMPLEMENTATIONS[format],
        "implementation_version": f"aquatint {aquatint.__version__}",
        "resolution": f"{family.defaults.width}x{family.defaults.height}",
        "hash_sha256": "0x" + writer.tensor_hash(tensors),
    }
    if family.prediction in ("epsilon", "v"):
        said["prediction_type"] = family.prediction
    named = {f"modelspec.{key}": text for key, text in said.items()}
    return {"modelspec.title": opened.name or family.name} | kept | named


def _save_diffusers(
    opened: Opened,
    path: Path,
    tensors: dict[str, list[Outgoing]],
    variant: str | None,
    shard_size: int | None,
    metadata: dict[str, str],
) -> None:
    documents: dict[str, Any] = assembly.documents(opened.family)
    with files.building(path, manifest=False) as build:
        for part, folder in diffusers.folders(opened.family).items():
            prefix = folder + "/"
            bare = [tensor._replace(name=tensor.name.removeprefix(prefix)) for tensor in tensors[part]]
            middle = f".{variant}" if variant else ""
            _write_shards(build, prefix, STEMS[part], middle, bare, metadata, shard_size)
        _write_tokenizers(build, opened)
        for name, document in documents.items():
            build.write(name, json.dumps(document, indent=2) + "\n")


def _save_native(
    opened: Opened, path: Path, tensors: list[Outgoing], metadata: dict[str, str], shard_size: int | None
) -> None:
    with files.building(path) as build:
        _write_shards(build, "", "model", "", tensors, metadata, shard_size)
        _write_tokenizers(build, opened)
        if opened.vocabulary:
            build.write(VOCABULARY, opened.vocabulary)


def _save_single(opened: Opened, path: Path, tensors: list[Outgoing], metadata: dict[str, str]) -> None:
    if opened.tokenizer2 is not None and opened.tokenizer2.merges != opened.tokenizer.merges:
        raise UserError("Its two tokenizers have different merges.", "One for both.", "Write a folder.")
    beside = path.with_suffix(".tokenizer")
    own = opened.tokenizer.merges != packaged_merges()
    if own:
        with files.building(beside, manifest=False) as build:
            _write_tokenizer(build, opened.tokenizer, "")
    try:
        with files.writing(path, replace=False) as out:
            writer.write(out, tensors, metadata)
    except BaseException:
        if own:
            shutil.rmtree(beside, ignore_errors=True)
        raise


def _write_shards(
    build: files.Build,
    prefix: str,
    stem: str,
    middle: str,
    tensors: list[Outgoing],
    metadata: dict[str, str],
    shard_size: int | None,
) -> None:
    """One file, or numbered files and their index, named as diffusers 0.42 names them."""
    shards = writer.split(tensors, shard_size)
    if len(shards) == 1:
        with build.writing(f"{prefix}{stem}{middle}{SUFFIX}") as out:
            writer.write(out, tensors, metadata)
        return
    table: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}{middle}-{number:05d}-of-{len(shards):05d}{SUFFIX}"
        with build.writing(prefix + name) as out:
            writer.write(out, shard, metadata)
        table |= {tensor.name: name for tensor in shard}
    size = sum(tensor.size for tensor in tensors)
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(table.items()))}
    build.write(f"{prefix}{stem}{INDEX}{middle}.json", json.dumps(index, indent=2) + "\n")


def _write_tokenizers(build: files.Build, opened: Opened) -> None:
    """Each encoder's, in the folder that diffusers has for it."""
    alone = opened.family.micro and opened.family.text2 is None  # Stable Diffusion XL's refiner has the second only
    _write_tokenizer(build, opened.tokenizer, f"{SECOND if alone else FIRST}/")
    if opened.tokenizer2 is not None:
        _write_tokenizer(build, opened.tokenizer2, f"{SECOND}/")


def _write_tokenizer(build: files.Build, tokenizer: Tokenizer, prefix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        for name in sorted(os.listdir(folder)):
            build.write(prefix + name, (Path(folder) / name).read_bytes())


def _given(pair: Pair, state: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """A tensor of theirs, from ours."""
    return pair.turn.give([_cast(state[name], dtype, name) for name in pair.ours])


def _sum(dtype: torch.dtype | None, name: str, tensor: Tensor) -> tuple[str, str]:
    """(name, sha256 of the float32 values that will be read back)."""
    stored = _cast(tensor, tensor.dtype if dtype is None else dtype, name)
    return name, sha256(stored.to(torch.float32).contiguous())


def _cast(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """The tensor as it will be stored; a value that is not finite there is a UserError."""
    made = tensor.detach().to(dtype)
    check_finite(made, f"Tensor {name}, stored as {str(dtype).removeprefix('torch.')},")
    return made


def _check_options(
    path: Path, format: str, dtype: torch.dtype | None, variant: str | None, shard_size: int | None
) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"{dtype} is no number format for weights.", f"One of {', '.join(map(str, DTYPES))}.")
    if variant is not None and format != "diffusers":
        raise UserError(f"The format {format} has no variants.", "A variant of a diffusers folder.", "Leave it out.")
    if variant is not None and not (variant.isascii() and variant.replace("_", "").isalnum() and len(variant) <= 32):
        raise UserError(f'"{variant[:60]}" is no name for a variant.', "Letters and digits, as in fp16.")
    single = format == "compvis" or (format == "native" and path.suffix == SUFFIX)
    if shard_size is not None and single:
        raise UserError("A single file has no shards.", "A shard size for a folder.", "Leave it out.")
    if shard_size is not None and shard_size < SMALLEST_SHARD:
        raise UserError(f"Shards of {shard_size} bytes.", f"At least {SMALLEST_SHARD}.")
    if path.exists() and (single or not path.is_dir()):
        raise files.Taken(path)
    with files.telling(path, "written"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UserError(
                f'"{path.parent}" is a file, and a folder is needed there.', "", "Check the path."
            ) from None
