"""Nets that were distilled from guidance: its scale is one more number that they hear, and they are asked once."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aquatint.nets.blocks import Perceptron, guidance_sinusoids
from aquatint.nets.shared import shared_copy
from aquatint.nets.unet import UNet


def hearing(unet: UNet, scale: float) -> tuple[UNet, float]:
    """(the net, the scale by which it is yet to be guided).

    A net that hears its guidance (UNetConfig.guidance; Luo et al. 2023) comes back as a copy over the same weights that
    is told w = scale - 1, and needs none from outside: 1. Any other comes back as it is, with the scale.
    """
    if unet.guidance is None:
        return unet, scale
    twin = shared_copy(unet)
    heard = Heard(unet.time, unet.guidance, unet.config.guidance, scale - 1.0)
    twin.time = heard  # type: ignore[assignment]  # it is called as the perceptron is
    return twin, 1.0


class Heard(nn.Module):
    """The time's perceptron, whose input a number w is added to: its sinusoids through a linear map."""

    def __init__(self, time: Perceptron, guidance: nn.Linear, width: int, w: float) -> None:
        super().__init__()
        self.time, self.guidance, self.width, self.w = time, guidance, width, w

    def forward(self, waves: Float[Tensor, "b i"]) -> Float[Tensor, "b o"]:
        """The embedding of the times whose sinusoids these are, and of w."""
        w = torch.full((len(waves),), self.w, device=waves.device)
        return self.time(waves + self.guidance(guidance_sinusoids(w, self.width).to(waves.dtype)))
