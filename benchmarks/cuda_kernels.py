"""Single kernels at Stable Diffusion 1.5's shapes on CUDA, sections of cuda_speed.py: what the floor is made of.

Each is checked against the plain formula in float32 before it is timed, and timed as one of many in a CUDA graph, so
that Python has no part in it. The same inputs again and again: what fits the card's cache is read from there.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from benchmarks.timebox import Box, Row, many, milliseconds, off, share
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from aquatint.base.noise import Noise
from aquatint.families import SD15, TINY, Family
from aquatint.nets.attention import written_out
from aquatint.nets.unet import UNet

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
ATTENTION = ((4096, 4096, 40), (1024, 1024, 80), (256, 256, 160), (64, 64, 160), (4096, 77, 40), (1024, 77, 80))
# rows, inside, outside: the widest and the square products of each resolution, and one that shows the card's rate
PRODUCTS = (
    (8192, 8192, 8192),
    (8192, 320, 2560), (8192, 1280, 320), (8192, 320, 320),
    (2048, 640, 5120), (2048, 2560, 640), (2048, 640, 640),
    (512, 1280, 10240), (512, 5120, 1280), (512, 1280, 1280),
)  # fmt: skip
NORMS = ((2, 320, 64), (2, 640, 64), (2, 960, 64), (2, 640, 32), (2, 1280, 16), (1, 128, 512), (1, 256, 512))


def tried(call: Callable[[], Tensor], want: Tensor | None, device: torch.device) -> tuple[float | None, str]:
    """Milliseconds and the difference from what is wanted; or None and why not."""
    try:
        difference = "" if want is None else f"{off(call(), want)['rms']:.0e}"
        return many(call, device), difference
    except Exception as error:
        return None, f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"


def normal(box: Box, *shape: int, draw: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Random numbers on the device: the first row's of a draw, so no shape is too large for one."""
    rows = Noise(range(shape[0])).normal(shape[1:], draw=draw, device=box.device)
    return rows.to(dtype)


def attention(box: Box, toy: bool) -> Iterator[Row]:
    """torch's backends of attention, 8 heads, two rows, laid out as the U-Net lays them."""
    for queries, keys, width in ATTENTION if not toy else ((16, 16, 8), (16, 7, 8)):
        sizes = (queries, keys, keys)
        q, k, v = (
            normal(box, 2, size, 8 * width, draw=draw).unflatten(2, (8, width)).transpose(1, 2)
            for draw, size in enumerate(sizes)
        )
        want, flop = written_out(q.float(), k.float(), v.float()), 4.0 * 2 * 8 * queries * keys * width
        for name, backend in {"torch's choice": None, **BACKENDS}.items():
            with nullcontext() if backend is None else sdpa_kernel([backend]):
                ms, note = tried(partial(F.scaled_dot_product_attention, q, k, v), want, box.device)
            rate = {} if ms is None else {"us": 1e3 * ms, **share(flop, ms)}
            yield {"attention": f"{queries} x {keys} x {width}", "backend": name, **rate, "rms, or why not": note}


def convolutions(family: Family, side: int) -> Counter[tuple[int, int, int, int]]:
    """(inside, outside, side of the input, stride) of the U-Net's 3x3 convolutions, and how many there are of each."""
    found: Counter[tuple[int, int, int, int]] = Counter()

    def note(part: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        assert isinstance(part, nn.Conv2d)
        if part.kernel_size == (3, 3):
            found[part.in_channels, part.out_channels, given[0].shape[3], part.stride[0]] += 1

    with torch.device("meta"):
        net = UNet(family.unet)
        for part in net.modules():
            if isinstance(part, nn.Conv2d):
                part.register_forward_hook(note)
        net(torch.zeros(1, 4, side, side), torch.zeros(1), torch.zeros(1, 77, family.unet.context))
    return found


def convs(box: Box, toy: bool) -> Iterator[Row]:
    """cuDNN at the distinct 3x3 convolutions of a guided step, the heaviest first."""
    shapes = convolutions(TINY, 8) if toy else convolutions(SD15, 64)

    def flop(shape: tuple[int, int, int, int]) -> float:
        inside, outside, side, stride = shape
        return 2.0 * 2 * 9 * inside * outside * (side // stride) ** 2

    for shape in sorted(shapes, key=lambda shape: -shapes[shape] * flop(shape)):
        inside, outside, side, stride = shape
        x, weight = normal(box, 2, inside, side, side), normal(box, outside, inside, 3, 3, draw=1) / (3 * inside**0.5)
        bias = normal(box, outside, 1, draw=2).flatten()
        want = F.conv2d(x.float(), weight.float(), bias.float(), stride, 1)
        row: dict[str, Any] = {
            "conv": f"{inside} -> {outside} at {side}" + " / 2" * (stride - 1),
            "of a step": shapes[shape],
        }
        for name, last, timed in (("NHWC", True, False), ("NHWC, cuDNN's fastest", True, True), ("NCHW", False, False)):
            layout = torch.channels_last if last else torch.contiguous_format
            y, w = x.to(memory_format=layout), weight.to(memory_format=layout)
            with torch.backends.cudnn.flags(enabled=True, benchmark=timed, deterministic=not timed, allow_tf32=False):
                ms, note = tried(partial(F.conv2d, y, w, bias, stride, 1), want, box.device)
            row |= {f"{name}, us": note if ms is None else 1e3 * ms}
            if ms is not None:
                row |= {f"{name}, TFLOP/s": share(flop(shape), ms)["TFLOP/s"], "rms": note}
        if side // stride <= 16:
            y, w = x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)
            ms, note = tried(partial(ours_convolved, y, w, bias, stride), want, box.device)
            row |= {"ours, split, us": note if ms is None else 1e3 * ms}
        yield row


def products(box: Box, toy: bool) -> Iterator[Row]:
    """Matrix products in bf16 and in fp8 (one scale a tensor, bf16 out), weights as nn.Linear lays them."""
    for rows, inside, outside in PRODUCTS if not toy else ((16, 32, 16),):
        a, b = normal(box, rows, inside), normal(box, outside, inside, draw=1)
        want = a.float() @ b.float().T
        row: dict[str, Any] = {"product": f"{rows} x {inside} x {outside}"}
        one = torch.ones((), device=box.device)
        a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
        fp8 = partial(torch._scaled_mm, a8, b8.T, one, one, out_dtype=torch.bfloat16, use_fast_accum=True)
        for name, call in (("bf16", partial(F.linear, a, b)), ("fp8", fp8)):
            ms, note = tried(call, want, box.device)
            row |= {f"{name}, us": "-" if ms is None else 1e3 * ms, f"{name}, rms or why not": note}
            row |= {} if ms is None else {f"{name}, TFLOP/s": share(2.0 * rows * inside * outside, ms)["TFLOP/s"]}
        yield row


def normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """silu(GroupNorm(x)) over 32 groups."""
    return F.silu(F.group_norm(x, 32, weight, bias))


def ours_normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same by the engine's kernel."""
    from aquatint.engines.triton_norm import norm_silu

    return norm_silu(x, 32, weight, bias, 1e-5)


def ours_convolved(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """A 3x3 convolution by the engine's kernel."""
    from aquatint.engines.triton_kernels import convolved

    return convolved(x, weight, bias, stride)


def norms(box: Box, toy: bool) -> Iterator[Row]:
    """GroupNorm and SiLU, torch's in both layouts and ours: microseconds, and GB/s if each tensor was moved once."""
    for rows, width, side in NORMS if not toy else ((2, 32, 8),):
        x = normal(box, rows, width, side, side)
        weight, bias = normal(box, width, 1, draw=1).flatten(), normal(box, width, 1, draw=2).flatten()
        want = normed(x.float(), weight.float(), bias.float())
        row: dict[str, Any] = {"norm": f"{rows} x {width} x {side} x {side}"}
        ways = (("NCHW", torch.contiguous_format, normed), ("NHWC", torch.channels_last, normed))
        for name, layout, way in (*ways, ("ours", torch.channels_last, ours_normed)):
            y = x.to(memory_format=layout)
            ms, note = tried(partial(way, y, weight, bias), want, box.device)
            row |= {f"{name}, us": note if ms is None else 1e3 * ms}
            row |= {} if ms is None else {f"{name}, GB/s": 4.0 * x.numel() / ms / 1e6, "rms": note}
        yield row


def gaps(box: Box, toy: bool) -> Iterator[Row]:
    """What launches cost: a kernel of one number by itself, in graphs of one, and in one graph of a thousand."""
    x = torch.zeros(1, device=box.device)

    def row() -> None:
        for _ in range(1000):
            x.add_(1)

    yield {"launch": "eager, one of a thousand in a row", "us": milliseconds(row, box.device, budget=0.1, most=10)}
    if box.device.type != "cuda":
        return
    for count in (1, 1000):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(count):
                x.add_(1)
        replays = 1000 // count

        def again(graph: torch.cuda.CUDAGraph = graph, replays: int = replays) -> None:
            for _ in range(replays):
                graph.replay()

        ms = milliseconds(again, box.device, budget=0.1, most=10)
        yield {"launch": f"graphs of {count}, one of a thousand kernels", "us": ms}


def copies(box: Box, toy: bool) -> Iterator[Row]:
    """What memory moves: a large copy, bytes read and written."""
    x = torch.empty(1024 if toy else 2**31, dtype=torch.uint8, device=box.device)
    y = torch.empty_like(x)
    ms = many(lambda: y.copy_(x), box.device)
    yield {"copy": f"{x.numel() / 2**30:.3g} GiB", "ms": ms, "GB/s": 2 * x.numel() / ms / 1e6}


SECTIONS = {
    "attention": attention,
    "convolutions": convs,
    "products": products,
    "norms": norms,
    "launches": gaps,
    "copies": copies,
}
