"""Small products of a U-Net joined into large ones, and what depends on the text alone taken out of the step.

A step of Stable Diffusion 1.5 has 32 products of the text (keys and values of 16 cross-attentions), 22 of the time (one
a residual block) and 48 for queries, keys and values of self-attention: all with the same input within their kind, and
most far too small for a card. Joined they are 1, 1 and 16; and those of the text are made once a prompt.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.attention import Attention
from aquatint.nets.blocks import ResBlock, TransformerLayer
from aquatint.nets.shared import shared_copy
from aquatint.nets.unet import UNet, descend, embed


class Joined(Attention):
    """Self-attention whose queries, keys and values are one product."""

    weight: Tensor

    def forward(
        self, x: Float[Tensor, "b q w"], context: Float[Tensor, "b k c"] | None = None
    ) -> Float[Tensor, "b q w"]:
        """As Attention."""
        if context is not None:
            return super().forward(x, context)
        q, k, v = (self.split(y) for y in F.linear(x, self.weight).chunk(3, dim=2))
        return self.out(self.attend(q, k, v, self.causal).transpose(1, 2).flatten(2))


class Told(Attention):
    """Cross-attention whose keys and values were made before: `context` is those of all layers, side by side."""

    place: int

    def forward(
        self, x: Float[Tensor, "b q w"], context: Float[Tensor, "b k c"] | None = None
    ) -> Float[Tensor, "b q w"]:
        """Attend from x to its own share of the context."""
        assert context is not None, "cross-attention"
        keys, values = context[:, :, self.place :].split(self.q.out_features, dim=2)[:2]
        q, k, v = (self.split(y) for y in (self.q(x), keys, values))
        return self.out(self.attend(q, k, v, self.causal).transpose(1, 2).flatten(2))


class Parted(NamedTuple):
    """A net in two: net(x, t, context, vector) = step(x, t, tell(context), vector); tell's part is a prompt's.

    twin   the net within step
    """

    tell: Callable[[Tensor], Tensor]
    step: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    twin: UNet


@torch.no_grad()
def parted(net: UNet) -> Parted:
    """The U-Net with its small products joined: a copy that shares all other weights.

    Joined weights are copies (164 MB for Stable Diffusion 1.5 in float16, beside its 1,719). Cross-attentions that are
    not plain (IP-Adapter's) see the context as it is.
    """
    twin = shared_copy(net)
    layers = [part for part in twin.modules() if isinstance(part, TransformerLayer)]
    for layer in layers:
        if _plain(layer.among):
            layer.among.__class__ = Joined
            layer.among.weight = torch.cat([layer.among.q.weight, layer.among.k.weight, layer.among.v.weight])
    tell = partial(_told, _joined_text(layers), net.enter.weight.dtype)
    return Parted(tell, partial(_stepped, twin, *_joined_time(twin)), twin)


def _told(weight: Tensor | None, dtype: torch.dtype, context: Float[Tensor, "b n c"]) -> Float[Tensor, "b n s"]:
    """Keys and values of all cross-attentions, side by side; the text as it came, without a weight."""
    context = context.to(dtype)
    return context if weight is None else F.linear(context, weight)


def _stepped(
    net: UNet,
    weight: Float[Tensor, "s t"],
    bias: Float[Tensor, " s"],
    x: Float[Tensor, "b i h w"],
    t: Float[Tensor, " b"],
    told: Float[Tensor, "b n s2"],
    vector: Float[Tensor, "b v"] | None,
) -> Float[Tensor, "b o h w"]:
    """The forward pass but for what was told; each residual block takes its share of one product of the time."""
    given = x.dtype
    shifts = F.linear(F.silu(embed(net, t, vector)), weight, bias)
    y, skips = descend(net, net.enter(x.to(net.enter.weight.dtype)), shifts, told)
    y = net.middle(y, shifts, told)
    return net.head(net.ascend(y, skips, shifts, told)).to(given)


def _joined_text(layers: Sequence[TransformerLayer]) -> Tensor | None:
    if not layers or not all(_plain(layer.across) for layer in layers):
        return None
    weights: list[Tensor] = []
    for layer in layers:
        across = layer.across
        across.__class__ = Told
        assert isinstance(across, Told)
        across.place = sum(len(weight) for weight in weights)
        weights += [across.k.weight, across.v.weight]
    return torch.cat(weights)


def _joined_time(net: UNet) -> tuple[Tensor, Tensor]:
    """The time's projections for all residual blocks, each of which then takes its share of what it is told."""
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    place = 0
    for part in net.modules():
        if isinstance(part, ResBlock) and part.time is not None:
            weights.append(part.time.weight)
            biases.append(part.time.bias)
            end = place + part.time.out_features
            part.shift = partial(_share, place, end)  # type: ignore[method-assign]
            place = end
    return torch.cat(weights), torch.cat(biases)


def _share(start: int, end: int, shifts: Float[Tensor, "b s"]) -> Float[Tensor, "b o"]:
    return shifts[:, start:end]


def _plain(part: nn.Module) -> bool:
    return type(part) is Attention and part.k.bias is None
