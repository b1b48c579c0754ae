"""Scenes: what is in a picture, drawn at random from a World but the same for ever for the same (seed, index).

A Scene is a pure description; render.py turns it into pixels, captions.py into words.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from aquatint.base.errors import unknown
from aquatint.training.data.world import COUNTS, POSITIONS, RELATIONS, SIZES, World

T = TypeVar("T")

LAYOUT, WORDS, DAMAGE = 0, 1, 2  # streams of one (seed, index): what is drawn, how it is said, how it is spoilt


class Draws:
    """A stream of random numbers that is a function of (seed, index, stream): Philox-4x64, raw bits only.

    numpy promises that a bit generator's raw output never changes, and promises nothing of the kind for the methods of
    `numpy.random.Generator`; so the few distributions needed here are made from the raw 64-bit words directly.
    """

    def __init__(self, seed: int, index: int, stream: int = LAYOUT) -> None:
        key = np.array([seed % 2**64, index % 2**64], dtype=np.uint64)
        self._bits = np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], dtype=np.uint64))
        self._words: list[int] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A float in [low, high), from the upper 53 bits of the next word."""
        if not self._words:
            self._words = self._bits.random_raw(32).tolist()[::-1]
        return low + (high - low) * ((self._words.pop() >> 11) * 2.0**-53)

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return int(self.uniform() * count)

    def bytes(self, count: int) -> np.ndarray:
        """uint8 [count], uniform: for noise over pictures. Starts at the next word that was not fetched yet."""
        return np.asarray(self._bits.random_raw((count + 7) // 8)).view(np.uint8)[:count]

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, each as likely."""
        return items[self.below(len(items))]

    def weighted(self, mix: Mapping[str, float]) -> str:
        """One of the keys, with probability proportional to its weight."""
        mark = self.uniform() * math.fsum(mix.values())
        for name, weight in mix.items():
            mark -= weight
            if mark < 0 < weight:
                return name
        return [name for name, weight in mix.items() if weight > 0][-1]  # rounding left a crumb of the last one


@dataclass(frozen=True)
class Background:
    """kind "plain": words = (colour,); "gradient": (colour at the top, colour at the bottom); "painted": (scene,)."""

    kind: str
    words: tuple[str, ...]
    variant: int = 0  # which of the VARIANTS of a painted background

    @property
    def colours(self) -> tuple[str, ...]:
        return () if self.kind == "painted" else self.words


@dataclass(frozen=True)
class Thing:
    """One object: a subject of the emoji font, or a shape with a colour; x, y is its centre, side its larger extent."""

    kind: str  # "subject" or "shape"
    word: str
    colour: str | None
    size: str  # a key of SIZES
    position: str  # a key of POSITIONS
    x: float  # all three as fractions of the canvas
    y: float
    side: float


@dataclass(frozen=True)
class Scene:
    """A picture's content. `relation` says how things[0] stands to things[1]; None unless kind is "pair"."""

    kind: str  # of KINDS
    background: Background
    things: tuple[Thing, ...]
    relation: str | None = None
    world: World = field(repr=False, compare=False, kw_only=True)


HELD_PER_MILLE = 66
VARIANTS = 6  # differently laid out pictures of each painted background
STANDS = ("meadow", "snow", "desert", "sea", "city")  # painted backgrounds with a ground: a lone object stands on it

# Where the things of a counted scene stand, as (x, y, largest side); several layouts a count.
LAYOUTS: dict[int, tuple[tuple[tuple[float, float, float], ...], ...]] = {
    1: (((0.5, 0.5, 0.60),),),
    2: (((0.27, 0.5, 0.42), (0.73, 0.5, 0.42)), ((0.28, 0.3, 0.42), (0.72, 0.7, 0.42))),
    3: (
        ((0.5, 0.27, 0.38), (0.26, 0.72, 0.38), (0.74, 0.72, 0.38)),
        ((0.26, 0.28, 0.38), (0.74, 0.28, 0.38), (0.5, 0.73, 0.38)),
        ((0.18, 0.5, 0.28), (0.5, 0.5, 0.28), (0.82, 0.5, 0.28)),
    ),
    4: (
        ((0.27, 0.27, 0.38), (0.73, 0.27, 0.38), (0.27, 0.73, 0.38), (0.73, 0.73, 0.38)),
        ((0.5, 0.2, 0.31), (0.2, 0.5, 0.31), (0.8, 0.5, 0.31), (0.5, 0.8, 0.31)),
    ),
    5: (
        ((0.2, 0.2, 0.28), (0.8, 0.2, 0.28), (0.5, 0.5, 0.28), (0.2, 0.8, 0.28), (0.8, 0.8, 0.28)),
        ((0.18, 0.3, 0.28), (0.5, 0.3, 0.28), (0.82, 0.3, 0.28), (0.32, 0.7, 0.28), (0.68, 0.7, 0.28)),
    ),
}


def scene(
    world: World, seed: int, index: int, *, kinds: Mapping[str, float] | None = None, held: bool | None = False
) -> Scene:
    """Scene number `index` of the stream `seed`: a function of these and of the world, on every machine.

    kinds   weights over "single" (one big object), "placed" (any size and position), "pair" (two objects in a
            relation), "count" (one to five of the same); the world's own mix if None.
    held    False: never a held-out combination (training); True: only such (testing composition); None: either.
    """
    mix = world.kinds if kinds is None else kinds
    for name in mix:
        if name not in _DRAW:
            raise unknown("scene kind", name, _DRAW)
    draws = Draws(seed, index)
    while True:
        drawn = _DRAW[draws.weighted(mix)](world, draws, world.backs if held is not True else {"plain": 1.0})
        if held is None or held_out(drawn) == held:
            return drawn


def held_out(scene: Scene) -> bool:
    """Whether training never shows this: about one (subject, plain background) pair and one (shape, colour, plain
    background) triple in fifteen.

    Decided by a checksum of the words, so that adding a word to a world moves no other pair over the border.
    """
    if scene.background.kind != "plain":
        return False
    ground = scene.background.words[0]
    return any(zlib.crc32(f"{t.word} {t.colour} {ground}".encode()) % 1000 < HELD_PER_MILLE for t in scene.things)


def _background(world: World, draws: Draws, backs: Mapping[str, float]) -> Background:
    kind = draws.weighted(backs)
    if kind == "painted":
        return Background(kind, (draws.choice(tuple(world.painted)),), draws.below(VARIANTS))
    names = tuple(world.grounds)
    first = draws.choice(names)
    if kind == "plain":
        return Background(kind, (first,))
    return Background(kind, (first, draws.choice([name for name in names if name != first])))


def _what(
    world: World, draws: Draws, background: Background, other: Thing | None = None
) -> tuple[str, str, str | None]:
    """(kind, word, colour) of one more thing, never of a colour that vanishes on the background, never twice alike."""
    while True:
        kind = draws.weighted(world.things)
        if kind == "subject":
            word, colour = draws.choice(tuple(world.subjects)), None
        else:
            hidden = background.colours
            if background.kind == "painted":
                hidden = world.painted[background.words[0]].avoid
            word = draws.choice(world.shapes)
            colour = draws.choice([name for name in world.colours if name not in hidden])
        if other is None or (word, colour) != (other.word, other.colour):
            return kind, word, colour


def _single(world: World, draws: Draws, backs: Mapping[str, float]) -> Scene:
    back = _background(world, draws, backs)
    kind, word, colour = _what(world, draws, back)
    side = draws.uniform(*SIZES["big"])
    slack = min(0.06, (0.94 - side) / 2)
    x, y = 0.5 + draws.uniform(-slack, slack), 0.5 + draws.uniform(-slack, slack)
    if back.kind == "painted":
        side = draws.uniform(SIZES["big"][0], 0.72)
        if back.words[0] in STANDS and kind == "subject":
            y = 0.93 - side / 2 + draws.uniform(-0.03, 0.02)
    return Scene("single", back, (Thing(kind, word, colour, "big", "middle", x, y, side),), world=world)


def _placed(world: World, draws: Draws, backs: Mapping[str, float]) -> Scene:
    back = _background(world, draws, backs)
    kind, word, colour = _what(world, draws, back)
    size = draws.choice(("small", "small", "medium", "medium", "big"))
    side = draws.uniform(*SIZES[size])
    position = "middle" if size == "big" else draws.choice(tuple(POSITIONS))
    margin = side / 2 + 0.03
    places = [margin + at * (1 - 2 * margin) for at in POSITIONS[position]]
    jitter = 0.02 if size == "big" else 0.03
    x, y = (min(max(p + draws.uniform(-jitter, jitter), side / 2), 1 - side / 2) for p in places)
    return Scene("placed", back, (Thing(kind, word, colour, size, position, x, y, side),), world=world)


def _pair(world: World, draws: Draws, backs: Mapping[str, float]) -> Scene:
    back = _background(world, draws, backs)
    relation = draws.choice(RELATIONS)
    upright = relation in ("above", "below")
    forwards = relation in ("left of", "above") or (relation == "next to" and draws.below(2) == 0)
    things: list[Thing] = []
    for turn in range(2):
        kind, word, colour = _what(world, draws, back, things[0] if things else None)
        side = draws.uniform(0.38, 0.46)
        along = (0.265 if (turn == 0) == forwards else 0.735) + draws.uniform(-0.02, 0.02)
        across = 0.5 + (draws.uniform(-0.16, 0.16) if upright else draws.uniform(-0.10, 0.12))
        x, y = (across, along) if upright else (along, across)
        position = ("top" if y < 0.5 else "bottom") if upright else ("left" if x < 0.5 else "right")
        things.append(Thing(kind, word, colour, "medium", position, x, y, side))
    return Scene("pair", back, tuple(things), relation, world=world)


def _count(world: World, draws: Draws, backs: Mapping[str, float]) -> Scene:
    back = _background(world, draws, backs)
    kind, word, colour = _what(world, draws, back)
    layout = draws.choice(LAYOUTS[draws.choice(tuple(COUNTS))])
    shrink = draws.uniform(0.88, 1.0)
    things = tuple(
        Thing(kind, word, colour, size_of(side * shrink), "middle", x + dx, y + dy, side * shrink)
        for x, y, side in layout
        for dx, dy in [(draws.uniform(-0.015, 0.015), draws.uniform(-0.015, 0.015))]
    )
    return Scene("count", back, things, world=world)


def size_of(side: float) -> str:
    """The size word nearest to an extent given as a fraction of the canvas."""
    return min(SIZES, key=lambda name: abs(sum(SIZES[name]) / 2 - side))


_DRAW = {"single": _single, "placed": _placed, "pair": _pair, "count": _count}
