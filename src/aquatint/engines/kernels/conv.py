"""3x3 convolutions by Winograd's algorithm (Lavin & Gray 2015, arXiv:1509.09308)."""

import ctypes

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
        if tile not in FREQUENCIES:
            raise UserError(f"Tiles of {tile} x {tile} are not known.", "2 or 4.")
        if weight.ndim != 4 or weight.shape[2:] != (3, 3) or weight.numel() == 0:
            raise UserError(f"A kernel {tuple(weight.shape)} is not 3x3.", "[outside, inside, 3, 3].")
        self.outside, self.inside = weight.shape[:2]
        self.tile, self.isa = tile, chosen(isa)
        weight = checked("weight", weight, (self.outside, self.inside, 3, 3))
        self.bias = None if bias is None else laid("bias", bias, (self.outside,))
        shape = self._shape(0, 0, 0)
        self.packed = floats(library().aquatint_packed(self.isa, ctypes.byref(shape)))
        strides = (ctypes.c_long * 4)(*weight.stride())
        call = library().aquatint_pack
        call(self.isa, ctypes.byref(shape), address(weight), strides, address(self.packed), counted(threads))

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
        count, _, height, width = x.shape
        x = laid("x", x, (count, self.inside, height, width))
        size = (count, self.outside, height, width)
        add = None if add is None else laid("add", add, size)
        each = None if each is None else laid("each", each, size[:2])
        y = torch.empty(size, dtype=torch.float32, memory_format=torch.channels_last)
        if y.numel() == 0:
            return y
        shape, threads = self._shape(count, height, width), counted(threads)
        work = workspace(library().aquatint_conv_workspace(self.isa, ctypes.byref(shape), threads))
        places = map(address, (x, self.packed, self.bias, each, add, y, work))
        library().aquatint_conv(self.isa, ctypes.byref(Convolution(shape, *places)), threads)
        return y

    def _shape(self, count: int, height: int, width: int) -> Shape:
        return Shape(self.tile, count, height, width, self.inside, self.outside)
