"""The U-Net with cross-attention that predicts the noise (Rombach et al. 2022, figure 3; Ronneberger et al. 2015)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.blocks import (
    Grow,
    Perceptron,
    ResBlock,
    Shrink,
    Transformer2d,
    conv3,
    group_norm,
    sinusoids,
)


@dataclass(frozen=True)
class Stage:
    """One resolution of the U-Net: its width, its attention heads, and its transformer layers (0: no attention)."""

    width: int
    heads: int
    depth: int = 1


@dataclass(frozen=True)
class UNetConfig:
    """The U-Net as data; the resolution halves from each stage to the next.

    blocks      ResBlocks a stage on the way down; one more on the way up
    middle      transformer layers in the middle; it has the last stage's width and heads
    context     width of the text embeddings
    vector      width of one more embedding, added to the time's (pooled text; SDXL's added conditions); 0: none
    linear      linear projections around the transformers (SD 2.x), or 1x1 convolutions (SD 1.x)
    guidance    width of the guidance scale's embedding, for a net distilled from guidance, which `distilled.hearing`
                tells it (LCM); 0: it hears none
    """

    stages: tuple[Stage, ...]
    blocks: int = 2
    middle: int = 1
    channels_in: int = 4
    channels_out: int = 4
    context: int = 768
    vector: int = 0
    groups: int = 32
    linear: bool = False
    guidance: int = 0

    @property
    def time(self) -> int:
        """Width of the time embedding: four times the first stage's."""
        return 4 * self.stages[0].width

    @property
    def skips(self) -> int:
        """How many skips the way down leaves, each for one cell of the way up."""
        return len(self.stages) * (self.blocks + 1)


class Cell(nn.Module):
    """A ResBlock and, where the stage attends, a transformer after it."""

    def __init__(self, config: UNetConfig, inside: int, stage: Stage) -> None:
        super().__init__()
        self.res = ResBlock(inside, stage.width, time=config.time, groups=config.groups, eps=1e-5)
        self.attend = _transformer(config, stage, stage.depth) if stage.depth else None

    def forward(
        self, x: Float[Tensor, "b i h w"], time: Float[Tensor, "b t"], context: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b o h w"]:
        """x through the block, hearing the time and the text."""
        x = self.res(x, time)
        return x if self.attend is None else self.attend(x, context)


class Down(nn.Module):
    """A stage on the way down: cells, then half the size (except after the last stage)."""

    def __init__(self, config: UNetConfig, inside: int, stage: Stage, *, last: bool) -> None:
        super().__init__()
        widths = [inside] + [stage.width] * (config.blocks - 1)
        self.cells = nn.ModuleList(Cell(config, width, stage) for width in widths)
        self.shrink = None if last else Shrink(stage.width)


class Up(nn.Module):
    """A stage on the way up: cells that each take one skip from the way down, then twice the size (not at the end)."""

    def __init__(self, config: UNetConfig, inside: int, skips: list[int], stage: Stage, *, last: bool) -> None:
        super().__init__()
        widths = [inside] + [stage.width] * config.blocks
        self.cells = nn.ModuleList(Cell(config, width + skip, stage) for width, skip in zip(widths, skips, strict=True))
        self.grow = None if last else Grow(stage.width)


class Middle(nn.Module):
    """The bottom of the U: ResBlock, transformer, ResBlock."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        stage = config.stages[-1]
        self.first = Cell(config, stage.width, Stage(stage.width, stage.heads, config.middle))
        self.second = ResBlock(stage.width, stage.width, time=config.time, groups=config.groups, eps=1e-5)

    def forward(
        self, x: Float[Tensor, "b w h w2"], time: Float[Tensor, "b t"], context: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b w h w2"]:
        """The same shape, having seen everything."""
        return self.second(self.first(x, time, context), time)


class UNet(nn.Module):
    """eps, v or x0 of the noisy latents x at time t, given the text (what it predicts is not the net's business)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        stages, first = config.stages, config.stages[0].width
        self.time = Perceptron(first, config.time)
        self.vector = Perceptron(config.vector, config.time) if config.vector else None
        self.guidance = nn.Linear(config.guidance, first, bias=False) if config.guidance else None
        self.enter = conv3(config.channels_in, first)
        self.descent, skips = way_down(config)
        self.middle = Middle(config)
        self.ascent, inside = nn.ModuleList(), stages[-1].width
        for index, stage in reversed(list(enumerate(stages))):
            taken = [skips.pop() for _ in range(config.blocks + 1)]
            self.ascent.append(Up(config, inside, taken, stage, last=index == 0))
            inside = stage.width
        self.norm = group_norm(first, config.groups, 1e-5)
        self.leave = conv3(first, config.channels_out)

    def forward(
        self,
        x: Float[Tensor, "b i h w"],
        t: Float[Tensor, " b"],
        context: Float[Tensor, "b n c"],
        vector: Float[Tensor, "b v"] | None = None,
    ) -> Float[Tensor, "b o h w"]:
        """Latents x [b, 4, h, w] at times t [b] (schedule steps, 0..999), text [b, 77, context] -> [b, 4, h, w].

        The net casts to its own precision inside and answers in x's.
        """
        given, dtype = x.dtype, self.enter.weight.dtype
        x, context = x.to(dtype), context.to(dtype)
        time = embed(self, t, vector)
        x, skips = descend(self, self.enter(x), time, context)
        x = self.middle(x, time, context)
        return self.head(self.ascend(x, skips, time, context)).to(given)

    def ascend(
        self,
        x: Float[Tensor, "b c h w"],
        skips: list[Tensor],
        time: Float[Tensor, "b t"],
        context: Float[Tensor, "b n c2"],
        left: int = 0,
    ) -> Float[Tensor, "b c3 h2 w2"]:
        """The way up, which takes the skips from the end of the list until `left` of them are left.

        Each cell takes one: with fewer skips than cells it goes on where a way up that left so many came to.
        """
        cells: list[tuple[nn.Module, nn.Module | None]] = []
        for up in self.ascent:
            assert isinstance(up, Up)
            cells += [*((cell, None) for cell in up.cells[:-1]), (up.cells[-1], up.grow)]
        for cell, grow in cells[len(cells) - len(skips) : len(cells) - left]:
            x = cell(torch.cat([x, skips.pop()], dim=1), time, context)
            if grow is not None:
                x = grow(x, skips[-1].shape[2:])
        return x

    def head(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """The last norm and convolution."""
        return self.leave(F.silu(self.norm(x)))


def embed(net: Any, t: Float[Tensor, " b"], vector: Float[Tensor, "b v"] | None) -> Float[Tensor, "b t"]:
    """What every block hears: the time and, where the net (a U-Net, or its ControlNet) takes one, the vector."""
    config, dtype = net.config, net.enter.weight.dtype
    time = net.time(sinusoids(t, config.stages[0].width).to(dtype))
    if net.vector is None:
        return time
    assert vector is not None, "this U-Net was built to take a vector"
    return time + net.vector(vector.to(dtype))


def descend(
    net: Any,
    x: Float[Tensor, "b c h w"],
    time: Float[Tensor, "b t"],
    context: Float[Tensor, "b n c2"],
    features: Sequence[Tensor] = (),
    most: int | None = None,
) -> tuple[Float[Tensor, "b c3 h2 w2"], list[Tensor]]:
    """The way down from the entered x: what it ends with, and the skips, the first of which is x itself.

    features   of a T2I-Adapter (nets/control.py), one a stage: added to what the last cell of a stage that attends
               says, and to what a stage without attention hands on. The skips have them in
    most       skips, fewer than there are, after which it stops; None: all the way
    """
    skips = [x]
    for index, down in enumerate(net.descent):
        assert isinstance(down, Down)
        feature = features[index] if index < len(features) else None
        for cell in down.cells:
            if len(skips) == most:
                return x, skips
            x = cell(x, time, context)
            skips.append(x)
        attends = net.config.stages[index].depth > 0
        if feature is not None and attends:
            x = skips[-1] = x + feature
        if len(skips) == most:
            return x, skips
        if down.shrink is not None:
            x = down.shrink(x)
            skips.append(x)
        if feature is not None and not attends:
            x = skips[-1] = x + feature
    return x, skips


def way_down(config: UNetConfig) -> tuple[nn.ModuleList, list[int]]:
    """The stages of the way down, and the widths of the skips that they leave."""
    first = config.stages[0].width
    skips, inside = [first], first
    descent = nn.ModuleList()
    for index, stage in enumerate(config.stages):
        last = index == len(config.stages) - 1
        descent.append(Down(config, inside, stage, last=last))
        skips += [stage.width] * (config.blocks if last else config.blocks + 1)
        inside = stage.width
    return descent, skips


def _transformer(config: UNetConfig, stage: Stage, depth: int) -> Transformer2d:
    return Transformer2d(
        stage.width, config.context, heads=stage.heads, depth=depth, groups=config.groups, linear=config.linear
    )
