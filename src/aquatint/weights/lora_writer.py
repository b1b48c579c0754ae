"""Adapters -> files that other programs read: kohya's names for all kinds, diffusers' (PEFT's) for low ranks."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

import aquatint
from aquatint.base import files
from aquatint.base.errors import UserError, unknown
from aquatint.families import Family
from aquatint.nets.adapters import Adapter, Decomposed, LowRank
from aquatint.weights import writer
from aquatint.weights.adapter_kinds import parts_of
from aquatint.weights.adapter_names import FOLDERS, KOHYA_PARTS, nets, spellings
from aquatint.weights.checks import DTYPES, check_finite
from aquatint.weights.keymap import shapes
from aquatint.weights.store import SUFFIX

BASES = {768: "sd_v1", 1024: "sd_v2", 2048: "sdxl_base_v1-0"}  # kohya's names, by the width of the texts
ARCHITECTURES = {
    768: "stable-diffusion-v1/lora",
    1024: "stable-diffusion-v2-512/lora",
    2048: "stable-diffusion-xl-v1-base/lora",
}


def save_lora(
    path: str | Path,
    adapters: Mapping[str, Mapping[str, Adapter]],
    family: Family,
    dialect: str = "kohya",
    *,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write adapters (by net, by the name of the weight) to a .safetensors file, where there must be nothing yet.

    dialect    "kohya": every kind; what A1111, ComfyUI and kohya's scripts read
               "diffusers": LoRA, LoCon and DoRA, in PEFT's names; what diffusers' load_lora_weights reads. alpha is
               multiplied into the weights there, so that no reader can take it for another
    metadata   texts for the header, as "modelspec.trigger_phrase"; what is known is filled in

    Raises UserError for a kind that the dialect cannot say. Returns the path.
    """
    path = Path(path).expanduser()
    if dialect not in SPELLERS:
        raise unknown("dialect to write", dialect, SPELLERS)
    if dtype not in DTYPES:
        raise UserError(f"{dtype} is no number format for weights.", f"One of {', '.join(map(str, DTYPES))}.")
    if path.suffix != SUFFIX:
        raise UserError(f'"{path}" does not say that it is safetensors.', f"A name that ends in {SUFFIX}.")
    rows: dict[str, Tensor] = {}
    for net, weights in adapters.items():
        config = nets(family)[net]
        for name, adapter in weights.items():
            ours, _, leaf = name.rpartition(".")
            rows |= SPELLERS[dialect](net, family, spellings(config)[ours], leaf, adapter, shapes(config)[name])
    if not rows:
        raise UserError("There is no adapter to write.", "At least one.")
    made = {name: tensor.detach().to(dtype).contiguous() for name, tensor in rows.items()}
    for name, tensor in made.items():
        check_finite(tensor, f"Tensor {name}, stored as {str(dtype).removeprefix('torch.')},")
    tensors = [writer.Outgoing(name, dtype, tuple(row.shape), lambda row=row: row) for name, row in made.items()]  # type: ignore[misc]
    said = _metadata(path, adapters, family, writer.tensor_hash(tensors)) | dict(metadata or {})
    files.make_folder(path.parent)
    with files.writing(path, replace=False) as out:
        writer.write(out, tensors, said)
    return path


def _kohya(
    net: str, family: Family, layer: str, leaf: str, adapter: Adapter, shape: tuple[int, ...]
) -> dict[str, Tensor]:
    prefix = {"unet": "lora_unet", "text": "lora_te1" if "text2" in nets(family) else "lora_te", "text2": "lora_te2"}[
        net
    ]
    spelled = {part: name for name, part in KOHYA_PARTS.items()}
    parts = parts_of(adapter, leaf, shape)
    return {f"{prefix}_{layer.replace('.', '_')}.{spelled[part]}": tensor for part, tensor in parts.items()}


def _diffusers(
    net: str, family: Family, layer: str, leaf: str, adapter: Adapter, shape: tuple[int, ...]
) -> dict[str, Tensor]:
    folder = next(folder for folder, known in FOLDERS.items() if known == net)
    inner = adapter.inner if isinstance(adapter, Decomposed) and adapter.axis == 0 else adapter
    if not isinstance(inner, LowRank):
        raise UserError(
            f"diffusers has no words for {layer}: {type(inner).__name__}.",
            "LoRA, LoCon, or DoRA with a length for each output.",
            'Write it in the dialect "kohya".',
        )
    down, up = inner.down.float(), inner.up.float() * inner.scale
    if inner.middle is not None:
        down = torch.einsum("ab...,bi->ai...", inner.middle.float(), down.flatten(1))
    if len(shape) == 4:
        down, up = down.reshape(down.shape[0], *shape[1:]), up.flatten(1)[..., None, None]
    made = {"lora_A.weight": down, "lora_B.weight": up}
    if isinstance(adapter, Decomposed):
        length = adapter.magnitude.flatten()
        made["lora_magnitude_vector.weight"] = length.reshape(1, -1, 1, 1) if len(shape) == 4 else length
    return {f"{folder}.{layer}.{part}": tensor for part, tensor in made.items()}


def _metadata(path: Path, adapters: Mapping[str, Mapping[str, Adapter]], family: Family, digest: str) -> dict[str, str]:
    """What kohya's scripts write into a header and web UIs read; no date, so that equal adapters are equal files."""
    every = [adapter for weights in adapters.values() for adapter in weights.values()]
    plain = all(isinstance(adapter, LowRank) for adapter in every)
    (rank, _), *_ = Counter(adapter.rank for adapter in every if adapter.rank).most_common(1) or [(0, 0)]
    scales = Counter(adapter.scale for adapter in every if isinstance(adapter, LowRank)).most_common(1)
    context = family.unet.context
    said = {
        "format": "pt",
        "ss_network_module": "networks.lora" if plain else "lycoris.kohya",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank * scales[0][0] if scales else rank),
        "ss_output_name": path.stem,
        "ss_v2": str(context == 1024),
        "sshs_model_hash": digest,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": path.stem,
        "modelspec.implementation": f"aquatint {aquatint.__version__}",
    }
    if context in BASES:
        said |= {"ss_base_model_version": BASES[context], "modelspec.architecture": ARCHITECTURES[context]}
    return said


SPELLERS = {"kohya": _kohya, "diffusers": _diffusers}
