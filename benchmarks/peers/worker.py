"""What every side's process shares: how it is asked, what it answers, and what it paints. Standard library and numpy.

A process is started as `python -m benchmarks.peers.with_NAME FOLDER SIZE THREADS STEPS`, says "ready" when it could
paint, and then answers every line (the name of a piece) with JSON: {"seconds": {piece: s}, "peak": GiB}, or for "check"
{"numbers": [...]}. What libraries print on the standard output goes to the log instead.
"""

import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

PROMPT, NEGATIVE, SEED = "a photograph of a red fox in fresh snow, early morning light", "blurry, low quality", 7
GUIDANCE, SAMPLER = 7.5, "euler"
PIECES = ("picture", "guided step", "text", "decode", "encode")
Work = Mapping[str, Callable[[], object]]  # a piece that times itself answers a dict of seconds by piece


@dataclass(frozen=True)
class Asked:
    """What a process was started for: side in pixels, steps of a picture; out is where it answers."""

    folder: Path
    size: int
    threads: int
    steps: int
    more: tuple[str, ...]
    out: IO[str]


@dataclass(frozen=True)
class Given:
    """The same inputs for all: latents [1, 4, h, w], text [2, 77, 768], pixels [1, h, w, 3] in bytes."""

    x: Any
    told: Any
    pixels: Any


def given(size: int) -> Given:
    """Random numbers, by a generator that every environment has."""
    import numpy as np

    random = np.random.default_rng(SEED)
    x = random.standard_normal((1, 4, size // 8, size // 8), np.float32)
    told = random.standard_normal((2, 77, 768), np.float32)
    return Given(x, told, random.integers(0, 256, (1, size, size, 3), np.uint8))


def started() -> Asked:
    """What the command line says; from now on the standard output is ours alone."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    folder, size, threads, steps, *more = sys.argv[1:]
    return Asked(Path(folder), int(size), int(threads), int(steps), tuple(more), out)


def serve(asked: Asked, work: Work) -> None:
    """Say that all is ready, and do what is asked until the input ends."""
    print("ready", file=asked.out)
    for line in sys.stdin:
        piece = line.strip()
        began = time.perf_counter()
        told = work[piece]()
        if piece == "check":
            print(json.dumps({"numbers": told}), file=asked.out)
            continue
        seconds = told if isinstance(told, dict) else {piece: time.perf_counter() - began}
        print(json.dumps({"seconds": seconds, "peak": peak()}), file=asked.out)


def peak() -> float:
    """The most memory that this process had at a time, in GiB, mapped files included.

    ru_maxrss begins with the memory of whoever started the process; Linux's VmHWM does not.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)


def sample(*arrays: Any) -> list[float]:
    """A few hundred numbers of each array, by which results are compared."""
    return [float(x) for array in arrays for x in array.reshape(-1)[:: max(1, array.size // 256)]]


def levels(steps: int) -> list[tuple[float, float]]:
    """(time, sigma / alpha) of Euler's steps over SD 1.5's schedule, evenly spread from 999 to 0, and a clean end."""
    import numpy as np

    kept = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    times = np.linspace(999, 0, steps)
    ratios = np.interp(times, np.arange(1000), np.sqrt((1 - kept) / kept))
    return [*zip(times.tolist(), ratios.tolist(), strict=True), (0.0, 0.0)]


class Parts:
    """A picture and its pieces from four nets that take and give arrays, for runtimes that bring no pipeline.

    nets   "text", "unet", "decoder", "encoder": float32 arrays (ids: int64) by name -> one array
    """

    def __init__(self, nets: Mapping[str, Callable[..., Any]], asked: Asked, picture: str) -> None:
        from tokenizers import Tokenizer

        self.nets, self.asked, self.picture = nets, asked, asked.folder / picture
        self.tokenizer = Tokenizer.from_file(str(asked.folder / "tokenizer.json"))
        self.given = given(asked.size)

    def text(self) -> Any:
        """Negative and prompt -> what the U-Net is told, [2, 77, 768]."""
        import numpy as np

        ids = np.array([row.ids for row in self.tokenizer.encode_batch([NEGATIVE, PROMPT])], np.int64)
        return self.nets["text"](ids=ids)

    def guided(self, x: Any, now: float, told: Any) -> Any:
        """eps of a guided step, both rows in one batch."""
        import numpy as np

        without, with_ = self.nets["unet"](x=np.concatenate([x, x]), t=np.array(now, np.float32), told=told)
        return (without + GUIDANCE * (with_ - without))[None]

    def decode(self, x: Any) -> Any:
        """Latents -> bytes [h, w, 3]."""
        import numpy as np

        pixels = self.nets["decoder"](x=x)[0].transpose(1, 2, 0)
        return np.rint(np.clip(pixels * 127.5 + 127.5, 0, 255)).astype(np.uint8)

    def encode(self) -> Any:
        """Bytes -> latents."""
        import numpy as np

        pixels = self.given.pixels.transpose(0, 3, 1, 2).astype(np.float32)
        return self.nets["encoder"](x=pixels / np.float32(127.5) - 1)

    def paint(self) -> None:
        """Prompt -> PNG, by Euler's method."""
        import numpy as np
        from PIL import Image

        told, visited = self.text(), levels(self.asked.steps)
        x = self.given.x * np.float32((visited[0][1] ** 2 + 1) ** 0.5)
        for (now, ratio), (_, after) in pairwise(visited):
            x = x + np.float32(after - ratio) * self.guided(x / np.float32((ratio**2 + 1) ** 0.5), now, told)
        if not np.isfinite(x).all():
            raise ValueError("the latents are not finite")
        Image.fromarray(self.decode(x)).save(self.picture)

    def work(self) -> Work:
        """The pieces."""
        x, told = self.given.x, self.given.told
        return {
            "picture": self.paint,
            "guided step": lambda: self.guided(x, 500.0, told),
            "text": self.text,
            "decode": lambda: self.decode(x),
            "encode": self.encode,
            "check": lambda: sample(self.guided(x, 500.0, told), self.nets["decoder"](x=x), self.encode(), self.text()),
        }
