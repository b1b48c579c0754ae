"""The work of each piece, and what this machine could do it at: prints {"rate": FLOP/s, "flop": {"piece size": FLOP}}.

    python -m benchmarks.peers.floor THREADS STEPS toy|whole SIZE ...

A floor is FLOP / rate: the time of the multiplications alone, counted as direct convolution does them (2 a
multiply-add, attention's products included), at the rate that torch's product of two float32 matrices of 2048 x 2048
reaches at best here. Winograd's algorithm multiplies less, so that a share of the floor above 100 % is possible.
"""

import json
import sys
import time

import torch
from benchmarks.peers.models import family_of
from benchmarks.timebox import flop_of

from aquatint.families import Family
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.text import TextEncoder
from aquatint.nets.unet import UNet

SIDE, SECONDS = 2048, 3.0


def rate(threads: int) -> float:
    """FLOP a second of the best of the products that fit into some seconds."""
    torch.set_num_threads(threads)
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn((2, SIDE, SIDE), generator=draw)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * SIDE**3 / best


def flop(family: Family, size: int, steps: int) -> dict[str, float]:
    """Of each piece at one size."""
    side = size // 8
    with torch.device("meta"):
        x, told = torch.zeros(2, 4, side, side), torch.zeros(2, 77, family.unet.context)
        ids, pixels = torch.zeros(2, 77, dtype=torch.int64), torch.zeros(1, 3, size, size)
    found = {
        "guided step": flop_of(lambda net: net(x, x[:, 0, 0, 0], told), UNet, family.unet),
        "text": flop_of(lambda net: net(ids), TextEncoder, family.text),
        "decode": flop_of(lambda net: net.decode(x[:1]), Autoencoder, family.autoencoder),
        "encode": flop_of(lambda net: net.encode(pixels), Autoencoder, family.autoencoder),
    }
    return {"picture": steps * found["guided step"] + found["text"] + found["decode"], **found}


def main() -> None:
    """Count, measure, print."""
    threads, steps, kind, *sizes = sys.argv[1:]
    family = family_of(kind == "toy")
    counted = {
        f"{piece} {size}": value for size in sizes for piece, value in flop(family, int(size), int(steps)).items()
    }
    print(json.dumps({"rate": rate(int(threads)), "flop": counted}))


if __name__ == "__main__":
    main()
