"""The tiny autoencoder for Stable Diffusion (Bohan 2023, "TAESD"): the same latents, at a hundredth of the work."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.blocks import conv3


@dataclass(frozen=True)
class TinyConfig:
    """The tiny autoencoder as data: blocks from full size down to the latents' size (the decoder's from there up)."""

    width: int = 64
    latents: int = 4
    encoder: tuple[int, ...] = (1, 3, 3, 3)
    decoder: tuple[int, ...] = (3, 3, 3, 1)
    channels: int = 3

    @property
    def factor(self) -> int:
        """How many pixels a latent spans in each direction."""
        return int(2 ** (len(self.decoder) - 1))


class Block(nn.Module):
    """relu(x + conv(relu(conv(relu(conv(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3(width, width) for _ in range(3))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same shape."""
        y = x
        for conv in self.convs[:-1]:
            y = F.relu(conv(y))
        return F.relu(x + self.convs[-1](y))


class TinyEncoder(nn.Module):
    """Pictures in [0, 1] -> latents."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        width = config.width
        parts: list[nn.Module] = []
        for level, count in enumerate(config.encoder):
            halving = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
            parts += [halving if level else conv3(config.channels, width), *(Block(width) for _ in range(count))]
        self.parts = nn.ModuleList([*parts, conv3(width, config.latents)])

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h8 w8"]:
        """[b, 3, h, w] -> [b, latents, h / 8, w / 8]."""
        for part in self.parts:
            x = part(x)
        return x


class TinyDecoder(nn.Module):
    """Latents, kept within 3 as 3 tanh(z / 3) -> pictures, about [0, 1]."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        width, levels = config.width, len(config.decoder)
        parts: list[nn.Module] = [conv3(config.latents, width), nn.ReLU()]
        for level, count in enumerate(config.decoder):
            parts += [Block(width) for _ in range(count)]
            if level == levels - 1:
                parts.append(conv3(width, config.channels))
            else:
                doubling = nn.Conv2d(width, width, 3, padding=1, bias=False)
                parts += [nn.Upsample(scale_factor=2, mode="nearest"), doubling]
        self.parts = nn.ModuleList(parts)

    def forward(self, z: Float[Tensor, "b c h8 w8"]) -> Float[Tensor, "b 3 h w"]:
        """[b, latents, h, w] -> [b, 3, 8h, 8w]."""
        x = torch.tanh(z / 3) * 3
        for part in self.parts:
            x = part(x)
        return x


class TinyAutoencoder(nn.Module):
    """Pictures in [-1, 1] <-> the U-Net's latents; either half may be missing."""

    def __init__(self, config: TinyConfig, *, encodes: bool = True, decodes: bool = True) -> None:
        super().__init__()
        self.config = config
        self.encoder = TinyEncoder(config) if encodes else None
        self.decoder = TinyDecoder(config) if decodes else None

    @property
    def reach(self) -> int:
        """How many latents in each direction a decoded pixel depends on, at most."""
        sizes = enumerate(self.config.decoder)  # three convolutions a block, one more a level, and the first and last
        return math.ceil(sum((3 * count + 1) / 2**level for level, count in sizes)) + 2

    def encode(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h8 w8"]:
        """[b, 3, h, w] -> latents [b, 4, h / 8, w / 8]."""
        assert self.encoder is not None, "this one has no encoder"
        dtype = next(self.encoder.parameters()).dtype
        return self.encoder(((pictures + 1) / 2).to(dtype)).to(pictures.dtype)

    def decode(self, latents: Float[Tensor, "b c h8 w8"]) -> Float[Tensor, "b 3 h w"]:
        """Latents [b, 4, h, w] -> pictures [b, 3, 8h, 8w], about [-1, 1] and not clamped."""
        assert self.decoder is not None, "this one has no decoder"
        dtype = next(self.decoder.parameters()).dtype
        return self.decoder(latents.to(dtype)).to(latents.dtype) * 2 - 1
