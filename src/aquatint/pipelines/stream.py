"""A picture's place in a batch that was drawn from one stream of random numbers, as ComfyUI draws its batches."""

from dataclasses import dataclass
from typing import Any

from aquatint.base.errors import UserError

LARGEST = 256  # pictures; every draw is made for all of them


@dataclass(frozen=True)
class Stream:
    """The picture at `place` (from 0) of `of` whose noise one generator gave together, one behind the other.

    Only for the noise of others: ours knows no streams. Raises UserError for a place outside the batch.
    """

    place: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        for name, value, low, high in (("of", self.of, 1, LARGEST), ("place", self.place, 0, LARGEST - 1)):
            if not _whole(value) or not low <= value <= high:
                raise UserError(f"stream.{name} = {str(value)[:40]}.", f"A whole number from {low} to {high}.")
        if self.place >= self.of:
            raise UserError(f"stream.place = {self.place} in a batch of {self.of}.", f"0 to {self.of - 1}.")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
