"""Files of tiny autoencoders: the original's numbered layers, a file for each half, and diffusers' AutoencoderTiny.

layouts   `1.weight`, `3.conv.0.weight` ... (taesd_decoder), `0.weight`, `1.conv.0.weight` ... (taesd_encoder); both in
          one file with `taesd_decoder.`, `taesd_encoder.` before them
          `decoder.layers.N...`, `encoder.layers.N...` (diffusers: a file, or a folder with config.json)
The original counts the decoder's entry (3 tanh(z / 3)) as a layer, diffusers does not.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from aquatint.base.errors import UserError
from aquatint.nets.tiny import TinyAutoencoder, TinyConfig
from aquatint.weights import store
from aquatint.weights.placed import held_at, placed

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_TAKES = "A tiny autoencoder (TAESD): taesd_decoder, or diffusers' AutoencoderTiny."
_LAYER = re.compile(r"(\d+)(?:\.conv\.([024]))?\.(weight|bias)")
_STARTS = {"decoder": ("decoder.layers.", "taesd_decoder."), "encoder": ("encoder.layers.", "taesd_encoder.")}


@dataclass(frozen=True, eq=False)
class Tiny:
    """A tiny autoencoder, its file's name and sha256."""

    net: TinyAutoencoder
    name: str
    digest: str


def open_tiny(path: str | Path, dtype: torch.dtype = torch.float32) -> Tiny:
    """The tiny autoencoder in a file or in diffusers' folder; a UserError for what is none."""
    path = Path(path).expanduser()
    folder = path.is_dir()
    inner = next((name for name in WEIGHTS if (path / name).exists()), WEIGHTS[0]) if folder else ""
    held = held_at(store.inside(path, inner) if folder else path, _TAKES)
    halves = _halves(held)
    if "decoder" not in halves:
        raise UserError(f'"{path}" has no decoder.', _TAKES)
    ours = {}
    for half, layers in halves.items():
        for (layer, conv, part), name in layers.items():
            ours[f"{half}.parts.{layer}.{'' if conv is None else f'convs.{conv // 2}.'}{part}"] = name
    try:
        entry = held.entry(ours["decoder.parts.0.weight"])
        width, latents = entry.shape[:2]
        if not width or not latents:
            raise ValueError("no features")
    except (KeyError, ValueError):
        raise UserError(f'"{path}" is no tiny autoencoder.', _TAKES) from None
    build = partial(TinyAutoencoder, TinyConfig(width, latents), encodes="encoder" in halves)
    net = placed(build, held, ours, "a tiny autoencoder", dtype)
    return Tiny(net, path.name if folder else path.stem, held.files[0].sha256())


def _halves(held: store.Held) -> dict[str, Mapping[tuple[int, int | None, str], str]]:
    """For each half that the file has: (layer as diffusers counts, convolution in a block, weight or bias) -> name."""
    found: dict[str, dict[tuple[int, int | None, str], str]] = {}
    for name in held.where:
        half = next((half for half, starts in _STARTS.items() if name.startswith(starts)), None)
        start = next((start for starts in _STARTS.values() for start in starts if name.startswith(start)), "")
        match = _LAYER.fullmatch(name[len(start) :])
        if match is None:
            raise UserError(f'"{held.path}" is no tiny autoencoder (it holds {name[:80]}).', _TAKES)
        half = half or ("encoder" if "0.weight" in held.where else "decoder")
        shift = 1 if half == "decoder" and start != "decoder.layers." else 0
        key = (int(match[1]) - shift, None if match[2] is None else int(match[2]), match[3])
        found.setdefault(half, {})[key] = name
    return dict(found)
