"""Pictures of several shapes, batched by shape, as a function of (seed, step).

The shapes are those of NovelAI's aspect-ratio bucketing ("NovelAI Improvements on Stable Diffusion", 2022): both sides
multiples of 64 and at most `longest`, and for each width the largest height that keeps the area within the budget;
kohya's sd-scripts make the same list. A picture goes where the ratio is nearest, compared by logarithm, is brought to
cover that shape, and what overhangs is cut.

Every bucket is an endless sequence of its own epochs (order.py). Rounds follow each other: in round e bucket b, with c
pictures, has floor((e + 1) c / batch) - floor(e c / batch) batches, in an order of the round's own. So no bucket is
ever more than a batch behind or ahead of its share, no picture is left out or comes twice in an epoch of its bucket,
every batch is full, and which pictures a step shows needs no state.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from aquatint.base.errors import UserError
from aquatint.base.noise import CROP, Noise
from aquatint.training.data.order import Order

STEP = 64  # pixels
TURNS = 3  # step of CROP's draws: the order of a round's batches


class Shape(NamedTuple):
    """What a bucket's pictures are brought to, pixels."""

    width: int
    height: int


class Turn(NamedTuple):
    """A step's batch: the shape, and the numbers of its samples."""

    shape: Shape
    numbers: list[int]


def shapes(area: int, *, shortest: int = 256, longest: int = 1024, step: int = STEP) -> tuple[Shape, ...]:
    """The shapes of at most `area` pixels, by width; the square among them. NovelAI's own: 512 * 768, 256, 1024."""
    if step < 8 or step % 8 or not step <= shortest <= longest or shortest % step or longest % step:
        raise UserError(f"Sides from {shortest} to {longest} by {step}.", "Multiples of the step, which is one of 8.")
    if area < shortest * shortest:
        raise UserError(f"An area of {area:,} pixels.", f"At least {shortest} x {shortest}.", "A smaller `shortest`.")
    sides = range(shortest, longest + 1, step)
    found = {Shape(math.isqrt(area) // step * step, math.isqrt(area) // step * step)}
    for side in sides:
        other = min(longest, area // side // step * step)
        if other >= shortest:
            found |= {Shape(side, other), Shape(other, side)}
    return tuple(sorted(found))


def assigned(sizes: np.ndarray, among: Sequence[Shape]) -> np.ndarray:
    """For each of [n, 2] widths and heights, the number of the shape whose ratio is nearest; int16 [n]."""
    ratios = np.log([shape.width / shape.height for shape in among])
    order = np.argsort(ratios, kind="stable")
    edges = (ratios[order][1:] + ratios[order][:-1]) / 2
    found: np.ndarray = order[np.searchsorted(edges, np.log(sizes[:, 0] / sizes[:, 1].astype(np.float64)))].astype(
        np.int16
    )
    return found


@dataclass(frozen=True, eq=False)
class Plan:
    """Which samples each step shows.

    sizes   [n, 2], widths and heights of the samples      batch   samples a step, over all processes
    among   the shapes; one shape is no bucketing at all
    """

    seed: int
    batch: int
    sizes: np.ndarray
    among: tuple[Shape, ...]
    _rounds: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.sizes) or not self.among:
            raise UserError("A plan without samples or shapes.", "One of each at least.")
        if not 1 <= self.batch <= 1 << 20:
            raise UserError(f"batch = {self.batch}.", "1 or more.")

    @cached_property
    def members(self) -> list[np.ndarray]:
        """The samples of each shape."""
        where = assigned(self.sizes, self.among)
        small = np.uint32 if len(self.sizes) < 1 << 32 else np.int64
        return [np.flatnonzero(where == index).astype(small) for index in range(len(self.among))]

    def turn(self, step: int) -> Turn:
        """The batch of a step."""
        bucket, number = self._whose(step)
        own = self.members[bucket]
        order = Order(self.seed, len(own), stream=bucket)
        places = order.numbers(range(number * self.batch, (number + 1) * self.batch))
        return Turn(self.among[bucket], [int(own[place]) for place in places])

    def _whose(self, step: int) -> tuple[int, int]:
        """(bucket, which of its batches) of a step."""
        if len(self.among) == 1:
            return 0, step
        rounds = self._round_of(step)
        if rounds not in self._rounds:
            self._rounds.clear()
            self._rounds[rounds] = self._round(rounds)
        buckets, numbers = self._rounds[rounds]
        place = step - self.steps(rounds)
        return int(buckets[place]), int(numbers[place])

    def _round(self, rounds: int) -> tuple[np.ndarray, np.ndarray]:
        """Buckets and batches of a round, step by step: each bucket's batches in their order, the buckets shuffled."""
        have, then = (
            [self._batches(bucket, number) for bucket in range(len(self.among))] for number in (rounds, rounds + 1)
        )
        whose = np.repeat(np.arange(len(self.among)), np.subtract(then, have))
        drawn = Noise([self.seed], [rounds]).uniform((len(whose),), step=TURNS, draw=CROP)[0]
        buckets = whose[drawn.argsort(stable=True).numpy()]
        numbers = np.zeros_like(buckets)
        for bucket, (first, last) in enumerate(zip(have, then, strict=True)):
            numbers[buckets == bucket] = np.arange(first, last)
        return buckets, numbers

    def steps(self, epochs: int) -> int:
        """How many steps the first epochs take."""
        return sum(self._batches(bucket, epochs) for bucket in range(len(self.among)))

    def _batches(self, bucket: int, rounds: int) -> int:
        return rounds * len(self.members[bucket]) // self.batch

    def _round_of(self, step: int) -> int:
        """The last round that begins at or before the step and has a batch for it."""
        low, high = 0, 1
        while self.steps(high) <= step:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.steps(middle) <= step else (low, middle)
        return low
