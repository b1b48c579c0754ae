"""Layers that stay as they are and learn a low-rank change: LoRA (Hu et al. 2022), its convolutions (LoCon), and DoRA.

What `grow` answers computes as `lora.attach` would with the adapters of today, but along the low rank: the weight's own
gradient is never formed.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.base.errors import UserError, unknown
from aquatint.base.noise import WEIGHTS, Noise
from aquatint.nets.adapters import Adapter, Decomposed, LowRank
from aquatint.nets.blocks import Transformer2d
from aquatint.nets.shared import shared_copy
from aquatint.nets.text import TextEncoder
from aquatint.nets.unet import UNet

REACHES = ("attention", "all")
KINDS = ("lora", "dora")


class Change(nn.Module):
    """What a grown layer learns: down [r, in] or [r, in, h, w], up [out, r] or [out, r, 1, 1]; for DoRA lengths [out].

    down starts at random, up at zero (Hu et al. 2022, section 4.1), lengths at those of the weight: so the layer starts
    as it was.
    """

    def __init__(self, weight: Tensor, rank: int, kind: str, noise: Noise) -> None:
        super().__init__()
        out, *inner = weight.shape
        bound = 1.0 / math.sqrt(math.prod(inner))
        drawn = (2.0 * noise.uniform((rank, *inner), draw=WEIGHTS)[0] - 1.0) * bound
        self.down = nn.Parameter(drawn.to(weight.device))
        self.up = nn.Parameter(torch.zeros(out, rank, *(1 for _ in inner[1:]), device=weight.device))
        lengths = weight.detach().float().flatten(1).norm(dim=1) if kind == "dora" else None
        self.lengths = None if lengths is None else nn.Parameter(lengths)

    def adapter(self, scale: float) -> Adapter:
        """As files hold it."""
        low = LowRank(self.down.detach().clone(), self.up.detach().clone(), scale=scale)
        return low if self.lengths is None else Decomposed(low, self.lengths.detach().clone())


class Grown(nn.Module):
    """A linear layer or convolution with its change on it."""

    def __init__(self, layer: nn.Module, change: Change, scale: float) -> None:
        super().__init__()
        self.layer, self.change, self.scale = layer, change, scale

    @property
    def weight(self) -> Tensor:
        """The layer's own."""
        weight: Tensor = self.layer.weight  # type: ignore[assignment]
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """y + scale * up(down(x)); for DoRA, the layer with its rows turned, and as long as learned (eq. 5 and 11)."""
        change = self.change
        if change.lengths is None:
            return self.layer(x) + self.scale * _apply(self.layer, x, change.down, change.up)
        moved = self.weight.float() + self.scale * (change.up.flatten(1) @ change.down.flatten(1)).view_as(self.weight)
        norm = moved.detach().flatten(1).norm(dim=1) + torch.finfo(torch.float32).eps
        weight = moved * (change.lengths / norm).view(-1, *(1 for _ in moved.shape[1:]))
        bias: Tensor | None = self.layer.bias  # type: ignore[assignment]
        if isinstance(self.layer, nn.Conv2d):
            return self.layer._conv_forward(x, weight.to(x.dtype), bias)
        return F.linear(x, weight.to(x.dtype), bias)


class Growth(NamedTuple):
    """A net with grown layers, the learning parts by the names of their weights, and alpha / rank."""

    net: nn.Module
    changes: Mapping[str, Change]
    scale: float

    def adapters(self, copies: Iterable[nn.Module] | None = None) -> dict[str, Adapter]:
        """What was learned, by the weight's name, as `weights.lora_writer.save_lora` takes it.

        copies   of the changes, in their order (a running average's), which are read in their place
        """
        found: dict[str, Adapter] = {}
        for name, change in zip(self.changes, self.changes.values() if copies is None else copies, strict=True):
            assert isinstance(change, Change)
            found[name] = change.adapter(self.scale)
        return found


def grow(
    net: UNet | TextEncoder, *, rank: int, alpha: float | None = None, kind: str = "lora", reach: str, seed: int
) -> Growth:
    """The net with a change on every layer in reach; `net` stays as it is, and its tensors are shared.

    reach   "attention": the layers of transformers (a text encoder has no others); "all": every linear layer and
            convolution but the first and the last (LoCon)
    alpha   the change counts alpha / rank; the rank if None

    Raises UserError for another kind or reach, and a rank below 1.
    """
    if kind not in KINDS:
        raise unknown("kind of adapter to train", kind, KINDS)
    if rank < 1:
        raise UserError(f"rank = {rank}.", "A whole number from 1.")
    scale = (rank if alpha is None else alpha) / rank
    twin, changes = shared_copy(net).requires_grad_(False), dict[str, Change]()
    for index, name in enumerate(layers_of(net, reach)):
        layer = twin.get_submodule(name)
        change = Change(twin.get_parameter(f"{name}.weight"), rank, kind, Noise([seed], [index]))
        owner, _, leaf = name.rpartition(".")
        setattr(twin.get_submodule(owner), leaf, Grown(layer, change, scale))
        changes[f"{name}.weight"] = change
    return Growth(twin, changes, scale)


def layers_of(net: UNet | TextEncoder, reach: str) -> list[str]:
    """The names of the layers that are in reach, in the net's order."""
    if reach not in REACHES:
        raise unknown("reach of an adapter", reach, REACHES)
    found = [name for name, part in net.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    if isinstance(net, TextEncoder):
        return [name for name in found if name.startswith("layers.")]
    if reach == "all":
        return [name for name in found if name not in ("enter", "leave")]
    homes = [name for name, part in net.named_modules() if isinstance(part, Transformer2d)]
    return [name for name in found if any(name.startswith(f"{home}.") for home in homes)]


def player(growths: Mapping[str, Growth]) -> nn.Module:
    """All that learns, as one module whose state is the changes' alone."""
    return nn.ModuleDict({net: nn.ModuleList(growth.changes.values()) for net, growth in growths.items()})


def _apply(layer: nn.Module, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        inner = F.conv2d(x, down.to(x.dtype), None, layer.stride, layer.padding, layer.dilation)
        return F.conv2d(inner, up.to(x.dtype))
    return F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype))
