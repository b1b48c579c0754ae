"""GroupNorm with SiLU for CUDA in Triton, channels last (Wu & He 2018); triton_kernels.py says how kernels are here."""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from triton.language import constexpr

from aquatint.base.errors import UserError

SMALL = 256  # pixels of a picture up to which one program measures and writes a block's groups
BLOCK, SMALL_BLOCK = (32, 128), (64, 64)  # pixels and channels, with padding: narrow where programs are few
SPLITS = 1024  # parts of a picture that are measured one by one, at most
SIZES = ("pixels", "length", "splits", "groups", "width")  # whose values are not compiled in: seconds for each set


@triton.jit
def _seen(
    x, add, base, first, end, group, groups, width, ADD: constexpr, LONG: constexpr, GB: constexpr, WP: constexpr
):
    """A block [LONG, GB, WP] of a picture in float32, with what is added to its channels, and what of it is there."""
    channels = groups * width
    pixel, g, j = tl.arange(0, LONG), group * GB + tl.arange(0, GB), tl.arange(0, WP)
    channel, known = g[:, None] * width + j[None, :], (g < groups)[:, None] & (j < width)[None, :]
    here = known[None, :, :] & (first + pixel < end)[:, None, None]
    place = pixel[:, None, None] * channels + channel[None, :, :]
    v = tl.load(x + (base + first) * channels + place, mask=here, other=0.0).to(tl.float32)
    if ADD:
        v += tl.load(add + channel, mask=known, other=0.0).to(tl.float32)[None, :, :]
    return v, here, known, place, channel


@triton.jit
def _measured(
    x, add, base, first, end, group, groups, width, ADD: constexpr, LONG: constexpr, GB: constexpr, WP: constexpr
):
    """Mean and sum of squares about it of each group over the pixels first ... end (Chan et al. 1983, equation 1.5)."""
    mean, square, count = tl.zeros([GB], tl.float32), tl.zeros([GB], tl.float32), 0.0
    for start in range(first, end, LONG):
        v, here, _, _, _ = _seen(x, add, base, start, end, group, groups, width, ADD, LONG, GB, WP)
        more = (tl.minimum(end - start, LONG) * width).to(tl.float32)
        its = tl.sum(tl.sum(tl.where(here, v, 0.0), axis=2), axis=0) / more
        off = tl.where(here, v - its[None, :, None], 0.0)
        apart = its - mean
        square += tl.sum(tl.sum(off * off, axis=2), axis=0) + apart * apart * (count * more / (count + more))
        mean += apart * (more / (count + more))
        count += more
    return mean, square


@triton.jit
def _written(
    x,
    add,
    weight,
    bias,
    y,
    mean,
    scale,
    base,
    first,
    end,
    group,
    groups,
    width,
    ADD: constexpr,
    SILU: constexpr,
    LONG: constexpr,
    GB: constexpr,
    WP: constexpr,
):
    """A block of the answer."""
    v, here, known, place, channel = _seen(x, add, base, first, end, group, groups, width, ADD, LONG, GB, WP)
    v = (v - mean[None, :, None]) * scale[None, :, None]
    w = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    b = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    v = v * w[None, :, :] + b[None, :, :]
    if SILU:
        v = v / (1.0 + tl.exp(-v))
    tl.store(y + (base + first) * groups * width + place, v.to(y.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=SIZES)
def _norm_small(
    x,
    add,
    weight,
    bias,
    y,
    pixels,
    groups,
    width,
    eps,
    ADD: constexpr,
    SILU: constexpr,
    LONG: constexpr,
    GB: constexpr,
    WP: constexpr,
):
    """A picture's groups, measured and written by one program."""
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    base, add = row * pixels, add + row * groups * width
    mean, square = _measured(x, add, base, 0, pixels, group, groups, width, ADD, LONG, GB, WP)
    scale = 1.0 / tl.sqrt(square / (pixels * width).to(tl.float32) + eps)
    for first in range(0, pixels, LONG):
        _written(
            x, add, weight, bias, y, mean, scale, base, first, pixels, group, groups, width, ADD, SILU, LONG, GB, WP
        )


@triton.jit(do_not_specialize=SIZES)
def _norm_parts(
    x, add, parts, pixels, length, splits, groups, width, ADD: constexpr, LONG: constexpr, GB: constexpr, WP: constexpr
):
    """Mean and sum of squares of `length` pixels of a picture, to parts [rows, splits, groups, 2]."""
    program, group = tl.program_id(0), tl.program_id(1)
    row, split = (program // splits).to(tl.int64), program % splits
    first = split * length
    end = tl.minimum(first + length, pixels)
    mean, square = _measured(
        x, add + row * groups * width, row * pixels, first, end, group, groups, width, ADD, LONG, GB, WP
    )
    g = group * GB + tl.arange(0, GB)
    place = parts + ((row * splits + split) * groups + g) * 2
    tl.store(place, mean, mask=g < groups)
    tl.store(place + 1, square, mask=g < groups)


@triton.jit(do_not_specialize=SIZES)
def _norm_whole(parts, whole, pixels, length, splits, groups, width, eps, LONG: constexpr, GB: constexpr):
    """From the parts to mean and 1 / deviation of each group: whole [rows, groups, 2]."""
    row, g = tl.program_id(0).to(tl.int64), tl.program_id(1) * GB + tl.arange(0, GB)
    mean, square, count = tl.zeros([GB], tl.float32), tl.zeros([GB], tl.float32), 0.0
    for first in range(0, splits, LONG):
        split = first + tl.arange(0, LONG)
        here = (split < splits)[:, None] & (g < groups)[None, :]
        place = parts + ((row * splits + split)[:, None] * groups + g[None, :]) * 2
        size = (tl.maximum(tl.minimum(pixels - split * length, length), 0) * width).to(tl.float32)
        means, squares = tl.load(place, mask=here, other=0.0), tl.load(place + 1, mask=here, other=0.0)
        more = tl.sum(size)
        its = tl.sum(means * size[:, None], axis=0) / more
        off = tl.where(here, means - its[None, :], 0.0)
        apart = its - mean
        square += tl.sum(squares + off * off * size[:, None], axis=0) + apart * apart * (count * more / (count + more))
        mean += apart * (more / (count + more))
        count += more
    scale = 1.0 / tl.sqrt(square / count + eps)
    tl.store(whole + (row * groups + g) * 2, mean, mask=g < groups)
    tl.store(whole + (row * groups + g) * 2 + 1, scale, mask=g < groups)


@triton.jit(do_not_specialize=SIZES)
def _norm_written(
    x,
    add,
    weight,
    bias,
    y,
    whole,
    pixels,
    groups,
    width,
    ADD: constexpr,
    SILU: constexpr,
    LONG: constexpr,
    GB: constexpr,
    WP: constexpr,
):
    """A block of a picture, by what was measured."""
    blocks, program, group = tl.cdiv(pixels, LONG), tl.program_id(0), tl.program_id(1)
    row, first = (program // blocks).to(tl.int64), program % blocks * LONG
    g = group * GB + tl.arange(0, GB)
    mean = tl.load(whole + (row * groups + g) * 2, mask=g < groups, other=0.0)
    scale = tl.load(whole + (row * groups + g) * 2 + 1, mask=g < groups, other=0.0)
    _written(
        x,
        add + row * groups * width,
        weight,
        bias,
        y,
        mean,
        scale,
        row * pixels,
        first,
        pixels,
        group,
        groups,
        width,
        ADD,
        SILU,
        LONG,
        GB,
        WP,
    )


def norm_silu(
    x: Float[Tensor, "b c h w"],
    groups: int,
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    eps: float,
    add: Float[Tensor, "b c"] | None = None,
    silu: bool = True,
) -> Float[Tensor, "b c h w"]:
    """silu(group_norm(x + add[:, :, None, None], groups, weight, bias, eps)), or without the SiLU; channels last.

    Wu & He 2018. Means and variances are taken in float32 about the mean, and nothing is rounded to x's number format
    but the answer.
    """
    rows, channels, height, tall = x.shape
    if groups < 1 or channels % groups:
        raise UserError(f"{channels} channels are not {groups} groups.", "A number that divides the channels.")
    x, y = laid(x), torch.empty_like(x, memory_format=torch.channels_last)
    if y.numel() == 0:
        return y
    pixels, width = height * tall, channels // groups
    long, wide = SMALL_BLOCK if pixels <= SMALL else BLOCK
    padded = triton.next_power_of_2(width)
    size: dict[str, Any] = {"LONG": long, "GB": min(triton.next_power_of_2(groups), max(1, wide // padded))}
    how = size | {"WP": padded, "num_warps": 8, "ADD": add is not None}
    shape, more = (groups, width), x if add is None else add.contiguous()
    across = triton.cdiv(groups, size["GB"])
    if pixels <= SMALL:
        _norm_small[rows, across](x, more, weight, bias, y, pixels, *shape, eps, **how, SILU=silu)
        return y
    length = triton.cdiv(triton.cdiv(pixels, SPLITS), long) * long
    splits = triton.cdiv(pixels, length)
    parts = torch.empty(rows, splits, groups, 2, dtype=torch.float32, device=x.device)
    whole = torch.empty(rows, groups, 2, dtype=torch.float32, device=x.device)
    _norm_parts[rows * splits, across](x, more, parts, pixels, length, splits, *shape, **how)
    _norm_whole[rows, across](parts, whole, pixels, length, splits, groups, width, eps, **size)
    blocks = rows * triton.cdiv(pixels, long)
    _norm_written[blocks, across](x, more, weight, bias, y, whole, pixels, *shape, **how, SILU=silu)
    return y


def laid(x: Tensor) -> Tensor:
    """A picture-shaped tensor, channels last: itself if it is so already."""
    return x.contiguous(memory_format=torch.channels_last)
