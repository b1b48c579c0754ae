"""Scenes rendered once and put into words several times: pictures and token ids in two files that any stage reads.

A GPU takes pictures faster than one process draws them; with a pool it never waits for any.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from aquatint.base import files, images
from aquatint.nets.tokenizer import Tokenizer
from aquatint.training.data.captions import caption
from aquatint.training.data.render import render
from aquatint.training.data.scenes import WORDS, Draws, Scene

Describe = Callable[
    [range], list[Scene]
]  # numbers -> their scenes; a function of a module, for other processes call it
PICTURES, IDS, READY = "pictures.npy", "ids.npy", "pool.json"
CHUNK = 128  # scenes a task


@dataclass(frozen=True)
class Pool:
    """Scenes 0 ... n-1: pictures, and `k` wordings of each as CLIP's token ids. No caption is empty."""

    pictures: UInt8[Tensor, "n s s 3"]
    ids: Int[Tensor, "n k 77"]  # int16: a pocket vocabulary is small

    @staticmethod
    def open(folder: Path, device: torch.device | str = "cpu") -> "Pool":
        """What `make` wrote; mapped from the files on the CPU, copied whole to any other device."""
        given = (torch.from_numpy(np.load(folder / name, mmap_mode="c")) for name in (PICTURES, IDS))
        return Pool(*(tensor.to(device) for tensor in given))

    def __len__(self) -> int:
        return len(self.pictures)

    def whole(self, rows: Int[Tensor, " b"]) -> Float[Tensor, "b 3 s s"]:
        """The pictures of these rows, in [-1, 1]."""
        return images.from_bytes(self.pictures[rows].permute(0, 3, 1, 2)).contiguous()

    def crops(self, rows: Int[Tensor, " b"], corners: Int[Tensor, "b 2"], side: int) -> Float[Tensor, "b 3 c c"]:
        """A square of `side` pixels of each row's picture, from its corner (y, x) on; in [-1, 1]."""
        reach = torch.arange(side, device=rows.device)
        y, x = (corners[:, i, None] + reach for i in (0, 1))
        return images.from_bytes(self.pictures[rows[:, None, None], y[:, :, None], x[:, None, :]]).permute(0, 3, 1, 2)


def make(
    folder: Path,
    describe: Describe,
    words: Path,
    count: int,
    *,
    seed: int,
    side: int,
    wordings: int = 8,
    complete: float = 0.7,
    workers: int | None = None,
) -> None:
    """Write a pool of `count` scenes: wording k of scene i is a function of (seed, i, k), whoever draws it.

    words     folder of the tokenizer        side      of the pictures, px
    complete  share of captions that name everything
    workers   processes that draw; as many as there are processors if None
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / READY).unlink(missing_ok=True)
    length = Tokenizer.from_folder(words).length
    for name, kind, shape in ((PICTURES, np.uint8, (side, side, 3)), (IDS, np.int16, (wordings, length))):
        np.lib.format.open_memmap(folder / name, "w+", kind, (count, *shape)).flush()
    ranges = [range(first, min(count, first + CHUNK)) for first in range(0, count, CHUNK)]
    draw = partial(_draw, folder, describe, words, seed, complete)
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=context) as processes:
        for _ in processes.map(draw, ranges):
            pass
    files.write(folder / READY, json.dumps({"scenes": count, "seed": seed}))


def _draw(folder: Path, describe: Describe, words: Path, seed: int, complete: float, numbers: range) -> None:
    """Render and word some scenes, each into its place in the files."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_folder(words)
    pictures, ids = (np.load(folder / name, mmap_mode="r+") for name in (PICTURES, IDS))
    wordings = ids.shape[1]
    for number, scene in zip(numbers, describe(numbers), strict=True):
        pictures[number] = render(scene, pictures.shape[1])
        draws = (Draws(seed, number * wordings + k, WORDS) for k in range(wordings))
        ids[number] = tokenizer([caption(scene, each, complete, 0.0) for each in draws]).numpy()
