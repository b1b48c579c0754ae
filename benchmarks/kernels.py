"""The CPU kernels at Stable Diffusion 1.5's shapes, against torch's own: least and median of interleaved calls.

    python benchmarks/kernels.py                             # one thread, this processor's best instruction set
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/kernels.py --isa 1     # both held to AVX2
    python benchmarks/kernels.py --threads 2 --only 320@64 512@128 norms together

Ratios are of the least times, which other processes disturb least. GF: the products' operations (Winograd's are 4 or
2.25 times fewer) a second of the whole call; `peak` is what torch's product of two large matrices reaches. Errors are
relative, rms, against float64, of the upper quarter of one picture.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.base import runtime
from aquatint.base.noise import Noise
from aquatint.engines import cpu
from aquatint.engines.kernels.attend import attend
from aquatint.engines.kernels.conv import Winograd
from aquatint.engines.kernels.library import chosen
from aquatint.engines.kernels.norm import norm_silu

CONVOLUTIONS = {  # count, inside, outside, side
    "320@64": (2, 320, 320, 64),
    "640@32": (2, 640, 640, 32),
    "1280@16": (2, 1280, 1280, 16),
    "1280@8": (2, 1280, 1280, 8),
    "1920-640@32": (2, 1920, 640, 32),
    "2560-1280@16": (2, 2560, 1280, 16),
    "4-320@64": (2, 4, 320, 64),
    "320-4@64": (2, 320, 4, 64),
    "512@64": (1, 512, 512, 64),
    "512@128": (1, 512, 512, 128),
    "256@256": (1, 256, 256, 256),
    "128@512": (1, 128, 128, 512),
    "128-3@512": (1, 128, 3, 512),
}
NORMS = {"320@64": (2, 320, 64), "1280@16": (2, 1280, 16), "512@128": (1, 512, 128), "128@512": (1, 128, 512)}
PRODUCTS = (
    (8192, 320, 2560), (8192, 1280, 320), (8192, 320, 320), (2048, 640, 5120), (2048, 2560, 640), (512, 1280, 10240),
    (512, 5120, 1280), (128, 1280, 10240), (154, 768, 1280),
)  # fmt: skip
ATTENTIONS = (
    (2, 8, 4096, 4096, 40), (2, 8, 1024, 1024, 80), (2, 8, 256, 256, 160), (2, 8, 4096, 77, 40),
    (1, 1, 4096, 4096, 512),
)  # fmt: skip
Calls = Mapping[str, Callable[[], Tensor]]


def picture(count: int, channels: int, side: int) -> Tensor:
    """Random numbers, channels last."""
    return Noise(range(count)).normal((channels, side, side)).contiguous(memory_format=torch.channels_last)


def timed(calls: Calls, seconds: float) -> dict[str, tuple[float, float]]:
    """Least and median milliseconds of each, all in turn until the time is over, five times at least."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for turn in range(10_000):
        if turn > 5 and time.perf_counter() > end:
            break
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            taken[name].append(1e3 * (time.perf_counter() - began))
    return {name: (min(times[1:]), statistics.median(times[1:])) for name, times in taken.items()}


def convolution(name: str, options: argparse.Namespace) -> None:
    """A row a way of one shape."""
    count, inside, outside, side = CONVOLUTIONS[name]
    x = picture(count, inside, side)
    weight = Noise(range(outside)).normal((inside, 3, 3), draw=1) / (3 * inside**0.5)
    weight, bias = weight.contiguous(memory_format=torch.channels_last), Noise([0]).normal((outside,), draw=2)[0]
    part = x[:1, :, : max(side // 4, 8)]
    want = F.conv2d(part.double(), weight.double(), bias.double(), padding=1)
    layers = {f"F{tile}": Winograd(weight, bias, tile, isa=options.isa) for tile in options.tiles}
    calls = {"torch": lambda: F.conv2d(x, weight, bias, padding=1)}
    calls |= {way: lambda layer=layer: layer(x, threads=options.threads) for way, layer in layers.items()}
    times = timed(calls, options.seconds)
    for way, (least, median) in times.items():
        saved = {"torch": 1.0, "F2": 2.25, "F4": 4.0}[way]
        rate = 2e-6 * count * side**2 * 9 * inside * outside / saved / least
        got = F.conv2d(part, weight, bias, padding=1) if way == "torch" else layers[way](part)
        error = ((got - want).norm() / want.norm()).item()
        ratio = times["torch"][0] / least
        print(f"| {name} | {way} | {least:.1f} | {median:.1f} | {ratio:.2f} | {rate:.0f} | {error:.1e} |", flush=True)


def norms(options: argparse.Namespace) -> None:
    """GroupNorm and SiLU."""
    for name, shape in NORMS.items():
        x, weight, bias = picture(*shape), torch.ones(shape[1]), torch.zeros(shape[1])
        calls: Calls = {
            "torch": lambda x=x, w=weight, b=bias: F.silu(F.group_norm(x, 32, w, b, 1e-5)),
            "ours": lambda x=x, w=weight, b=bias: norm_silu(
                x, 32, w, b, 1e-5, threads=options.threads, isa=options.isa
            ),
        }
        times = timed(calls, options.seconds)
        for way, (least, median) in times.items():
            print(
                f"| norm {name} | {way} | {least:.2f} | {median:.2f} | {times['torch'][0] / least:.2f} | | |",
                flush=True,
            )


def products(options: argparse.Namespace) -> None:
    """Products with weights, as torch's linear layers make them (MKL) and as 1x1 convolutions (oneDNN)."""
    for rows, inside, outside in PRODUCTS:
        x = Noise([0]).normal((rows, inside))
        layer = nn.Linear(inside, outside)
        nn.init.normal_(layer.weight, std=inside**-0.5)
        ours = copy.deepcopy(layer)
        cpu.prepare(ours)
        times = timed({"torch": lambda: layer(x), "1x1": lambda: ours(x)}, options.seconds)  # noqa: B023
        want = x.double() @ layer.weight.double().T + layer.bias.double()
        for way, (least, median) in times.items():
            error = (((layer if way == "torch" else ours)(x) - want).norm() / want.norm()).item()
            rate, ratio = 2e-6 * rows * inside * outside / least, times["torch"][0] / least
            name = f"product {rows} x {inside}-{outside}"
            print(
                f"| {name} | {way} | {least:.2f} | {median:.2f} | {ratio:.2f} | {rate:.0f} | {error:.1e} |", flush=True
            )


def attentions(options: argparse.Namespace) -> None:
    """Attention of two pictures with 8 heads, and of the decoder's one."""
    for pictures, heads, queries, keys, width in ATTENTIONS:
        q, k, v = (
            Noise(range(pictures)).normal((length, heads, width), draw=draw).transpose(1, 2)
            for draw, length in enumerate((queries, keys, keys))
        )
        calls: Calls = {
            "torch": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),
            "ours": lambda q=q, k=k, v=v: attend(q, k, v, threads=options.threads, isa=options.isa),
        }
        times = timed(calls, options.seconds)
        want = F.scaled_dot_product_attention(q[:, :, :64].double(), k.double(), v.double())
        for way, (least, median) in times.items():
            error = ((calls[way]()[:, :, :64] - want).norm() / want.norm()).item()
            rate, ratio = 4e-6 * pictures * heads * queries * keys * width / least, times["torch"][0] / least
            name = f"attention {queries} of {keys}, {width} wide"
            print(
                f"| {name} | {way} | {least:.2f} | {median:.2f} | {ratio:.2f} | {rate:.0f} | {error:.1e} |", flush=True
            )


def packing(options: argparse.Namespace) -> None:
    """Transforming weights into memory that was used before, which a convolution that keeps nothing does."""
    weight, size = Noise(range(1280)).normal((1280, 3, 3)), 0
    runtime.keep_pages()
    for layout in (torch.contiguous_format, torch.channels_last):
        laid = weight.contiguous(memory_format=layout)
        made = timed(
            {"": lambda laid=laid: Winograd(laid, isa=options.isa, threads=options.threads).packed}, options.seconds
        )
        size, (least, median) = Winograd.bytes_of(laid, 4), made[""]
        rate = 1e-6 * size / least
        print(f"| transform 1280-1280, {layout} | F4 | {least:.1f} | {median:.1f} | {rate:.1f} GB/s | | |", flush=True)


def together(options: argparse.Namespace) -> None:
    """Whether torch's threads and ours stand in each other's way: both alternating, against each on its own."""
    x, weight = picture(2, 320, 64), Noise(range(320)).normal((320, 3, 3), draw=1) / 54
    left = Noise([0, 1]).normal((1024, 1024), draw=3)
    layer = Winograd(weight, isa=options.isa)
    calls: Calls = {"product": lambda: left[0] @ left[1], "convolution": lambda: layer(x, threads=options.threads)}
    for way, some in {"alone": [{name: calls[name]} for name in calls], "in turn": [calls]}.items():
        for each in some:
            for name, (least, median) in timed(each, options.seconds).items():
                print(f"| {name} {way} | {options.threads} threads | {least:.1f} | {median:.1f} | | | |", flush=True)


OTHERS = {"norms": norms, "products": products, "attentions": attentions, "packing": packing, "together": together}


def peak(seconds: float) -> float:
    """GF of torch's product of two large matrices."""
    a = Noise([0, 1]).normal((1536, 1536), draw=4)
    return 2e-6 * 1536**3 / timed({"": lambda: a[0] @ a[1]}, seconds)[""][0]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", type=int, help="0 portable, 1 AVX2, 2 AVX-512; the best if not given")
    parser.add_argument("--tiles", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row's calls")
    parser.add_argument("--only", nargs="*", default=[*CONVOLUTIONS, *OTHERS])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} threads, instruction set {chosen(options.isa)}, "
        f"peak {peak(options.seconds):.0f} GF\n\n"
        "| shape | way | least ms | median ms | torch's least / least | GF | error |\n|---|---|---|---|---|---|---|"
    )
    with torch.no_grad():
        for name in options.only:
            if name in CONVOLUTIONS:
                convolution(name, options)
            else:
                OTHERS[name](options)


if __name__ == "__main__":
    main()
