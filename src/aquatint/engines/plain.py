"""Torch as it is, with the layout that its convolutions like."""

import torch
from torch import Tensor, nn


def prepare(net: nn.Module) -> None:
    """Let activations run channels last, by laying out all kernels of more than one pixel so, each copied once.

    A convolution whose input is laid out so and whose kernel is not would copy the kernel at every call: 0.6 of the
    7.4 seconds of a guided step of Stable Diffusion 1.5 on two cores. All other weights stay where they are (mapped
    from a file, maybe). The numbers are the same up to the order in which convolutions add.
    """
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = laid(part.weight.data)


def laid(weight: Tensor) -> Tensor:
    """A tensor as `prepare` lays it out: itself, unless it is a kernel of more than one pixel that lies otherwise."""
    kernel = weight.ndim == 4 and weight.shape[2:] != (1, 1)
    return weight.contiguous(memory_format=torch.channels_last) if kernel else weight
