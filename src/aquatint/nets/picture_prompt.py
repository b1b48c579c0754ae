"""Pictures as prompts: IP-Adapter's decoupled cross-attention (Ye et al. 2023).

A picture becomes a few tokens, which travel behind the text's in the context; each cross-attention reads them with keys
and values of their own and adds what it finds to what it reads in the text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.attention import Attention, fused
from aquatint.nets.blocks import TransformerLayer
from aquatint.nets.shared import shared_copy
from aquatint.nets.unet import UNet, UNetConfig


@dataclass(frozen=True)
class PictureConfig:
    """An IP-Adapter as data.

    widths    of the U-Net's cross-attentions, in the order of `crossings`
    context   of the U-Net
    embed     width of what the image tower says: its projected vector (plain), or its states (plus)
    tokens    that a picture becomes
    layers    of the resampler ("plus"); 0: a linear layer ("plain")
    width     of the resampler; its heads are 64 wide, its feed-forward 4 times as wide
    """

    widths: tuple[int, ...]
    context: int = 768
    embed: int = 1024
    tokens: int = 4
    layers: int = 0
    width: int = 0

    @property
    def plus(self) -> bool:
        """Whether it looks at the tower's last states but one, and not at its projected vector."""
        return self.layers > 0


class Projection(nn.Module):
    """One vector a picture -> tokens: a linear layer and a norm."""

    def __init__(self, config: PictureConfig) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.enter = nn.Linear(config.embed, config.tokens * config.context)
        self.norm = nn.LayerNorm(config.context)

    def forward(self, embed: Float[Tensor, "b e"]) -> Float[Tensor, "b n c"]:
        """The picture's tokens."""
        return self.norm(self.enter(embed).unflatten(1, (self.tokens, -1)))


class ResamplerLayer(nn.Module):
    """The tokens look at the picture and at themselves, then think: each with a norm and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 64
        self.norm1 = nn.LayerNorm(width)  # of the picture
        self.norm2 = nn.LayerNorm(width)  # of the tokens
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.norm3 = nn.LayerNorm(width)
        self.enter = nn.Linear(width, 4 * width, bias=False)
        self.leave = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Float[Tensor, "b n w"], picture: Float[Tensor, "b p w"]) -> Float[Tensor, "b n w"]:
        """The tokens x, having looked at the picture."""
        seen = self.norm2(x)
        context = torch.cat([self.norm1(picture), seen], dim=1)
        q, k, v = (
            y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in (self.q(seen), self.k(context), self.v(context))
        )
        x = x + self.out(fused(q, k, v).transpose(1, 2).flatten(2))
        return x + self.leave(F.gelu(self.enter(self.norm3(x))))


class Resampler(nn.Module):
    """A picture's states -> tokens, by learned queries (Alayrac et al. 2022, section 3.1.1)."""

    def __init__(self, config: PictureConfig) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(1, config.tokens, config.width))
        self.enter = nn.Linear(config.embed, config.width)
        self.layers = nn.ModuleList(ResamplerLayer(config.width) for _ in range(config.layers))
        self.leave = nn.Linear(config.width, config.context)
        self.norm = nn.LayerNorm(config.context)

    def forward(self, states: Float[Tensor, "b s e"]) -> Float[Tensor, "b n c"]:
        """The picture's tokens."""
        picture = self.enter(states)
        x = self.latents.expand(len(states), -1, -1)
        for layer in self.layers:
            x = layer(x, picture)
        return self.norm(self.leave(x))


class PicturePrompt(nn.Module):
    """An IP-Adapter: the way from a picture to tokens, and keys and values for each cross-attention of the U-Net."""

    def __init__(self, config: PictureConfig) -> None:
        super().__init__()
        self.config = config
        self.project = Resampler(config) if config.plus else Projection(config)
        self.k, self.v = (
            nn.ModuleList(nn.Linear(config.context, width, bias=False) for width in config.widths) for _ in range(2)
        )

    def forward(self, seen: Float[Tensor, "b *s e"]) -> Float[Tensor, "b n c"]:
        """What the image tower says of pictures (vectors, or states: PictureConfig.plus) -> their tokens."""
        return self.project(seen.to(self.k[0].weight))  # type: ignore[arg-type]


class Seen(NamedTuple):
    """A picture for the U-Net: keys, values and weight for one cross-attention, and how many tokens it has."""

    k: nn.Module
    v: nn.Module
    weight: float
    tokens: int


class DecoupledAttention(nn.Module):
    """out(attention(q, text) + sum of weight_i attention_i(q, picture_i)) (Ye et al. 2023, equation 5)."""

    def __init__(self, inner: Attention, pictures: Sequence[Seen]) -> None:
        super().__init__()
        self.inner = inner
        self.k, self.v = nn.ModuleList(row.k for row in pictures), nn.ModuleList(row.v for row in pictures)
        self.weights, self.tokens = [row.weight for row in pictures], [row.tokens for row in pictures]

    def forward(self, x: Float[Tensor, "b q w"], context: Float[Tensor, "b k c"]) -> Float[Tensor, "b q w"]:
        """The context has the text's tokens first, then each picture's."""
        inner = self.inner
        text, *pictures = context.split([context.shape[1] - sum(self.tokens), *self.tokens], dim=1)
        q = inner.split(inner.q(x))
        total = inner.attend(q, inner.split(inner.k(text)), inner.split(inner.v(text)), False)
        for k, v, weight, picture in zip(self.k, self.v, self.weights, pictures, strict=True):
            total = total + weight * inner.attend(q, inner.split(k(picture)), inner.split(v(picture)), False)
        return inner.out(total.transpose(1, 2).flatten(2))


def crossings(config: UNetConfig) -> Iterator[tuple[str, int]]:
    """The U-Net's cross-attentions in the order in which IP-Adapter numbers them, with their widths.

    That is diffusers' order of a U-Net's parts: the way down, the way up, the middle.
    """
    for side, stages in (("descent", config.stages), ("ascent", tuple(reversed(config.stages)))):
        for i, stage in enumerate(stages):
            for j in range(config.blocks + (side == "ascent")):
                for layer in range(stage.depth):
                    yield f"{side}.{i}.cells.{j}.attend.layers.{layer}", stage.width
    for layer in range(config.middle):
        yield f"middle.first.attend.layers.{layer}", config.stages[-1].width


def prompted(unet: UNet, pictures: Sequence[tuple[PicturePrompt, float]]) -> UNet:
    """The U-Net that reads pictures behind its text, each with a weight: a copy that shares every tensor with `unet`.

    Its context is the text's tokens, then each picture's, in this order.
    """
    twin = shared_copy(unet)
    for index, (name, _) in enumerate(crossings(unet.config)):
        layer = cast(TransformerLayer, twin.get_submodule(name))
        rows = [Seen(net.k[index], net.v[index], weight, net.config.tokens) for net, weight in pictures]
        layer.across = DecoupledAttention(layer.across, rows)  # type: ignore[assignment]
    return twin
