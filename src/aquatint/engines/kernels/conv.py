"""3x3 convolutions by Winograd's algorithm (Lavin & Gray 2015, arXiv:1509.09308)."""

import ctypes
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.engines.kernels.library import (
    Convolution,
    Shape,
    address,
    checked,
    chosen,
    counted,
    floats,
    laid,
    library,
    workspace,
)

FREQUENCIES = {2: 16, 4: 36}  # of a tile
AT_ONCE = 2**27  # bytes of transformed weights that `convolve` holds, if one panel's are not more


class Winograd:
    """A 3x3 convolution, stride 1, padding 1, float32 on the CPU: conv2d(x, weight, bias, padding=1).

    weight   [outside, inside, 3, 3], any layout; transformed once, into tile 4: 4 times, tile 2: 16 / 9 times its size
    bias     [outside], or None
    tile     4: F(4x4, 3x3), a quarter of the multiplications, error 2.6e-6 of the result (rms; torch's own direct
             convolution: 8e-7); 2: F(2x2, 3x3), 4 / 9 of them, error 4e-7
    threads  for the transform; torch's number if None
    isa      0 portable, 1 AVX2, 2 AVX-512 (library.py); the best that the processor has if None

    The result has the same bits for any number of threads, and for a picture alone or in a batch. Tiles mix pixels, so
    a NaN or an infinity spreads over the tiles that see it. Raises UserError for other types and shapes, and where
    there is no library.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        tile: int = 4,
        *,
        threads: int | None = None,
        isa: int | None = None,
    ) -> None:
        self.weight, self.bias = _checked(weight, bias, tile)
        self.tile, self.isa = tile, chosen(isa)
        weights = _Weights(self.weight)
        self.packed = floats(weights.size(self.isa, tile))
        weights.pack(self.isa, tile, self.packed, counted(threads))

    @staticmethod
    def bytes_of(weight: Tensor, tile: int) -> int:
        """What the transformed weights take, with the best instruction set."""
        return 4 * _Weights(weight).size(chosen(None), tile)

    def __call__(
        self,
        x: Float[Tensor, "b i h w"],
        add: Float[Tensor, "b o h w"] | None = None,
        each: Float[Tensor, "b o"] | None = None,
        *,
        threads: int | None = None,
    ) -> Float[Tensor, "b o h w"]:
        """conv(x) + bias + each[:, :, None, None] + add, channels last.

        add      what the result is added to (a shortcut)
        each     what all pixels of a picture get (the embedding of the time)
        threads  torch's number if None
        """
        work = _Call(_Weights(self.weight), x, self.bias, each, add)
        work.run(self.isa, self.tile, self.packed, slice(0, work.outside), counted(threads))
        return work.y


def convolve(
    weight: Tensor,
    bias: Tensor | None,
    tile: int,
    x: Float[Tensor, "b i h w"],
    add: Float[Tensor, "b o h w"] | None = None,
    each: Float[Tensor, "b o"] | None = None,
    *,
    threads: int | None = None,
    isa: int | None = None,
    at_once: int = AT_ONCE,
    turned: bool = False,
) -> Float[Tensor, "b o h w"]:
    """The same, to the last bit, without keeping transformed weights: a number of channels at a time.

    at_once   bytes that their transformed weights may take, if those of 32 channels do not take more
    turned    what the weights' transposed convolution is, from the channels outside to those inside: the way that the
              gradient takes back
    """
    weight, bias = _checked(weight, bias, tile)
    isa, threads, weights = chosen(isa), counted(threads), _Weights(weight, turned)
    work = _Call(weights, x, bias, each, add)
    some = max(at_once // (4 * FREQUENCIES[tile] * weights.inside) // SLICE, 1) * SLICE
    for first in range(0, weights.outside, some):
        part = slice(first, min(first + some, weights.outside))
        these = weights.some(part)
        packed = workspace(these.size(isa, tile), "packed")
        these.pack(isa, tile, packed, threads)
        work.run(isa, tile, packed, part, threads)
    return work.y


SLICE = 32  # channels: whole panels, and whole chunks, of every instruction set


class _Weights(NamedTuple):
    """[outside, inside, 3, 3]; turned: [inside, outside, 3, 3], read from behind in both directions."""

    tensor: Tensor
    turned: bool = False

    @property
    def outside(self) -> int:
        return self.tensor.shape[1 if self.turned else 0]

    @property
    def inside(self) -> int:
        return self.tensor.shape[0 if self.turned else 1]

    def some(self, part: slice) -> "_Weights":
        """Those of some channels outside."""
        return _Weights(self.tensor[:, part] if self.turned else self.tensor[part], self.turned)

    def size(self, isa: int, tile: int) -> int:
        """Floats of what they are transformed into."""
        return int(library().aquatint_packed(isa, ctypes.byref(self._shape(tile))))

    def pack(self, isa: int, tile: int, packed: Tensor, threads: int) -> None:
        """Transform them into memory for that."""
        outside, inside, down, across = self.tensor.stride()
        strides, first = (outside, inside, down, across), 0
        if self.turned:
            strides, first = (inside, outside, -down, -across), 2 * (down + across)
        places = address(self.tensor, first), (ctypes.c_long * 4)(*strides), address(packed)
        library().aquatint_pack(isa, ctypes.byref(self._shape(tile)), *places, threads)

    def _shape(self, tile: int) -> Shape:
        return Shape(tile, 0, 0, 0, self.inside, self.outside)


class _Call:
    """One convolution: what goes in, laid out, and where it goes."""

    def __init__(
        self, weights: "_Weights", x: Tensor, bias: Tensor | None, each: Tensor | None, add: Tensor | None
    ) -> None:
        self.outside, self.inside = weights.outside, weights.inside
        self.count, _, self.height, self.width = x.shape
        size = (self.count, self.outside, self.height, self.width)
        self.x = laid("x", x, (self.count, self.inside, self.height, self.width))
        self.bias, self.add = bias, None if add is None else laid("add", add, size)
        self.each = None if each is None else laid("each", each, size[:2])
        self.y = torch.empty(size, dtype=torch.float32, memory_format=torch.channels_last)

    def run(self, isa: int, tile: int, packed: Tensor, part: slice, threads: int) -> None:
        """The channels of `part`, whose transformed weights `packed` holds."""
        if self.y.numel() == 0:
            return
        shape = Shape(tile, self.count, self.height, self.width, self.inside, part.stop - part.start)
        memory = workspace(library().aquatint_conv_workspace(isa, ctypes.byref(shape), threads))
        added = (address(tensor, part.start) for tensor in (self.bias, self.each, self.add, self.y))
        task = Convolution(shape, address(self.x), address(packed), *added, address(memory), self.outside)
        library().aquatint_conv(isa, ctypes.byref(task), threads)


def _checked(weight: Tensor, bias: Tensor | None, tile: int) -> tuple[Tensor, Tensor | None]:
    """Weights as the kernels take them."""
    if tile not in FREQUENCIES:
        raise UserError(f"Tiles of {tile} x {tile} are not known.", "2 or 4.")
    if weight.ndim != 4 or weight.shape[2:] != (3, 3) or weight.numel() == 0:
        raise UserError(f"A kernel {tuple(weight.shape)} is not 3x3.", "[outside, inside, 3, 3].")
    bias = None if bias is None else laid("bias", bias, (weight.shape[0],))
    return checked("weight", weight, (weight.shape[0], weight.shape[1], 3, 3)), bias
