"""Blocks of a built net computed by fewer kernels on a CUDA card; weights and their names stay as they are.

`fuse` changes the class of the modules that it knows, and nothing else, so that adapters, copies over the same weights
and what is saved do not notice. A module whose inner parts were replaced by others since (a convolution that pads with
the other side, a norm that was measured tile by tile) calls those, and one that is asked for a gradient, or elsewhere
than on a card, answers as torch does.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.engines import triton_kernels as kernels
from aquatint.engines.triton_norm import laid, norm_silu
from aquatint.nets.autoencoder import Decoder, Encoder
from aquatint.nets.blocks import GatedFeed, ResBlock, Transformer2d
from aquatint.nets.unet import UNet


class FusedNorm(nn.GroupNorm):
    """GroupNorm by one read and one write, with what comes before and after it."""

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """As nn.GroupNorm."""
        return self.fused(x, None, False) if able(x) and x.ndim == 4 else super().forward(x)

    def fused(self, x: Tensor, add: Tensor | None, silu: bool) -> Tensor:
        """silu(norm(x + add)), or without either."""
        return norm_silu(x, self.num_groups, self.weight, self.bias, self.eps, add, silu)


class FusedResBlock(ResBlock):
    """A residual block in six operations: norm, convolution, norm that adds the time, convolution, skip, sum."""

    def forward(
        self, x: Float[Tensor, "b i h w"], time: Float[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b o h w"]:
        """As ResBlock."""
        if not able(x):
            return super().forward(x, time)
        y, add = bare(self.conv1, normed(self.norm1, x))
        if self.time is not None:
            assert time is not None, "this block was built to hear a time"
            heard = self.shift(time)
            add = heard if add is None else heard + add
        elif add is not None:
            add = add.expand(len(x), -1)
        y, bias = bare(self.conv2, normed(self.norm2, y, add))
        skip, more = bare(self.skip, x)
        if bias is not None and more is not None:
            bias = bias + more
        return kernels.summed(skip, y, more if bias is None else bias)


class SplitConv(nn.Conv2d):
    """A convolution whose inner sum is split among processors where a picture has too few pixels for all of them."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, padding = self.stride[0], self.padding[0]
        assert isinstance(padding, int)
        if not able(x) or x.shape[2] * x.shape[3] > SMALL * stride**2:
            return super()._conv_forward(x, weight, bias)
        return kernels.convolved(x, weight, bias, stride, padding)


class FusedFeed(GatedFeed):
    """The gated feed-forward with the gate in one kernel."""

    def forward(self, x: Float[Tensor, "b s w"]) -> Float[Tensor, "b s w"]:
        """As GatedFeed."""
        return self.leave(kernels.geglu(self.enter(x))) if able(x) else super().forward(x)


class FusedTransformer(Transformer2d):
    """A transformer over pixels whose 1x1 convolutions are products of matrices, as pixels lie channels last anyway."""

    def forward(self, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b n d"]) -> Float[Tensor, "b c h w"]:
        """As Transformer2d."""
        if not able(x):
            return super().forward(x, context)
        y = flat(self.enter, self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        for layer in self.layers:
            y = layer(y, context)
        y = flat(self.leave, y).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return kernels.summed(x, y, None)


class FusedUNet(UNet):
    """A U-Net whose last norm and SiLU are one."""

    def head(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """As UNet."""
        return self.leave(normed(self.norm, x)) if able(x) else super().head(x)


class FusedEncoder(Encoder):
    """An encoder whose last norm and SiLU are one."""

    def head(self, x: Float[Tensor, "b c h8 w8"]) -> Float[Tensor, "b m h8 w8"]:
        """As Encoder."""
        return self.leave(normed(self.norm, x)) if able(x) else super().head(x)


class FusedDecoder(Decoder):
    """A decoder whose last norm and SiLU are one."""

    def head(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
        """As Decoder."""
        return self.leave(normed(self.norm, x)) if able(x) else super().head(x)


def fuse(net: nn.Module, *, split: bool = False) -> None:
    """Have the modules of a built net that are known here compute with fewer kernels; itself, and in place.

    split   also 3x3 convolutions of small pictures by our own kernel, and not by cuDNN's
    """
    for part in net.modules():
        if (kind := FUSED.get(type(part))) is not None:
            part.__class__ = kind
        elif split and type(part) is nn.Conv2d and part.kernel_size == (3, 3) and min(part.weight.shape[:2]) >= WIDE:
            part.__class__ = SplitConv


def able(x: Tensor) -> bool:
    """Whether the kernels can be asked: on a card, in a number format that they know, without gradient."""
    return (x.is_cuda or kernels.INTERPRETED) and x.dtype in KINDS and not torch.is_grad_enabled()


def normed(norm: nn.Module, x: Tensor, add: Tensor | None = None) -> Tensor:
    """silu(norm(x + add)), in one where the norm is ours."""
    if isinstance(norm, FusedNorm):
        return norm.fused(x, add, True)
    return F.silu(norm(x if add is None else x + add[:, :, None, None]))


def bare(conv: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A convolution without its bias, and the bias, which is yet to be added; cuDNN would add it by one more kernel."""
    if not isinstance(conv, nn.Conv2d) or type(conv) not in (nn.Conv2d, SplitConv):
        return conv(x), None
    if conv.kernel_size == (1, 1) and conv.stride == (1, 1):
        rows = laid(x).permute(0, 2, 3, 1)
        return F.linear(rows, conv.weight.flatten(1)).permute(0, 3, 1, 2), conv.bias
    return conv._conv_forward(x, conv.weight, None), conv.bias


def flat(layer: nn.Module, rows: Float[Tensor, "b s c"]) -> Float[Tensor, "b s d"]:
    """A linear layer, or a 1x1 convolution as one."""
    if isinstance(layer, nn.Conv2d):
        return F.linear(rows, layer.weight.flatten(1), layer.bias)
    return layer(rows)


SMALL, WIDE = 256, 128  # pixels that go out of a split convolution at most; channels in and out at least
KINDS = (torch.float32, torch.float16, torch.bfloat16)
FUSED: dict[type[nn.Module], type[nn.Module]] = {
    nn.GroupNorm: FusedNorm,
    ResBlock: FusedResBlock,
    GatedFeed: FusedFeed,
    Transformer2d: FusedTransformer,
    UNet: FusedUNet,
    Encoder: FusedEncoder,
    Decoder: FusedDecoder,
}
