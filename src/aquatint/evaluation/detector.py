"""A centre-point detector of the rendered world: which things a picture shows, where, in which colour, on what.

One small convolutional net, after "Objects as Points" (Zhou, Wang and Kraehenbuehl, 2019): a heat map a class over a
16 x 16 grid whose peaks are centres, with colour, offset and size read off at the peak. It never sees a prompt, a
latent or a weight of the model that it judges.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.base import config, files
from aquatint.base.errors import UserError
from aquatint.base.images import from_bytes
from aquatint.base.noise import WEIGHTS, Noise
from aquatint.training.data.world import World

SIDE, GRID = 128, 16  # px of the pictures it looks at, cells a side of its map
LARGEST_FILE = 16 * 2**20
THRESHOLD = 0.3  # a peak below this is no object


@dataclass(frozen=True)
class Classes:
    """What the detector can say; the words of a World in a fixed order."""

    subjects: tuple[str, ...]
    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    grounds: tuple[str, ...]
    painted: tuple[str, ...]

    @staticmethod
    def of(world: World) -> "Classes":
        """The classes of a world."""
        return Classes(
            tuple(world.subjects), world.shapes, tuple(world.colours), tuple(world.grounds), tuple(world.painted)
        )

    @property
    def things(self) -> tuple[str, ...]:
        """Subjects, then shapes: the channels of the heat map."""
        return self.subjects + self.shapes


@dataclass(frozen=True)
class Found:
    """One object in a picture; x, y, side as fractions of the picture, colour for shapes only."""

    word: str
    colour: str | None
    x: float
    y: float
    side: float
    score: float


@dataclass(frozen=True)
class Sight:
    """What a picture shows: objects, strongest first, and the background in the words of scenes.Background."""

    things: tuple[Found, ...]
    background: str
    words: tuple[str, ...]


class Maps(NamedTuple):
    """The net's answers. heat, colour: logits a cell; place: (dx, dy) in cells from the cell's corner, ln side;
    scene: logits of (no painted background, each painted one); top, bottom: logits of the plain colours there."""

    heat: Float[Tensor, "b k 16 16"]
    colour: Float[Tensor, "b c 16 16"]
    place: Float[Tensor, "b 3 16 16"]
    scene: Float[Tensor, "b p"]
    top: Float[Tensor, "b g"]
    bottom: Float[Tensor, "b g"]
    features: Float[Tensor, "b d"]


def _layer(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outside), nn.ReLU()
    )


class Detector(nn.Module):
    """Pictures -> Maps. Widths are fixed: 0.75 M weights for the carried world, 0.27 GFLOP a picture."""

    WIDTHS = (32, 64, 112, 160)

    def __init__(self, classes: Classes) -> None:
        super().__init__()
        self.classes = classes
        a, b, c, d = self.WIDTHS
        self.fine = nn.Sequential(_layer(3, a, 5, 2), _layer(a, b, 3, 2), _layer(b, c, 3, 2), _layer(c, c, 3))
        self.coarse = nn.Sequential(_layer(c, d, 3, 2), _layer(d, d, 3))
        self.descend = _layer(d, c, 1)
        self.join = _layer(c, c, 3)
        self.heat = nn.Conv2d(c, len(classes.things), 1)
        self.colour = nn.Conv2d(c, len(classes.colours), 1)
        self.place = nn.Conv2d(c, 3, 1)
        grounds = len(classes.grounds)
        self.ground = nn.Linear(2 * d + 2 * c, 1 + len(classes.painted) + 2 * grounds)
        self._split = (1 + len(classes.painted), grounds, grounds)

    def forward(self, x: Float[Tensor, "b 3 128 128"]) -> Maps:
        """x in [-1, 1]. `features` are the means of the coarse map (8 x 8), the space of `fd_detector`."""
        fine = self.fine(x)
        coarse = self.coarse(fine)
        cells = self.join(fine + F.interpolate(self.descend(coarse), scale_factor=2.0))
        features = coarse.mean((2, 3))
        whole = torch.cat([features, coarse.amax((2, 3)), fine[:, :, :2].mean((2, 3)), fine[:, :, -2:].mean((2, 3))], 1)
        scene, top, bottom = self.ground(whole).split(self._split, 1)
        return Maps(self.heat(cells), self.colour(cells), self.place(cells), scene, top, bottom, features)

    @torch.no_grad()
    def look(self, pictures: UInt8[np.ndarray, "n h w 3"], batch: int = 64) -> list[Sight]:
        """What each picture shows."""
        sights: list[Sight] = []
        for part in _parts(pictures, batch):
            maps = self.eval()(part)
            sights += [self._read(Maps(*(value[i] for value in maps))) for i in range(len(part))]
        return sights

    @torch.no_grad()
    def features(self, pictures: UInt8[np.ndarray, "n h w 3"], batch: int = 64) -> Float[Tensor, "n d"]:
        """One vector a picture: where `fd_detector` measures."""
        return torch.cat([self.eval()(part).features for part in _parts(pictures, batch)])

    def _read(self, maps: Maps) -> Sight:
        """Peaks of the strongest class a cell, the weaker of two that overlap dropped."""
        heat, kind = maps.heat.sigmoid().max(0)
        peak = (heat == F.max_pool2d(heat[None], 3, 1, 1)[0]) & (heat > THRESHOLD)
        found: list[Found] = []
        for row, column in sorted(peak.nonzero().tolist(), key=lambda cell: -float(heat[cell[0], cell[1]])):
            dx, dy, size = maps.place[:, row, column].tolist()
            x, y, side = (column + dx) / GRID, (row + dy) / GRID, math.exp(min(size, 0.0))
            if any(math.hypot(x - other.x, y - other.y) < 0.35 * max(side, other.side) for other in found):
                continue
            word = self.classes.things[int(kind[row, column])]
            colour = self.classes.colours[int(maps.colour[:, row, column].argmax())]
            found.append(
                Found(word, colour if word in self.classes.shapes else None, x, y, side, float(heat[row, column]))
            )
        scene = int(maps.scene.argmax())
        if scene:
            return Sight(tuple(found), "painted", (self.classes.painted[scene - 1],))
        top, bottom = (self.classes.grounds[int(end.argmax())] for end in (maps.top, maps.bottom))
        return Sight(tuple(found), *(("plain", (top,)) if top == bottom else ("gradient", (top, bottom))))

    @torch.no_grad()
    def start(self, seed: int) -> None:
        """Starting weights as a function of the seed: kernels normal with variance 2 / fan in, heat near 0.01."""
        weights = dict(self.named_parameters())
        for index, (name, weight) in enumerate(weights.items()):
            if weight.ndim > 1:
                drawn = Noise([seed], [index]).normal(tuple(weight.shape), draw=WEIGHTS)[0]
                weight.copy_(drawn * math.sqrt(2.0 / weight[0].numel()))
            elif name.endswith("bias"):
                weight.zero_()
        weights["heat.weight"].mul_(0.1)
        weights["heat.bias"].fill_(-4.6)
        weights["place.bias"].copy_(torch.tensor([0.5, 0.5, -1.0]))

    def save(self, path: str | Path, facts: dict[str, float | int | str] | None = None) -> None:
        """Write weights (float16) and classes to one safetensors file; `facts` ride in its header."""
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in self.parts().items()}
        about = json.dumps({"classes": config.to_data(self.classes), "facts": facts or {}})
        files.write(path, save(tensors, {"detector": about}))  # one entry: safetensors writes several in any order

    def parts(self) -> dict[str, Tensor]:
        """Weights and running statistics, without BatchNorm's counters."""
        return {k: v.contiguous() for k, v in self.state_dict().items() if not k.endswith("num_batches_tracked")}

    @staticmethod
    def open(path: str | Path) -> "Detector":
        """Read what `save` wrote; UserError if the file is anything else."""
        blob = files.read(path, limit=LARGEST_FILE)
        try:
            length = int.from_bytes(blob[:8], "little")
            header = json.loads(blob[8 : 8 + length])["__metadata__"]
            detector = Detector(config.from_data(Classes, json.loads(header["detector"])["classes"]))
            tensors = {name: value.float() for name, value in load(blob).items()}
            if tensors.keys() != detector.parts().keys():
                raise ValueError("other tensors")
            detector.load_state_dict(detector.state_dict() | tensors)  # with the counters as they are
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f'"{path}" is not a detector ({error}).', "A file that train_detector wrote.", "Train one."
            ) from error
        return detector.eval()


def as_input(pictures: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 128 128"]:
    """Pictures as the detector looks at them: [-1, 1], brought to 128 px if they have another size."""
    x = from_bytes(torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2))
    if x.shape[2:] != (SIDE, SIDE):
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
    return x.contiguous()


def _parts(pictures: UInt8[np.ndarray, "n h w 3"], batch: int) -> Iterator[Float[Tensor, "n 3 128 128"]]:
    return (as_input(pictures[start : start + batch]) for start in range(0, len(pictures), batch))
