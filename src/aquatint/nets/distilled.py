"""Nets that were distilled from guidance: its scale is one more number that they hear, and they are asked once."""

from collections.abc import Callable

import torch
from torch import Tensor

from aquatint.nets.unet import UNet

Net = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def hearing(unet: UNet, scale: float) -> tuple[Net, float]:
    """(the net, the scale by which it is yet to be guided).

    A net that hears its guidance (UNetConfig.guidance; Luo et al. 2023) is told w = scale - 1, and needs none from
    outside: 1. Any other comes back as it is, with the scale.
    """
    if not unet.config.guidance:
        return unet, scale

    def net(x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
        return unet(x, t, context, vector, torch.full((len(x),), scale - 1.0, device=x.device))

    return net, 1.0
