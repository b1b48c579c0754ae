"""A ControlNet -> files that other programs read: its original single file, or diffusers' folder."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import aquatint
from aquatint.base import files
from aquatint.base.errors import UserError, unknown
from aquatint.families import Family
from aquatint.nets.control import ControlNet
from aquatint.weights import control_names, folder, writer
from aquatint.weights.checks import DTYPES, check_finite
from aquatint.weights.keymap import Pair, pairs
from aquatint.weights.store import SUFFIX

FORMATS = ("original", "diffusers")
STEM = "diffusion_pytorch_model"
# What diffusers' ControlNetModel shares with its U-Net; the rest of a U-Net's document is about the way up.
SHARED = frozenset(
    {
        "act_fn",
        "addition_embed_type",
        "addition_time_embed_dim",
        "attention_head_dim",
        "block_out_channels",
        "class_embed_type",
        "cross_attention_dim",
        "down_block_types",
        "downsample_padding",
        "flip_sin_to_cos",
        "freq_shift",
        "in_channels",
        "layers_per_block",
        "mid_block_scale_factor",
        "norm_eps",
        "norm_num_groups",
        "only_cross_attention",
        "projection_class_embeddings_input_dim",
        "resnet_time_scale_shift",
        "transformer_layers_per_block",
        "use_linear_projection",
    }
)


def save_control(
    path: str | Path,
    net: ControlNet,
    family: Family,
    format: str = "original",
    *,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a ControlNet that belongs to a family, where there must be nothing yet; returns the path.

    format     "original": one .safetensors file in the names of Zhang's, which A1111 and ComfyUI read
               "diffusers": a folder, which diffusers' ControlNetModel reads
    metadata   texts for the header beside what is known

    Raises UserError for numbers that are not finite, and when anything stands in the way.
    """
    path = Path(path).expanduser()
    if format not in FORMATS:
        raise unknown("format of a ControlNet", format, FORMATS)
    if dtype not in DTYPES:
        raise UserError(f"{dtype} is no number format for weights.", f"One of {', '.join(map(str, DTYPES))}.")
    if format == "original" and path.suffix != SUFFIX:
        raise UserError(f'"{path}" does not say that it is safetensors.', f"A name that ends in {SUFFIX}.")
    config, added = net.control, {"add_embedding.linear_1.weight"} if family.micro else set()
    spelled = {
        "original": lambda: control_names.original_control(config),
        "diffusers": lambda: control_names.diffusers_control(config, added),
    }
    state = net.state_dict()
    ours = {name: tuple(tensor.shape) for name, tensor in state.items()}
    tensors = [
        writer.Outgoing(
            pair.theirs,
            dtype,
            pair.turn.shapes([ours[name] for name in pair.ours])[0],
            partial(_given, pair, state, dtype),
        )
        for pair in pairs(spelled[format](), ours)
    ]
    said = {"format": "pt", "modelspec.implementation": f"aquatint {aquatint.__version__}"} | dict(metadata or {})
    if format == "original":
        files.make_folder(path.parent)
        with files.writing(path, replace=False) as out:
            writer.write(out, tensors, said)
        return path
    with files.building(path, manifest=False) as build:
        with build.writing(f"{STEM}{SUFFIX}") as out:
            writer.write(out, tensors, said)
        build.write("config.json", json.dumps(_document(net, family), indent=2) + "\n")
    return path


def _document(net: ControlNet, family: Family) -> dict[str, Any]:
    """The folder's config.json."""
    config = net.control
    return {
        **{
            name: value
            for name, value in folder.unet_document(config.unet, 0, added=bool(family.micro)).items()
            if name.startswith("_") or name in SHARED
        },
        "_class_name": "ControlNetModel",
        "conditioning_channels": config.channels,
        "conditioning_embedding_out_channels": list(config.hint),
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": False,
    }


def _given(pair: Pair, state: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    made = pair.turn.give([state[name].detach().to(dtype) for name in pair.ours])
    check_finite(made, f"Tensor {pair.theirs}, stored as {str(dtype).removeprefix('torch.')},")
    return made
