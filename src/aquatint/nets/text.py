"""CLIP's two towers (Radford et al. 2021): the text encoder that conditions the U-Net, the image tower to align it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.attention import Attention


def quick_gelu(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """x sigmoid(1.702 x): the approximation of GELU that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


@dataclass(frozen=True)
class TextConfig:
    """A CLIP text encoder as data.

    vocabulary   number of token ids; the last one ends a text, the one before starts it
    projection   width of the pooled vector after the alignment's projection; 0 where a checkpoint has none
    pad          what fills a text up to `positions`: "end" (CLIP-L: the end token) or "zero" (OpenCLIP: id 0)
    skip         last layers that the tokens do not pass (the pooled vector passes all): 1 in Stable Diffusion XL
    normed       whether the tokens pass the final norm: not in Stable Diffusion XL
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 49408
    positions: int = 77
    activation: str = "quick_gelu"
    feed: int = 4
    projection: int = 0
    pad: str = "end"
    skip: int = 0
    normed: bool = True


class EncodedText(NamedTuple):
    """tokens [b, 77, width]: what the U-Net attends to; pooled [b, projection or width]: one vector a text."""

    tokens: Float[Tensor, "b n w"]
    pooled: Float[Tensor, "b p"]


class Feed(nn.Module):
    """linear -> activation -> linear, position by position; `hidden` is the width between, if not factor * width."""

    def __init__(self, width: int, factor: int, activation: str, hidden: int = 0) -> None:
        super().__init__()
        hidden = hidden or factor * width
        self.enter = nn.Linear(width, hidden)
        self.leave = nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Float[Tensor, "b s w"]) -> Float[Tensor, "b s w"]:
        """The same shape."""
        return self.leave(self.activation(self.enter(x)))


class Layer(nn.Module):
    """A pre-norm transformer layer: x + attention(norm(x)), then x + feed(norm(x))."""

    def __init__(self, width: int, heads: int, feed: int, activation: str, *, causal: bool, hidden: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.among = Attention(width, heads=heads, bias=True, causal=causal)
        self.norm2 = nn.LayerNorm(width)
        self.feed = Feed(width, feed, activation, hidden)

    def forward(self, x: Float[Tensor, "b s w"]) -> Float[Tensor, "b s w"]:
        """The same shape."""
        x = x + self.among(self.norm1(x))
        return x + self.feed(self.norm2(x))


class TextEncoder(nn.Module):
    """Token ids [b, 77] -> an embedding of every token in the light of those before it."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.places = nn.Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(
            Layer(config.width, config.heads, config.feed, config.activation, causal=True) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, config.projection, bias=False) if config.projection else None

    def forward(
        self, ids: Int[Tensor, "b n"], skip: int | None = None, words: Float[Tensor, "b n w"] | None = None
    ) -> EncodedText:
        """Token ids -> (tokens, pooled).

        `skip` leaves out the last layers ("clip skip" minus 1): tokens are then an earlier layer's output, normed
        where the config says so; None is the config's own.
        pooled is the last layer's output at the first end token, projected where the encoder has a projection.
        `words` are the ids' embeddings, if some of them were replaced (textual inversion, Gal et al. 2022).
        """
        skip = self.config.skip if skip is None else skip
        assert 0 <= skip < len(self.layers), f"{skip} of {len(self.layers)} layers cannot be left out"
        x = (self.words(ids) if words is None else words) + self.places.weight[: ids.shape[1]]
        tokens = x
        for index, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if index == len(self.layers) - skip:
                tokens = self.norm(x) if self.config.normed else x
        ends = (ids == self.config.vocabulary - 1).int().argmax(dim=1)
        pooled = self.norm(x)[torch.arange(len(ids), device=ids.device), ends]
        return EncodedText(tokens, pooled if self.project is None else self.project(pooled))


@dataclass(frozen=True)
class ImageConfig:
    """A CLIP image tower (a vision transformer, Dosovitskiy et al. 2021) as data; sizes in pixels.

    hidden   width inside the feed-forwards, where it is not `feed` times the width (OpenCLIP bigG: 8192 of 1664)
    """

    size: int = 224
    patch: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    activation: str = "quick_gelu"
    feed: int = 4
    projection: int = 512
    hidden: int = 0

    @property
    def side(self) -> int:
        """Patches along one side of a picture."""
        return self.size // self.patch


class ImageTower(nn.Module):
    """Pictures -> one vector each, to be aligned with their captions' vectors."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch, bias=False)
        self.summary = nn.Parameter(torch.zeros(config.width))
        self.places = nn.Embedding(config.side**2 + 1, config.width)
        self.norm1 = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(
            Layer(config.width, config.heads, config.feed, config.activation, causal=False, hidden=config.hidden)
            for _ in range(config.layers)
        )
        self.norm2 = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, config.projection, bias=False)

    def states(self, pictures: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b s d"]]:
        """The sequence (summary token first, then the patches row by row) before the first and after every layer."""
        x = self.patches(pictures).flatten(2).transpose(1, 2)
        x = torch.cat([self.summary.expand(len(x), 1, -1), x], dim=1) + self.places.weight
        states = [self.norm1(x)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p"]:
        """Pictures [b, 3, size, size] -> [b, projection], not normalised."""
        return self.project(self.norm2(self.states(pictures)[-1][:, 0]))
