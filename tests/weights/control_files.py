"""Files of controls with random weights, in every spelling, for tests to write, damage and open."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from aquatint.families import Family
from aquatint.nets.control import AdapterConfig, ControlConfig, ControlNet, T2IAdapter
from aquatint.nets.picture_prompt import PictureConfig, PicturePrompt, crossings
from aquatint.nets.text import ImageConfig, ImageTower
from aquatint.weights import control_names
from aquatint.weights.keymap import Pair, Place, pairs, to_theirs

TOWER = ImageConfig(size=32, patch=8, width=64, layers=3, heads=1, activation="gelu", projection=24, hidden=80)


@torch.no_grad()
def filled(net: nn.Module, seed: int = 0) -> nn.Module:
    """The net with weights that keep activations alive; none is 0, the zero convolutions' neither."""
    generator = torch.Generator().manual_seed(seed)
    for part in net.modules():
        for name, weight in part.named_parameters(recurse=False):
            weight.normal_(generator=generator)
            if name == "bias":
                weight.mul_(0.1)
            elif isinstance(part, nn.GroupNorm | nn.LayerNorm):
                weight.mul_(0.2).add_(1.0)
            elif isinstance(part, nn.Linear | nn.Conv2d):
                weight.mul_(1.0 / math.sqrt(weight[0].numel()))
    return net.eval().requires_grad_(False)


def control(family: Family, seed: int = 0, channels: int = 3) -> ControlNet:
    """A ControlNet for a family."""
    unet = replace(family.unet, channels_in=family.autoencoder.latents)
    return filled(ControlNet(ControlConfig(unet, (4, 6, 8, 10), channels)), seed)  # type: ignore[return-value]


def adapter(family: Family, seed: int = 0, channels: int = 3) -> T2IAdapter:
    """A T2I-Adapter for a family."""
    widths, large = tuple(stage.width for stage in family.unet.stages), family.unet.stages[0].depth == 0
    config = AdapterConfig((*widths, widths[-1]) if large else widths, channels, 2, large)
    return filled(T2IAdapter(config), seed)  # type: ignore[return-value]


def prompt(family: Family, seed: int = 0, *, plus: bool = False) -> PicturePrompt:
    """An IP-Adapter for a family."""
    widths = tuple(width for _, width in crossings(family.unet))
    config = PictureConfig(widths, family.unet.context, TOWER.projection)
    if plus:
        config = replace(config, embed=TOWER.width, tokens=5, layers=4, width=128)
    return filled(PicturePrompt(config), seed)  # type: ignore[return-value]


def tower(seed: int = 0) -> ImageTower:
    """An image tower."""
    return filled(ImageTower(TOWER), seed)  # type: ignore[return-value]


def table(net: nn.Module, places: Iterable[Place]) -> list[Pair]:
    """The pairs of a net."""
    return pairs(places, {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()})


def spelled(net: nn.Module, places: Iterable[Place]) -> dict[str, Tensor]:
    """The net's weights under their names, each a tensor of its own."""
    theirs = to_theirs(table(net, places), net.state_dict())
    return {name: tensor.clone().contiguous() for name, tensor in theirs.items()}


def spellings(net: nn.Module) -> dict[str, list[Place]]:
    """Every way in which files name a net's tensors."""
    if isinstance(net, ControlNet):
        config = net.control
        ways = {
            "original": control_names.original_control(config),
            "without prefix": control_names.original_control(config, ""),
            "diffusers": control_names.diffusers_control(config),
        }
        if config.unet.vector:
            ways["diffusers XL"] = control_names.diffusers_control(config, ("add_embedding.linear_1.weight",))
    elif isinstance(net, T2IAdapter):
        ways = {
            "original": control_names.original_adapter(net.config),
            "diffusers": control_names.diffusers_adapter(net.config),
        }
    elif isinstance(net, PicturePrompt):
        ways = {"original": control_names.picture_prompt(net.config)}
    else:
        assert isinstance(net, ImageTower)
        ways = {"transformers": control_names.tower(net.config), "bare": control_names.tower(net.config, "")}
    return {name: list(places) for name, places in ways.items()}


def write(path: Path, net: nn.Module, way: str | None = None, more: Mapping[str, Tensor] | None = None) -> Path:
    """The net as a safetensors file, in the first of its spellings or the one that is named."""
    ways = spellings(net)
    save_file(spelled(net, ways[way] if way else next(iter(ways.values()))) | dict(more or {}), path)
    return path
