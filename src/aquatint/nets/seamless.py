"""Nets whose pictures go on at their other side: every convolution finds there what it would find beyond the edge."""

from typing import TypeVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.blocks import Shrink
from aquatint.nets.shared import shared_copy

M = TypeVar("M", bound=nn.Module)


class Around(nn.Conv2d):
    """A convolution that pads with the other side, down, across, or both; with zeros in the other direction."""

    ends: tuple[int, int]
    meets: tuple[bool, bool]

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """The convolution of what the picture is if it is laid beside itself."""
        down, across = self.ends
        x = _drawn(x, (across, across, 0, 0), self.meets[1])
        return self._conv_forward(_drawn(x, (0, 0, down, down), self.meets[0]), self.weight, self.bias)


class AroundShrink(Shrink):
    """Half the size by a convolution that pads at the right and bottom only, with the other side."""

    meets: tuple[bool, bool]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """[b, c, h, w] -> [b, c, h / 2, w / 2]."""
        return self.conv(_drawn(_drawn(x, (0, 1, 0, 0), self.meets[1]), (0, 0, 0, 1), self.meets[0]))


def seamless(net: M, down: bool, across: bool) -> M:
    """A copy of the net, over the same weights, whose pictures meet at top and bottom (down), left and right (across).

    net(roll(x)) = roll(net(x)) then, up to rounding, for shifts by as many pixels as the net's coarsest one spans.
    """
    twin = shared_copy(net)
    for part in list(twin.modules()):
        for name, inner in list(part._modules.items()):
            if isinstance(inner, nn.Conv2d) and inner.padding != (0, 0):
                part._modules[name] = _around(inner, (down, across))
            elif isinstance(inner, Shrink) and inner.even:
                part._modules[name] = shrink = AroundShrink.__new__(AroundShrink)
                shrink.__dict__.update(inner.__dict__)
                shrink.meets = (down, across)
    return twin


def _around(conv: nn.Conv2d, meets: tuple[bool, bool]) -> Around:
    """The same convolution, of a copy, as one that pads with the other side."""
    assert isinstance(conv.padding, tuple), "a convolution of this house"
    made = Around.__new__(Around)
    made.__dict__.update(conv.__dict__)
    made.ends, made.padding, made.meets = (conv.padding[0], conv.padding[1]), (0, 0), meets
    return made


def _drawn(x: Tensor, pads: tuple[int, int, int, int], meets: bool) -> Tensor:
    """x padded by (left, right, top, bottom): with the other side where it meets it, else with zeros."""
    return F.pad(x, pads, mode="circular") if meets and any(pads) else F.pad(x, pads)
