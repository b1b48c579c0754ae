"""Samples a second and core of the loader: read, check, decode, cut; and of each part by itself.

    python benchmarks/loader.py --count 200 --size 1024 --seconds 10

Pictures of smooth colours are made and prepared first, as JPEG of quality 90. One thread; the system's cache is warm.
"""

import argparse
import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from aquatint.base import images
from aquatint.base.noise import Noise
from aquatint.training.data.buckets import shapes
from aquatint.training.data.examine import Settings
from aquatint.training.data.loader import Loader, decoded
from aquatint.training.data.prepare import prepare
from aquatint.training.data.prepared import Prepared
from aquatint.training.recipe import Moment


def pictures(folder: Path, count: int, size: int) -> None:
    """Coloured clouds with some grain."""
    folder.mkdir()
    for number in range(count):
        pixels = Noise([1], [number]).integers((24, 24, 3), 256)[0].numpy().astype(np.uint8)
        shape = (size, size * 3 // 4) if number % 2 else (size * 3 // 4, size)
        Image.fromarray(pixels).resize(shape, Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)
        (folder / f"{number:05}.txt").write_text(f"clouds {number}")


def rate(work: Callable[[int], object], seconds: float) -> float:
    """Calls a second."""
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        work(done)
        done += 1
    return done / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        pictures(Path(root) / "in", given.count, given.size)
        began = time.perf_counter()
        prepare([Path(root) / "in"], Path(root) / "set", Settings())
        made = given.count / (time.perf_counter() - began)
        data = Prepared(Path(root) / "set")
        count, among = len(data), shapes(512 * 512)
        samples = [data.read(number) for number in range(min(count, 50))]
        shown = [decoded(sample) for sample in samples]
        size = sum(len(sample.picture) for sample in samples) / len(samples)
        loader = Loader(data, among, batch=1)
        rows = {
            "prepare, whole": made,
            "read and check": rate(lambda n: data.read(n % count), given.seconds),
            "sha256 alone": rate(lambda n: hashlib.sha256(samples[n % len(samples)].picture).digest(), given.seconds),
            "decode": rate(lambda n: images.rgb(images.decode(samples[n % len(samples)].picture)), given.seconds),
            "cut to a bucket": rate(
                lambda n: ImageOps.fit(shown[n % len(shown)], among[len(among) // 2], Image.Resampling.LANCZOS),
                given.seconds,
            ),
            "loader, whole": rate(lambda n: loader.batch(Moment(n, 0.0)), given.seconds),
        }
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    print(f"{count} pictures, longer side {given.size}, {size / 1000:.0f} kB each; samples a second on one thread")
    for name, value in rows.items():
        print(f"| {name} | {value:,.0f} |")


if __name__ == "__main__":
    main()
