"""The models that are compared: Stable Diffusion 1.5 with random weights, as a single file and as diffusers' folder.

    python -m benchmarks.peers.models FOLDER [--toy]

One set of numbers for all: kernels and matrices normal with deviation 1 / sqrt(fan in), embeddings 0.02, norms about
one, biases about zero; nothing is zero, and pictures stay finite. `checkpoint.safetensors` is in the original layout,
which aquatint and stable-diffusion.cpp read; `diffusers/` is what diffusers reads and the others are exported from.
--toy is Stable Diffusion 1.5 narrowed, with everything in its place, for rehearsals.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from aquatint.base.counted import Counted
from aquatint.families import SD15, Family
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.text import TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import UNet
from aquatint.weights.open import Opened
from aquatint.weights.save import save

CHECKPOINT, FOLDER = "checkpoint.safetensors", "diffusers"


def family_of(toy: bool) -> Family:
    """SD 1.5, or a narrow copy of it."""
    if not toy:
        return SD15
    stages = tuple(replace(stage, width=64 * (1 + index)) for index, stage in enumerate(SD15.unet.stages))
    narrow = replace(SD15.autoencoder, encoder=(32, 64, 64, 64), decoder=(32, 64, 64, 64))
    unet, text = replace(SD15.unet, stages=stages), replace(SD15.text, layers=2)
    return replace(SD15, name="SD15_NARROW", unet=unet, autoencoder=narrow, text=text)


def drawn(kind: type[nn.Module], config: object, seed: int) -> nn.Module:
    """A net of random weights."""
    with torch.device("meta"):
        net = kind(config)
    net.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for part in net.modules():
        for leaf, weight in part.named_parameters(recurse=False):
            fan = weight[0].numel() if weight.ndim > 1 else 1
            scale = 0.02 if weight.ndim == 1 or isinstance(part, nn.Embedding) else fan**-0.5
            centre = 1.0 if leaf == "weight" and weight.ndim == 1 else 0.0
            weight.data.normal_(centre, scale, generator=generator)
    return net


def main() -> None:
    """Write what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    kinds = {"compvis": given.folder / CHECKPOINT, "diffusers": given.folder / FOLDER}
    missing = {kind: path for kind, path in kinds.items() if not path.exists()}
    if not missing:
        return
    family = family_of(given.toy)
    opened = Opened(
        family=family,
        unet=drawn(UNet, family.unet, 1),  # type: ignore[arg-type]
        autoencoder=drawn(Autoencoder, family.autoencoder, 2),  # type: ignore[arg-type]
        text=drawn(TextEncoder, family.text, 3),  # type: ignore[arg-type]
        tokenizer=Tokenizer.packaged(),
        name="random",
        counted=Counted(),
    )
    for kind, path in missing.items():
        save(opened, path, kind)


if __name__ == "__main__":
    main()
