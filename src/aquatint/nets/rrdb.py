"""Nets that enlarge pictures: ESRGAN's (Wang et al. 2018; Real-ESRGAN, 2021) and the small one of Real-ESRGAN."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.blocks import conv3
from aquatint.nets.tiles import Around, by_tiles

SLOPE = 0.2  # of the leaky ReLU below 0
SHARE = 0.2  # of what a block adds


@dataclass(frozen=True)
class RRDBConfig:
    """ESRGAN's net as data.

    blocks, width, growth   residual-in-residual blocks, features, and what each dense layer adds to them
    doublings               times that the size doubles at the end
    fold                    pixels a side that are folded into channels at the beginning: 1, 2 or 4
    """

    blocks: int = 23
    width: int = 64
    growth: int = 32
    doublings: int = 2
    fold: int = 1
    channels: int = 3

    @property
    def scale(self) -> int:
        """How many times larger a side becomes."""
        return 2**self.doublings // self.fold


@dataclass(frozen=True)
class CompactConfig:
    """The small net as data: `layers` convolutions of `width` features between the first and the last."""

    layers: int = 32
    width: int = 64
    scale: int = 4
    channels: int = 3


class Dense(nn.Module):
    """Five convolutions, each of which sees what all before it saw and made; a fifth of the last is added to x."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3(width + k * growth, growth if k < 4 else width) for k in range(5))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same shape."""
        seen = x
        for conv in self.convs[:-1]:
            seen = torch.cat([seen, F.leaky_relu(conv(seen), SLOPE)], dim=1)
        return x + SHARE * self.convs[-1](seen)


class RRDB(nn.Module):
    """Residual in residual: three dense blocks, a fifth of which is added to x."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Dense(width, growth) for _ in range(3))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same shape."""
        y = x
        for part in self.parts:
            y = part(y)
        return x + SHARE * y


class RRDBNet(nn.Module):
    """Pictures in [0, 1] -> larger ones, about [0, 1]."""

    REACHES = 15  # pixels that an RRDB looks at in each direction

    def __init__(self, config: RRDBConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = conv3(config.channels * config.fold**2, config.width)
        self.blocks = nn.ModuleList(RRDB(config.width, config.growth) for _ in range(config.blocks))
        self.trunk = conv3(config.width, config.width)
        self.doubled = nn.ModuleList(conv3(config.width, config.width) for _ in range(config.doublings))
        self.fine = conv3(config.width, config.width)
        self.leave = conv3(config.width, config.channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """[b, 3, h, w] -> [b, 3, scale h, scale w]; sides are multiples of `fold`."""
        x = self.enter(F.pixel_unshuffle(x, self.config.fold))
        y = x
        for block in self.blocks:
            y = block(y)
        return self._end(x + self.trunk(y))

    def tiled(self, x: Float[Tensor, "b c h w"], tile: int, around: Around) -> Float[Tensor, "b c h2 w2"]:
        """The same by tiles of `tile` pixels a side of what the blocks see, block by block."""
        x = by_tiles(self.enter, F.pixel_unshuffle(x, self.config.fold), tile, 1, around=around)
        y = x
        for block in self.blocks:
            y = by_tiles(block, y, tile, self.REACHES, around=around)
        y = x + by_tiles(self.trunk, y, tile, 1, around=around)
        return by_tiles(self._end, y, tile, 4, up=2**self.config.doublings, around=around)

    def _end(self, x: Tensor) -> Tensor:
        for conv in self.doubled:
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2, mode="nearest")), SLOPE)
        return self.leave(F.leaky_relu(self.fine(x), SLOPE))


class CompactNet(nn.Module):
    """Convolutions at the picture's size, then pixels unfolded from channels, added to the enlarged picture."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels] + [config.width] * (config.layers + 1)
        self.convs = nn.ModuleList(conv3(inside, config.width) for inside in widths[:-1])
        self.bends = nn.ModuleList(nn.PReLU(config.width) for _ in self.convs)
        self.leave = conv3(config.width, config.channels * config.scale**2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """[b, 3, h, w] -> [b, 3, scale h, scale w]."""
        y = x
        for conv, bend in zip(self.convs, self.bends, strict=True):
            y = bend(conv(y))
        y = F.pixel_shuffle(self.leave(y), self.config.scale)
        return y + F.interpolate(x, scale_factor=self.config.scale, mode="nearest")

    def tiled(self, x: Float[Tensor, "b c h w"], tile: int, around: Around) -> Float[Tensor, "b c h2 w2"]:
        """The same by tiles of `tile` pixels of x a side."""
        return by_tiles(self, x, tile, len(self.convs) + 1, up=self.config.scale, around=around)
