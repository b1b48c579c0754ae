"""Control of the U-Net by pictures: ControlNet (Zhang et al. 2023), T2I-Adapter (Mou et al. 2023).

Both are nets beside the U-Net; `controlled` is the U-Net with what they say added to it, of the same signature.
The third kind, IP-Adapter, is in nets/picture_prompt.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.blocks import Perceptron, conv3
from aquatint.nets.unet import Middle, UNet, UNetConfig, descend, embed, way_down


@dataclass(frozen=True)
class ControlConfig:
    """A ControlNet as data.

    unet       the U-Net's, of which it has the time, the way down and the middle (channels_out says nothing here)
    hint       widths of the net that brings the hint to the latents' size: each but the first halves the size
    channels   of the hint
    """

    unet: UNetConfig
    hint: tuple[int, ...] = (16, 32, 96, 256)
    channels: int = 3

    @property
    def factor(self) -> int:
        """The hint's pixels along one side of a latent's."""
        return 2 ** (len(self.hint) - 1)


class Hint(nn.Module):
    """A picture brought to the latents' size and the U-Net's first width by 3x3 convolutions with SiLU between."""

    def __init__(self, config: ControlConfig) -> None:
        super().__init__()
        layers, inside = [conv3(config.channels, config.hint[0])], config.hint[0]
        for width in config.hint[1:]:
            layers += [conv3(inside, inside), conv3(inside, width, stride=2)]
            inside = width
        self.layers = nn.ModuleList([*layers, conv3(inside, config.unet.stages[0].width)])

    def forward(self, hint: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """The hint, 0 ... 1, as what is added to the entered latents."""
        x: Tensor = self.layers[0](hint)
        for layer in self.layers[1:]:
            x = layer(F.silu(x))
        return x


class ControlNet(nn.Module):
    """The way down and the middle of a U-Net once more, told a hint beside the latents (Zhang et al. 2023, figure 3).

    Each skip and the middle go through a 1x1 convolution that was zero when training began.
    """

    def __init__(self, config: ControlConfig) -> None:
        super().__init__()
        self.config, unet = config.unet, config.unet
        self.control = config
        self.time = Perceptron(unet.stages[0].width, unet.time)
        self.vector = Perceptron(unet.vector, unet.time) if unet.vector else None
        self.enter = conv3(unet.channels_in, unet.stages[0].width)
        self.hint = Hint(config)
        self.descent, widths = way_down(unet)
        self.middle = Middle(unet)
        self.zeros = nn.ModuleList(nn.Conv2d(width, width, 1) for width in widths)
        self.zero = nn.Conv2d(widths[-1], widths[-1], 1)

    def prepare(self, hint: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """What `forward` takes of a hint [b, channels, height, width], 0 ... 1: it is the same at every step."""
        return self.hint(hint.to(self.enter.weight))

    def forward(
        self,
        x: Float[Tensor, "b i h w"],
        t: Float[Tensor, " b"],
        context: Float[Tensor, "b n c"],
        vector: Float[Tensor, "b v"] | None,
        hint: Float[Tensor, "#b d h w"],
    ) -> tuple[list[Tensor], Float[Tensor, "b m h2 w2"]]:
        """What is to be added to each skip of the U-Net, and to what its middle says.

        x, t, context, vector are what the U-Net sees; hint is from `prepare`.
        """
        dtype = self.enter.weight.dtype
        x, context = x.to(dtype), context.to(dtype)
        time = embed(self, t, vector)
        x, skips = descend(self, self.enter(x) + hint, time, context)
        x = self.middle(x, time, context)
        return [zero(skip) for zero, skip in zip(self.zeros, skips, strict=True)], self.zero(x)

    def outermost(
        self,
        x: Float[Tensor, "b i h w"],
        t: Float[Tensor, " b"],
        context: Float[Tensor, "b n c"],
        vector: Float[Tensor, "b v"] | None,
        hint: Float[Tensor, "#b d h w"],
        count: int,
    ) -> list[Tensor]:
        """What is to be added to the first `count` skips: no more of the net is computed than they need."""
        dtype = self.enter.weight.dtype
        x, context = x.to(dtype), context.to(dtype)
        _, skips = descend(self, self.enter(x) + hint, embed(self, t, vector), context, most=count)
        return [zero(skip) for zero, skip in zip(self.zeros[:count], skips, strict=True)]


@dataclass(frozen=True)
class AdapterConfig:
    """A T2I-Adapter as data: the full one, in its two arrangements.

    widths     of its levels: the U-Net's stages' (in the XL arrangement one more, for the middle)
    channels   of the hint: 3, or 1 (sketches and edges)
    blocks     residual blocks a level
    large      the XL arrangement: begins at a sixteenth of the picture and halves once, before its third level; the
               other begins at an eighth and halves before every level but the first
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    channels: int = 3
    blocks: int = 2
    large: bool = False

    @property
    def factor(self) -> int:
        """The hint's pixels along one side of a feature's, at the first level."""
        return 16 if self.large else 8

    def halves(self, level: int) -> bool:
        """Whether a level begins with half the size."""
        return level == 2 if self.large else level > 0


class AdapterBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(x))), after a 1x1 convolution where the width changes."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        self.conv1 = conv3(outside, outside)
        self.conv2 = nn.Conv2d(outside, outside, 1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """The same height and width."""
        x = self.enter(x)
        return x + self.conv2(F.relu(self.conv1(x)))


class T2IAdapter(nn.Module):
    """A small net from a hint to one feature for each stage of the U-Net (Mou et al. 2023, section 3.3)."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = conv3(config.channels * config.factor**2, config.widths[0])
        self.levels = nn.ModuleList()
        inside = config.widths[0]
        for width in config.widths:
            blocks = [AdapterBlock(inside if index == 0 else width, width) for index in range(config.blocks)]
            self.levels.append(nn.ModuleList(blocks))
            inside = width

    def forward(self, hint: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """A hint [b, channels, height, width], 0 ... 1 -> the features, level by level; they are the same at every
        step, and for every prompt."""
        x = self.enter(F.pixel_unshuffle(hint.to(self.enter.weight), self.config.factor))
        features = []
        for index, blocks in enumerate(self.levels):
            if self.config.halves(index):
                x = F.avg_pool2d(x, 2, ceil_mode=True)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x)
            features.append(x)
        return features


@dataclass(frozen=True, eq=False)
class Control:
    """A ControlNet with its hint (one for all samples, or one for each), made ready by `ControlNet.prepare`, and how
    much of it."""

    net: ControlNet
    hint: Float[Tensor, "b d h w"]
    weight: float = 1.0


class Reached(NamedTuple):
    """Where the way down has led: x at its end, the skips, and what the blocks hear."""

    x: Float[Tensor, "b c h w"]
    skips: list[Tensor]
    time: Float[Tensor, "b t"]
    context: Float[Tensor, "b n c2"]


@dataclass(frozen=True, eq=False)
class Controlled:
    """What `controlled` makes: a net with the U-Net's signature, and the two halves of its way.

    added   to each level of the way down, and to the middle: the sum of the adapters' features
    """

    unet: UNet
    controls: Sequence[Control] = ()
    added: Sequence[Tensor] = ()
    pictures: int = 0

    def __call__(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None = None) -> Tensor:
        """The U-Net's answer, in x's precision."""
        return self.unet.head(self.unet.ascend(*self.down(x, t, context, vector))).to(x.dtype)

    def down(
        self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None = None, most: int | None = None
    ) -> Reached:
        """The way down and through the middle; with `most`, the first skips only, and neither the rest nor the middle.

        What controls and adapters say is added already.
        """
        unet, dtype = self.unet, self.unet.enter.weight.dtype
        x, context = x.to(dtype), context.to(dtype)
        time, levels = embed(unet, t, vector), len(unet.descent)
        y, skips = descend(unet, unet.enter(x), time, context, self.added[:levels], most)
        if most is None:
            y = unet.middle(y, time, context)
            for feature in self.added[levels:]:
                y = y + feature
        for control in self.controls:
            text = context[:, : context.shape[1] - self.pictures]
            seen = (x[:, : control.net.config.channels_in], t, text, vector, control.hint)
            if most is None:
                beside, middle = control.net(*seen)
                y = y + control.weight * middle
            else:
                beside = control.net.outermost(*seen, most)
            skips = [skip + control.weight * more for skip, more in zip(skips, beside, strict=True)]
        return Reached(y, skips, time, context)


def controlled(
    unet: UNet,
    controls: Sequence[Control] = (),
    features: Sequence[tuple[Sequence[Tensor], float]] = (),
    *,
    pictures: int = 0,
) -> Controlled:
    """The U-Net with controls, as a net with its own signature: what they say is weighed, summed and added.

    controls   ControlNets: added to the skips when the way down is done, and to what the middle says. They see what
               the U-Net sees, but for the channels that an inpainting U-Net has more and the tokens of pictures
    features   of T2I-Adapters, each with a weight: added on the way down (unet.descend), a last one to the middle
    pictures   tokens at the end of the context that are not text (nets/picture_prompt.py)
    """
    return Controlled(unet, controls, _by_level(features), pictures)


def _by_level(features: Sequence[tuple[Sequence[Tensor], float]]) -> list[Tensor]:
    """Features of several adapters, weighed and summed level by level."""
    total: list[Tensor] = []
    for row, weight in features:
        for level, feature in enumerate(row):
            if level < len(total):
                total[level] = total[level] + weight * feature
            else:
                total.append(weight * feature)
    return total
