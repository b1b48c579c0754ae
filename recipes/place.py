"""Where the stages of the pocket model work, and how much a machine is given to do."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from aquatint.training import parallel
from aquatint.training.data.pool import READY, Pool
from aquatint.training.recipe import Length


@dataclass(frozen=True)
class Scale:
    """What a machine can do: how many scenes it renders, its batches, its minutes.

    alike   scenes that differ in little but the object, for alignment
    crops   (side in px, pictures a step) of the autoencoder's three phases, the last one of whole pictures
    lessons, drawers   pictures a step of the detector's training, and processes that draw them
    """

    scenes: int
    alike: int
    pairs: int
    crops: tuple[tuple[int, int], ...]
    batch: int
    minutes: Mapping[str, float]
    dtype: str = "float32"
    lessons: int = 16
    drawers: int = 1


GPU = Scale(100_000, 24_000, 512, ((64, 128), (128, 48), (256, 16)), 256,
            {"alignment": 0.75, "autoencoder": 1.8, "unet": 6.5, "detector": 5.0}, "bfloat16", 64, 6)  # fmt: skip
CPU = Scale(60_000, 6_000, 64, ((32, 64), (64, 16), (256, 4)), 32,
            {"alignment": 20.0, "autoencoder": 60.0, "unet": 400.0, "detector": 20.0})  # fmt: skip
TOY = Scale(
    64, 32, 16, ((32, 4), (64, 2), (256, 2)), 4, {"alignment": 0.05, "autoencoder": 0.2, "unet": 0.2, "detector": 0.2}
)


def machine() -> torch.device:
    """This process's device; its processors shared with the other processes, its products in TF32 where it has them."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // parallel.join().world))
    torch.set_float32_matmul_precision("high")  # alignment's nets compute in float32; TF32 is enough
    torch.backends.cudnn.benchmark = True
    return parallel.device()


@dataclass(frozen=True)
class Place:
    """Where a stage works: the run's folder, the pool's, the device, its scale, when it ends, what it may do."""

    out: Path
    pool: Path
    device: torch.device
    scale: Scale
    minutes: float
    wait: bool = False
    until: float = 0.0
    compile: bool = False

    def length(self) -> Length:
        """The stage's minutes, or those left until the hour that was set."""
        return Length(minutes=max(0.01, (self.until - time.time()) / 60) if self.until else self.minutes)

    def after(self, path: Path) -> Path:
        """What another stage writes; waits for it if told so."""
        while self.wait and not path.exists():
            time.sleep(0.5)
        return path

    def scenes(self, name: str = "scenes", device: torch.device | str | None = None) -> Pool:
        """A pool, on the stage's device if no other is named."""
        return Pool.open(self.after(self.pool / name / READY).parent, device or self.device)
