"""Kernels for CUDA in Triton, channels last: GEGLU, sums, 8-bit floats, and small convolutions split along K.

Block sizes follow from shapes alone and nothing is timed or added atomically, so the same input has the same bits in
every run, and a picture has the same bits alone and in a batch. Sums are taken in float32, whatever the tensors are.
This file and triton_norm.py need the library `triton`, which comes with torch where it is built for CUDA: they are
imported where it is known to be there. With TRITON_INTERPRET=1 they work on the CPU, for tests.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from triton.language import constexpr

from aquatint.engines.triton_norm import laid

INTERPRETED: bool = triton.knobs.runtime.interpret
ROWS, COLUMNS = 16, 64  # of a block of elementwise work
TILE = 128, 128, 32  # pixels, channels out and channels in of a tile of a convolution


@triton.jit
def _flat(width, rows, ROWS: constexpr, COLUMNS: constexpr):
    """Row, column and presence of a block of a matrix."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    return row[:, None], column[None, :], (row < rows)[:, None] & (column < width)[None, :]


@triton.jit
def _geglu(x, y, width, rows, ROWS: constexpr, COLUMNS: constexpr):
    """y[r, i] = x[r, i] * gelu(x[r, width + i])."""
    row, column, here = _flat(width, rows, ROWS, COLUMNS)
    at = x + row * (2 * width) + column
    value = tl.load(at, mask=here, other=0.0).to(tl.float32)
    gate = tl.load(at + width, mask=here, other=0.0).to(tl.float32)
    v = value * (0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)))
    tl.store(y + row * width + column, v.to(y.dtype.element_ty), mask=here)


@triton.jit
def _sum(a, b, bias, y, width, rows, BIAS: constexpr, ROWS: constexpr, COLUMNS: constexpr):
    """y[r, c] = a[r, c] + b[r, c] + bias[c]."""
    row, column, here = _flat(width, rows, ROWS, COLUMNS)
    place = row * width + column
    v = tl.load(a + place, mask=here, other=0.0).to(tl.float32)
    v += tl.load(b + place, mask=here, other=0.0).to(tl.float32)
    if BIAS:
        v += tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(y + place, v.to(y.dtype.element_ty), mask=here)


@triton.jit
def _shortened(x, y, scale, width, WIDE: constexpr):
    """A row in 8-bit floats, and the number that it was divided by: its largest is 448 then."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, WIDE)
    v = tl.load(x + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    unit = tl.maximum(tl.max(tl.abs(v)), 1e-30) / 448.0 + 0.0 * tl.sum(v)  # no number for a row that holds none
    tl.store(y + row * width + column, (v / unit).to(y.dtype.element_ty), mask=column < width)
    tl.store(scale + row, unit)


@triton.jit
def _conv_parts(
    x,
    weight,
    parts,
    count,
    height,
    width,
    inside,
    outside,
    tall,
    wide,
    stride,
    padding,
    blocks,
    share,
    TAPS: constexpr,
    BM: constexpr,
    BN: constexpr,
    BK: constexpr,
):
    """A tile of a convolution as a matrix product, summed over a share of K = taps x channels in."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    split, k = tl.program_id(2), tl.arange(0, BK)
    picture, down, across = row // (tall * wide), row // wide % tall * stride, row % wide * stride
    total = tl.zeros([BM, BN], tl.float32)
    for block in range(split * share, tl.minimum(split * share + share, TAPS * TAPS * blocks)):
        tap, channel = block // blocks, block % blocks * BK + k
        y, z = down + tap // TAPS - padding, across + tap % TAPS - padding
        here = (row < count) & (y >= 0) & (y < height) & (z >= 0) & (z < width)
        at = x + ((picture * height + y) * width + z)[:, None] * inside + channel[None, :]
        a = tl.load(at, mask=here[:, None] & (channel < inside)[None, :], other=0.0)
        at = weight + column[:, None] * (TAPS * TAPS * inside) + tap * inside + channel[None, :]
        b = tl.load(at, mask=(column < outside)[:, None] & (channel < inside)[None, :], other=0.0)
        total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
    place = (split * count + row)[:, None].to(tl.int64) * outside + column[None, :]
    tl.store(parts + place, total, mask=(row < count)[:, None] & (column < outside)[None, :])


@triton.jit
def _conv_sum(parts, bias, y, splits, rows, width, BIAS: constexpr, ROWS: constexpr, COLUMNS: constexpr):
    """The sum of the parts, in order, and the bias."""
    row, column, here = _flat(width, rows, ROWS, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for split in range(splits):
        total += tl.load(parts + (split * rows + row) * width + column, mask=here, other=0.0)
    if BIAS:
        total += tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(y + row * width + column, total.to(y.dtype.element_ty), mask=here)


def geglu(x: Float[Tensor, "*b w2"]) -> Float[Tensor, "*b w"]:
    """a * gelu(b) with [a, b] = x (Shazeer 2020, equation 6), gelu by the error function; rounded once."""
    x, width = x.contiguous(), x.shape[-1] // 2
    y = torch.empty(*x.shape[:-1], width, dtype=x.dtype, device=x.device)
    if y.numel():
        _geglu[_blocks(y.numel() // width, width)](x, y, width, y.numel() // width, ROWS=ROWS, COLUMNS=COLUMNS)
    return y


def summed(
    a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"], bias: Float[Tensor, " c"] | None
) -> Float[Tensor, "b c h w"]:
    """a + b + bias[None, :, None, None], channels last; rounded once."""
    a, b, channels = laid(a), laid(b), a.shape[1]
    y = torch.empty_like(a, memory_format=torch.channels_last)
    if y.numel():
        rows, known = y.numel() // channels, a if bias is None else bias
        how: dict[str, Any] = {"BIAS": bias is not None, "ROWS": ROWS, "COLUMNS": COLUMNS}
        _sum[_blocks(rows, channels)](a, b, known, y, channels, rows, **how)
    return y


def shortened(rows: Float[Tensor, "r w"]) -> tuple[Tensor, Float[Tensor, " r"]]:
    """(8-bit floats [r, w], scales [r]) by one read and one write; engines/fp8.py has the formula."""
    rows = rows.contiguous()
    short = torch.empty(rows.shape, dtype=torch.float8_e4m3fn, device=rows.device)
    scale = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    if rows.numel():
        _shortened[(len(rows),)](rows, short, scale, rows.shape[1], WIDE=triton.next_power_of_2(rows.shape[1]))
    return short, scale


def convolved(
    x: Float[Tensor, "b i h w"],
    weight: Float[Tensor, "o i k k"],
    bias: Float[Tensor, " o"] | None,
    stride: int = 1,
    padding: int = 1,
    splits: int = 9,
) -> Float[Tensor, "b o h2 w2"]:
    """conv2d(x, weight, bias, stride, padding), channels last, its inner sum split among `splits` programs a tile.

    For pictures of so few pixels that their tiles alone would leave most of a card idle: at 8 x 8, two rows and 1280
    channels there are 20 tiles for an H200's 132 processors. The parts are added in order, in float32.
    """
    x, weight = laid(x), laid(weight)
    (rows, inside, height, width), (outside, _, taps, _) = x.shape, weight.shape
    tall, wide = ((side + 2 * padding - taps) // stride + 1 for side in (height, width))
    y = torch.empty(rows, outside, tall, wide, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    count, blocks = rows * tall * wide, triton.cdiv(inside, TILE[2])
    share = triton.cdiv(taps * taps * blocks, splits)
    splits = triton.cdiv(taps * taps * blocks, share)
    parts = torch.empty(splits, count, outside, dtype=torch.float32, device=x.device)
    size = (count, height, width, inside, outside, tall, wide, stride, padding, blocks, share)
    grid = (triton.cdiv(count, TILE[0]), triton.cdiv(outside, TILE[1]), splits)
    how: dict[str, Any] = dict(zip(("BM", "BN", "BK"), TILE, strict=True))
    _conv_parts[grid](x, weight, parts, *size, TAPS=taps, **how, num_warps=8, num_stages=3)
    how = {"BIAS": bias is not None, "ROWS": ROWS, "COLUMNS": COLUMNS}
    known = parts if bias is None else bias.contiguous()
    _conv_sum[_blocks(count, outside)](parts, known, y, splits, count, outside, **how)
    return y


def _blocks(rows: int, width: int) -> tuple[int, int]:
    return triton.cdiv(rows, ROWS), triton.cdiv(width, COLUMNS)
