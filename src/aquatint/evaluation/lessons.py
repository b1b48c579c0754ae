"""How the detector learns: renders, spoilt the way that models spoil pictures, and the truth about each."""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from aquatint.base.images import from_bytes
from aquatint.evaluation.detector import GRID, SIDE, Classes, Detector, Maps
from aquatint.training.data.render import render
from aquatint.training.data.scenes import DAMAGE, Draws, Scene, scene
from aquatint.training.data.world import World

Autoencode = Callable[[UInt8[np.ndarray, "n h w 3"]], UInt8[np.ndarray, "n h w 3"]]
SEED = 77_001  # of the detector's scenes; the model's and the prompts' are others
MIX = {"single": 0.25, "placed": 0.35, "pair": 0.2, "count": 0.2}
THINGS = {"subject": 0.5, "shape": 0.5}  # small shapes of like outline are what it learns last
SCRAMBLED = 0.4  # of the lessons with one subject, 5 % of all, are shuffled: else any blotch would pass for a thing
TILES = 8
AUTOENCODED = 8  # one lesson in so many goes through the autoencoder, the slowest part of a lesson


def lesson(
    world: World, indices: Iterable[int], autoencode: Autoencode | None = None, seed: int = SEED
) -> tuple[Float[Tensor, "n 3 128 128"], list[Scene | None]]:
    """(pictures in [-1, 1], scenes) of these numbers; None in place of a scene: the picture shows no object.

    One picture in AUTOENCODED goes through `autoencode` if it is given. All are then spoilt: blur, grain, blotches, and
    changes of brightness, contrast and saturation, each at random and each too small to change a colour's name.
    """
    return spoilt(drawn(world, indices, seed), autoencode)


class Drawn(NamedTuple):
    """Renders before they are spoilt, their scenes (None: shuffled, no thing to be seen), and each one's chance."""

    pictures: UInt8[np.ndarray, "n 128 128 3"]
    scenes: list[Scene | None]
    draws: list[Draws]


def drawn(world: World, indices: Iterable[int], seed: int = SEED) -> Drawn:
    """The lessons with these numbers as they were rendered; what other processes may do ahead."""
    numbers = list(indices)
    draws = [Draws(seed, index, DAMAGE) for index in numbers]
    scenes: list[Scene | None] = []
    pictures = np.empty((len(numbers), SIDE, SIDE, 3), np.uint8)
    for row, index in enumerate(numbers):
        found = scene(replace(world, things=THINGS), seed, index, kinds=MIX, held=None)
        pictures[row] = render(found, SIDE)
        shuffled = found.kind == "single" and found.things[0].kind == "subject" and draws[row].uniform() < SCRAMBLED
        if shuffled:
            pictures[row] = scrambled(pictures[row], draws[row])
        scenes.append(None if shuffled else found)
    return Drawn(pictures, scenes, draws)


def spoilt(
    lesson: Drawn, autoencode: Autoencode | None = None
) -> tuple[Float[Tensor, "n 3 128 128"], list[Scene | None]]:
    """One picture in AUTOENCODED through the autoencoder, then all damaged."""
    pictures, scenes, draws = lesson
    if autoencode is not None:
        pictures[::AUTOENCODED] = autoencode(pictures[::AUTOENCODED])
    x = from_bytes(torch.from_numpy(pictures).permute(0, 3, 1, 2)).contiguous()
    return torch.stack([_spoilt(picture, d) for picture, d in zip(x, draws, strict=True)]), scenes


def ahead(world: World, batch: int, seed: int, workers: int) -> Generator[Drawn]:
    """Batches 0, 1, 2 ... without end, drawn here or by `workers` other processes: the same lessons either way."""
    batches = (range(step * batch, (step + 1) * batch) for step in count())
    if not workers:
        for numbers in batches:
            yield drawn(world, numbers, seed)
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, mp_context=context) as processes:
        waiting = deque(processes.submit(drawn, world, next(batches), seed) for _ in range(4 * workers))
        try:
            while True:
                yield waiting.popleft().result()
                waiting.append(processes.submit(drawn, world, next(batches), seed))
        finally:
            for task in waiting:
                task.cancel()


def scrambled(picture: UInt8[np.ndarray, "h w 3"], draws: Draws) -> UInt8[np.ndarray, "h w 3"]:
    """The picture's tiles, TILES by TILES, in another order: the same colours and textures, but no thing."""
    n, tile = TILES, len(picture) // TILES
    tiles = picture.reshape(n, tile, n, tile, 3).swapaxes(1, 2).reshape(n * n, tile, tile, 3)
    order = np.argsort([draws.uniform() for _ in tiles])
    return tiles[order].reshape(n, n, tile, tile, 3).swapaxes(1, 2).reshape(picture.shape)


def _spoilt(x: Float[Tensor, "3 h w"], draws: Draws) -> Float[Tensor, "3 h w"]:
    blur = draws.choice((0, 0, 1, 2, 3))
    if blur:
        small = F.interpolate(x[None], scale_factor=1 / (1 + 0.6 * blur), mode="bilinear", antialias=True)
        x = F.interpolate(small, x.shape[1:], mode="bilinear")[0]
    grey = x.mean(0, keepdim=True)
    x = grey + draws.uniform(0.8, 1.15) * (x - grey)
    x = draws.uniform(0.88, 1.12) * x + draws.uniform(-0.08, 0.08)
    strengths = [draws.uniform(0.0, most) if draws.below(2) else 0.0 for most in (0.25, 0.22)]
    for strength, cells in zip(strengths, (SIDE, draws.choice((8, 16, 32))), strict=True):
        if strength:
            bytes_ = draws.bytes(3 * cells * cells).reshape(1, 3, cells, cells)
            noise = torch.from_numpy(bytes_.astype(np.float32)) / 127.5 - 1.0
            if cells != SIDE:
                noise = F.interpolate(noise, x.shape[1:], mode="bilinear")
            x = x + strength * noise[0]
    return x.clamp(-1.0, 1.0)


class Truth:
    """Targets for one batch: Gaussian heat maps, the list of centres, and background labels."""

    def __init__(self, classes: Classes, scenes: list[Scene | None]) -> None:
        self.heat = torch.zeros(len(scenes), len(classes.things), GRID, GRID)
        cells: list[tuple[int, int, int]] = []
        places: list[tuple[float, float, float]] = []
        colours: list[int] = []
        rows: list[tuple[int, int, int, int]] = []  # picture, painted (0: none), top, bottom
        grid = torch.arange(GRID) + 0.5
        for index, drawn in enumerate(scenes):
            if drawn is None:
                continue
            for thing in drawn.things:
                column, row = (min(int(at * GRID), GRID - 1) for at in (thing.x, thing.y))
                spread = max(0.7, 0.12 * thing.side * GRID)
                bump = torch.exp(-((grid - column - 0.5) ** 2)[None] / (2 * spread**2)) * torch.exp(
                    -((grid - row - 0.5) ** 2)[:, None] / (2 * spread**2)
                )
                target = self.heat[index, classes.things.index(thing.word)]
                target.copy_(torch.maximum(target, bump))
                cells.append((index, row, column))
                places.append((thing.x * GRID - column, thing.y * GRID - row, math.log(thing.side)))
                colours.append(-1 if thing.colour is None else classes.colours.index(thing.colour))
            back = drawn.background
            if back.kind == "painted":
                rows.append((index, 1 + classes.painted.index(back.words[0]), -1, -1))
            else:
                rows.append((index, 0, classes.grounds.index(back.words[0]), classes.grounds.index(back.words[-1])))
        self.cells = torch.tensor(cells).T
        self.places, self.colours, self.rows = torch.tensor(places), torch.tensor(colours), torch.tensor(rows).T

    def to(self, device: torch.device | str) -> "Truth":
        """The same truth, on a device."""
        for name, value in vars(self).items():
            setattr(self, name, value.to(device))
        return self


def losses(maps: Maps, truth: Truth) -> Mapping[str, Tensor]:
    """The four losses by name; heat is the penalty-reduced focal loss of Zhou et al. (2019), eq. 1."""
    heat, there = maps.heat.sigmoid().clamp(1e-4, 1 - 1e-4), truth.heat == 1.0
    hit = ((1 - heat) ** 2 * heat.log())[there].sum()
    miss = ((1 - truth.heat) ** 4 * heat**2 * (1 - heat).log())[~there].sum()
    index, row, column = truth.cells
    picture, painted, top, bottom = truth.rows
    coloured = maps.colour[index, :, row, column]
    return {
        "heat": -(hit + miss) / there.sum(),
        "colour": F.cross_entropy(coloured, truth.colours, ignore_index=-1),
        "place": F.l1_loss(maps.place[index, :, row, column], truth.places),
        "ground": F.cross_entropy(maps.scene[picture], painted)
        + F.cross_entropy(maps.top[picture], top, ignore_index=-1)
        + F.cross_entropy(maps.bottom[picture], bottom, ignore_index=-1),
    }


def train_detector(
    world: World,
    path: str | Path,
    *,
    steps: int = 4200,
    minutes: float | None = None,
    batch: int = 16,
    rate: float = 3e-3,
    autoencode: Autoencode | None = None,
    seed: int = SEED,
    workers: int = 0,
    device: torch.device | str = "cpu",
    report: Callable[[str], None] = print,
) -> Detector:
    """Train a detector of the world from nothing and write it to `path`.

    The same arguments (workers aside) give the same file on the same machine and torch, unless `minutes` cuts the run
    short (the learning rate then falls by the clock). AdamW under one cosine; the weights kept are their running
    average.
    """
    detector = Detector(Classes.of(world))
    detector.start(seed)
    detector.to(device)
    optimiser = torch.optim.AdamW(detector.parameters(), lr=rate, weight_decay=1e-3)
    began, step, progress = time.monotonic(), 0, 0.0
    average = {name: value.clone() for name, value in detector.parts().items()}
    lessons = ahead(world, batch, seed, workers)
    while progress < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        pictures, scenes = spoilt(next(lessons), autoencode)
        parts = losses(detector.train()(pictures.to(device)), Truth(detector.classes, scenes).to(device))
        optimiser.zero_grad()
        torch.stack([*parts.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimiser.step()
        keep = min(0.995, (1 + step) / (10 + step))
        for name, value in detector.parts().items():
            average[name].lerp_(value.detach(), 1.0 - keep)
        step += 1
        progress = step / steps
        if minutes is not None:
            progress = max(progress, (time.monotonic() - began) / 60 / minutes)
        if step % 200 == 0 or progress >= 1.0:
            report(f"step {step}  " + "  ".join(f"{name} {float(value.detach()):.4f}" for name, value in parts.items()))
    lessons.close()
    detector.load_state_dict(detector.state_dict() | average)  # BatchNorm's counters stay: nothing reads them
    detector.cpu().save(path, {"world": world.name, "steps": step, "batch": batch, "seed": seed})
    return Detector.open(path)
