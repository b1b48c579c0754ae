"""Activation checkpointing: blocks are computed again on the way back, and not remembered (Chen et al. 2016)."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from aquatint.nets.blocks import ResBlock, Transformer2d
from aquatint.nets.text import Layer

BLOCKS = (ResBlock, Transformer2d, Layer)


@contextmanager
def recomputing(*nets: nn.Module) -> Iterator[None]:
    """Within, the nets' blocks remember what goes in and nothing more; what comes out and the gradients stay the same.

    The nets are left as they were. Costs about a third more time, for memory that grows with the blocks' inputs only.
    """
    parts = dict.fromkeys(part for net in nets for part in net.modules() if isinstance(part, BLOCKS))
    for part in parts:
        vars(part)["forward"] = partial(checkpoint, part.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for part in parts:
            del vars(part)["forward"]
