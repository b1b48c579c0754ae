"""The CPU engine: convolutions, attention and large norms by our own kernels, put into a built net from outside.

`prepare` changes the class of the layers that become quicker, and nothing else: weights, their names and what a layer
computes stay. Which kernel a layer takes follows from its shape and the instruction set alone, by the tables below;
nothing is ever timed. A layer that is asked for what the kernels have not (another number format, another device, most
gradients) answers as torch does.
"""

import threading
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from aquatint.engines import plain
from aquatint.engines.kernels.attend import attend
from aquatint.engines.kernels.conv import Winograd, convolve
from aquatint.engines.kernels.library import AVX512, chosen
from aquatint.engines.kernels.norm import norm_silu
from aquatint.nets.attention import Attention, fused
from aquatint.nets.blocks import ResBlock

NUMERICS = 1  # raised by every change of the kernels or of these tables that may change the bits of a picture
ISAS = ("portable", "avx2", "avx512")
NARROWEST = 24  # channels in and out of a convolution; below, torch's own is quicker
SMALLEST = 4  # rows and columns up to which a picture is of few tiles, and smaller ones with fewer weights are quicker
LARGE_NORM = 2**24  # numbers from which one pass over memory saves more than torch's norm is quicker by
QUERIES, DEPTH = 512, 128  # from how many and up to what width attention is ours, with AVX-512
PIXELS = 2048  # of all pictures, from which a convolution that learns goes by the kernels
ROWS = 512  # from how many a product of matrices goes to oneDNN, as a 1x1 convolution, and not to MKL


def name() -> str:
    """What the bits of this engine depend on, for the reproduction key; UserError where there are no kernels."""
    return f"kernels {NUMERICS} {ISAS[chosen(None)]}"


def tile_of(inside: int, outside: int, height: int, width: int) -> int | None:
    """The tile by which a 3x3 convolution goes, 4 or 2; None: torch's own is quicker."""
    if min(inside, outside) < NARROWEST:
        return None
    return 2 if max(height, width) <= SMALLEST else 4


class Packs:
    """How many bytes of transformed weights are kept; those for which no room is left are made at every call.

    Both give the same bits: making them costs a guided step of Stable Diffusion 1.5 about a tenth of its time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: weakref.WeakSet[Winograd] = weakref.WeakSet()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Packs":
        return self

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return Packs, (self.limit,)

    @property
    def size(self) -> int:
        """Bytes that are kept at present."""
        return sum(pack.packed.nbytes for pack in self._kept)

    def made(self, weight: Tensor, bias: Tensor | None, tile: int) -> Winograd | None:
        """The weights, transformed, if there is room for them."""
        size = Winograd.bytes_of(weight, tile)
        with self._lock:
            if self.size + size > self.limit:
                return None
            pack = Winograd(weight, bias, tile)
            self._kept.add(pack)
            return pack


@dataclass(frozen=True, eq=False)
class _Held:
    """Transformed weights, and of what. A copy of a layer begins without, and nothing of it is ever written to a file.

    of   where weight and bias lie, and how often they were written into; the pack holds on to their memory, so that no
         others can come to lie there
    """

    pack: Winograd
    of: tuple[int, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()


class _Learning(torch.autograd.Function):
    """A 3x3 convolution whose gradient with respect to its input goes the same way back; the weights' is torch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tile: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.tile, ctx.biases = tile, None if bias is None else list(bias.shape)
        return convolve(weight, bias, tile, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        back = convolve(weight, None, ctx.tile, grad, turned=True) if wanted[0] else None
        same = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        learns = None, None, None
        if wanted[1] or wanted[2]:
            want = [False, wanted[1], wanted[2]]
            learns = torch.ops.aten.convolution_backward(grad, x, weight, ctx.biases, *same, want)
        return back, learns[1], learns[2], None


class KernelConv2d(nn.Conv2d):
    """A 3x3 convolution, stride 1, padding 1, by Winograd's algorithm."""

    packs: Packs | None
    held: _Held | None

    def forward(
        self,
        x: Float[Tensor, "b i h w"],
        add: Float[Tensor, "b o h w"] | None = None,
        each: Float[Tensor, "b o"] | None = None,
    ) -> Float[Tensor, "b o h w"]:
        """conv(x) + each[:, :, None, None] + add."""
        tile = tile_of(self.in_channels, self.out_channels, *x.shape[2:])
        if tile is None or not _able(x, self.weight, self.bias, add, each):
            if tile is not None and self._learns(x):
                y = _Learning.apply(x, self.weight, self.bias, tile)
            else:
                y = self._conv_forward(x, self.weight, self.bias)
            y = y if each is None else y + each[:, :, None, None]
            return y if add is None else add + y
        pack = self._packed(tile)
        return convolve(self.weight, self.bias, tile, x, add, each) if pack is None else pack(x, add, each)

    def _learns(self, x: Tensor) -> bool:
        """Whether it goes by the kernels with gradients: weights transformed for one step want pixels enough."""
        enough = len(x) * x.shape[2] * x.shape[3] >= PIXELS
        return enough and _fit(x, self.weight) and not torch.is_autocast_enabled("cpu")

    def _packed(self, tile: int) -> Winograd | None:
        """The transformed weights, made anew if the weights are others now: an adapter's, or written into."""
        if self.packs is None:
            return None
        held, there = self.held, [x for x in (self.weight, self.bias) if x is not None]
        of = *(x.data_ptr() for x in there), *(x._version for x in there)
        if held is not None and held.pack.tile == tile and held.of == of:
            return held.pack
        self.held = held = None
        pack = self.packs.made(self.weight, self.bias, tile)
        if pack is not None:
            self.held = _Held(pack, of)
        return pack


class KernelResBlock(ResBlock):
    """A residual block whose convolutions add the time and the shortcut."""

    def forward(
        self, x: Float[Tensor, "b i h w"], time: Float[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b o h w"]:
        """As ResBlock."""
        first, second = self.conv1, self.conv2
        if not isinstance(first, KernelConv2d) or not isinstance(second, KernelConv2d):  # others were put there since
            return super().forward(x, time)
        each = None
        if self.time is not None:
            assert time is not None, "this block was built to hear a time"
            each = self.shift(time)
        y = first(_activated(self.norm1, x), each=each)
        return second(_activated(self.norm2, y), add=self.skip(x))


class KernelLinear(nn.Linear):
    """A product of matrices by oneDNN, which reaches more than MKL on processors that are not Intel's."""

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """x W^T + b."""
        rows = x.numel() // self.in_features
        if rows < ROWS or not _able(x, self.weight, self.bias):
            return F.linear(x, self.weight, self.bias)
        shape, inside = x.shape[:-1], self.in_features
        x = x.contiguous()
        pixels = x.as_strided((1, inside, rows, 1), (rows * inside, 1, inside, inside), x.storage_offset())
        y = F.conv2d(pixels, self.weight[:, :, None, None], self.bias)
        return y.squeeze(3).squeeze(0).t().reshape(*shape, self.out_features)


def kernel_attention(
    q: Float[Tensor, "b n q d"], k: Float[Tensor, "b n k d"], v: Float[Tensor, "b n k d"], causal: bool = False
) -> Float[Tensor, "b n q d"]:
    """Attention by our kernel where it is the quicker one, else by torch's."""
    ours = not causal and q.shape[2] >= QUERIES and q.shape[3] <= DEPTH and chosen(None) == AVX512
    return attend(q, k, v) if ours and _able(q, k, v) else fused(q, k, v, causal)


def prepare(net: nn.Module, packs: Packs | None = None) -> None:
    """Have a net run by the kernels; it must be built and filled, and may be attached to and copied afterwards.

    packs   keeps transformed weights; without it they are made at every call, which large pictures do not notice
    """
    for part in net.modules():
        if type(part) is nn.Conv2d and _fits(part):
            part.__class__ = KernelConv2d
            part.__dict__ |= {"packs": packs, "held": None}
        elif type(part) is ResBlock:
            part.__class__ = KernelResBlock
        elif type(part) is nn.Linear:
            part.__class__ = KernelLinear
        elif isinstance(part, Attention) and part.attend is fused:
            part.attend = kernel_attention
    plain.prepare(net, lambda conv: not isinstance(conv, KernelConv2d))


def _fits(conv: nn.Conv2d) -> bool:
    """Whether a convolution is one that the kernels make quicker."""
    same = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    wide = min(conv.in_channels, conv.out_channels) >= NARROWEST
    return same == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and wide


def _able(*tensors: Tensor | None) -> bool:
    """Whether the kernels can do with these tensors."""
    there = [x for x in tensors if x is not None]
    if torch.is_grad_enabled() and any(x.requires_grad for x in there):
        return False
    return _fit(*there)


def _fit(*tensors: Tensor) -> bool:
    return all(x.dtype is torch.float32 and x.device.type == "cpu" for x in tensors)


def _activated(norm: nn.Module, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """silu(norm(x))."""
    if type(norm) is not nn.GroupNorm or not _able(x, norm.weight, norm.bias):
        return F.silu(norm(x))
    if x.numel() < LARGE_NORM:
        return F.silu(norm(x), inplace=True)
    return norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
