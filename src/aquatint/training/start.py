"""Starting weights: every number a function of (seed, place of the tensor), on any machine."""

import math

import torch
from torch import Tensor, nn

from aquatint.base.noise import WEIGHTS, Noise
from aquatint.nets.blocks import ResBlock, Transformer2d
from aquatint.nets.text import ImageTower, TextEncoder
from aquatint.nets.unet import UNet


@torch.no_grad()
def start(module: nn.Module, seed: int) -> None:
    """Set all of a module's weights: kernels and matrices uniform within 1 / sqrt(fan in), biases alike, norms at one.

    On top of it what each network wants: the U-Net's residual branches and last layer start at zero (Ho et al. 2020,
    appendix B), CLIP's embeddings small (Radford et al. 2021, section 2.4).
    """
    for index, (name, part) in enumerate(module.named_modules()):
        for place, (leaf, weight) in enumerate(part.named_parameters(recurse=False)):
            noise = Noise([seed], [1000 * index + place])
            if isinstance(part, nn.GroupNorm | nn.LayerNorm):
                weight.fill_(1.0 if leaf == "weight" else 0.0)
            elif isinstance(part, nn.Embedding):
                weight.copy_(_normal(noise, weight, 0.02))
            elif isinstance(part, nn.Linear | nn.Conv2d):
                bound = 1.0 / math.sqrt(part.weight[0].numel())
                weight.copy_((2.0 * noise.uniform(tuple(weight.shape), draw=WEIGHTS)[0] - 1.0) * bound)
            elif isinstance(part, ImageTower):
                weight.copy_(_normal(noise, weight, part.config.width**-0.5))
            elif weight.numel() > 1:
                raise AssertionError(f"no rule for the starting value of {name}.{leaf}")
    for part in module.modules():
        if isinstance(part, UNet):
            _zero(part.leave)
            for inner in part.modules():
                if isinstance(inner, ResBlock):
                    _zero(inner.conv2)
                elif isinstance(inner, Transformer2d):
                    _zero(inner.leave)
        elif isinstance(part, TextEncoder):
            part.places.weight.mul_(0.5)


def _normal(noise: Noise, weight: Tensor, deviation: float) -> Tensor:
    return noise.normal(tuple(weight.shape), draw=WEIGHTS)[0] * deviation


def _zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
