"""Torch as it is, with the layout that its convolutions like."""

import torch
from torch import nn


def prepare(net: nn.Module) -> None:
    """Let activations run channels last, by laying out the first convolution's kernel so: the rest follow its output.

    Only that one small kernel is copied; all other weights stay where they are (mapped from a file, maybe). The
    numbers are the same up to the order in which convolutions add.
    """
    for part in net.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
            return
