"""The blocks that the U-Net and the autoencoder are built of."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.attention import Attention


def group_norm(width: int, groups: int, eps: float) -> nn.Module:
    """GroupNorm over `groups` groups of channels, or nothing at all when there are none (tiny autoencoders)."""
    return nn.GroupNorm(groups, width, eps=eps) if groups else nn.Identity()


def conv3(inside: int, outside: int, stride: int = 1, padding: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, unless the stride says otherwise."""
    return nn.Conv2d(inside, outside, 3, stride=stride, padding=padding)


def sinusoids(t: Float[Tensor, " b"], width: int, longest: float = 10_000.0) -> Float[Tensor, "b w"]:
    """[cos(t f_0) ... cos(t f_h), sin(t f_0) ... sin(t f_h)] with f_i = longest^(-i / h), h = width / 2.

    Vaswani et al. 2017, section 3.5, with cosines first, as the latent diffusion U-Net has it. t in schedule steps.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(longest) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def guidance_sinusoids(w: Float[Tensor, " b"], width: int) -> Float[Tensor, "b w"]:
    """[sin(1000 w f_0) ... , cos(1000 w f_0) ...] with f_i = 10000^(-i / (h - 1)) and h = width // 2.

    How a latent consistency model hears its guidance, w = scale - 1 (Luo et al. 2023, section 4.3; the sinusoids are
    those of Kingma et al. 2021): unlike those of the time, sines come first and the last frequency is 1 / 10000. An odd
    width ends in 0.
    """
    half = width // 2
    places = torch.arange(half, dtype=torch.float32, device=w.device)
    frequencies = torch.exp(places * -(math.log(10_000.0) / max(half - 1, 1)))
    angles = (1000.0 * w.float())[:, None] * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


class Perceptron(nn.Module):
    """linear -> SiLU -> linear: turns a time, or a pooled text vector, into the embedding that every block hears."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inside, outside)
        self.leave = nn.Linear(outside, outside)

    def forward(self, x: Float[Tensor, "b i"]) -> Float[Tensor, "b o"]:
        """The embedding of x."""
        return self.leave(F.silu(self.enter(x)))


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + time))): a residual block that hears the time, when there is one.

    He et al. 2016 in its pre-activated form, as DDPM (Ho et al. 2020, appendix B) uses it.
    `time` is the width of the time embedding, or None for a block that hears none (the autoencoder's).
    """

    def __init__(self, inside: int, outside: int, *, time: int | None, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = group_norm(inside, groups, eps)
        self.conv1 = conv3(inside, outside)
        self.time = nn.Linear(time, outside) if time else None
        self.norm2 = group_norm(outside, groups, eps)
        self.conv2 = conv3(outside, outside)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b i h w"], time: Float[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b o h w"]:
        """The block's output, of the same height and width."""
        y = self.conv1(F.silu(self.norm1(x)))
        if self.time is not None:
            assert time is not None, "this block was built to hear a time"
            y = y + self.shift(time)[:, :, None, None]
        y = self.conv2(F.silu(self.norm2(y)))
        return self.skip(x) + y

    def shift(self, time: Float[Tensor, "b t"]) -> Float[Tensor, "b o"]:
        """What the time adds to each channel."""
        assert self.time is not None, "this block was built to hear no time"
        return self.time(F.silu(time))


class Shrink(nn.Module):
    """Half the height and width, by a strided 3x3 convolution.

    `even` pads one row and column at the bottom and right only, as the autoencoder does; the U-Net pads all around.
    """

    def __init__(self, width: int, *, even: bool = False) -> None:
        super().__init__()
        self.even = even
        self.conv = conv3(width, width, stride=2, padding=0 if even else 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """[b, c, h, w] -> [b, c, h / 2, w / 2] (rounded up for the U-Net's odd sizes)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.even else x)


class Grow(nn.Module):
    """Twice the height and width: nearest neighbours, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv3(width, width)

    def forward(self, x: Float[Tensor, "b c h w"], size: tuple[int, int] | None = None) -> Float[Tensor, "b c h2 w2"]:
        """[b, c, h, w] -> [b, c, 2h, 2w], or to the `size` (height, width) of the skip that it will meet."""
        target = (2 * x.shape[2], 2 * x.shape[3]) if size is None else size
        return self.conv(F.interpolate(x, size=target, mode="nearest"))


class GatedFeed(nn.Module):
    """The transformer's feed-forward, gated: (a * gelu(b)) W with [a, b] = x V (GEGLU, Shazeer 2020, eq. 6)."""

    def __init__(self, width: int, factor: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(width, 2 * factor * width)
        self.leave = nn.Linear(factor * width, width)

    def forward(self, x: Float[Tensor, "b s w"]) -> Float[Tensor, "b s w"]:
        """Position by position."""
        value, gate = self.enter(x).chunk(2, dim=-1)
        return self.leave(F.gelu(gate).mul_(value))  # in place: this is the widest tensor of the net


class TransformerLayer(nn.Module):
    """Self-attention among the pixels, cross-attention to the text, feed-forward; each with a norm and a shortcut."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.among = Attention(width, heads=heads)
        self.norm2 = nn.LayerNorm(width)
        self.across = Attention(width, context, heads=heads)
        self.norm3 = nn.LayerNorm(width)
        self.feed = GatedFeed(width)

    def forward(self, x: Float[Tensor, "b s w"], context: Float[Tensor, "b n c"]) -> Float[Tensor, "b s w"]:
        """x holds one row a pixel, context one row a token."""
        x = x + self.among(self.norm1(x))
        x = x + self.across(self.norm2(x), context)
        return x + self.feed(self.norm3(x))


class Transformer2d(nn.Module):
    """Pixels as a sequence: norm, project, `depth` transformer layers, project back, and a shortcut around all.

    Rombach et al. 2022, section 3.3. `linear` projects after the pixels became a sequence (SD 2.x, XL); before, by 1x1
    convolutions, otherwise (SD 1.x): the same function with weights of another shape.
    """

    def __init__(self, width: int, context: int, *, heads: int, depth: int, groups: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.norm = group_norm(width, groups, 1e-6)
        self.enter = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)
        self.layers = nn.ModuleList(TransformerLayer(width, context, heads) for _ in range(depth))
        self.leave = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b n d"]) -> Float[Tensor, "b c h w"]:
        """A picture-shaped x, read against the text."""
        height, width = x.shape[2:]
        y = self.norm(x)
        # Contiguous, else each norm of a layer would copy it and each sum would stride.
        y = self.enter(y.flatten(2).transpose(1, 2)) if self.linear else self.enter(y).flatten(2).transpose(1, 2)
        y = y.contiguous()
        for layer in self.layers:
            y = layer(y, context)
        if self.linear:
            y = self.leave(y).transpose(1, 2).unflatten(2, (height, width))
        else:
            y = self.leave(y.transpose(1, 2).unflatten(2, (height, width)))
        return x + y
