"""What Stable Diffusion XL is told beside the text: sizes, crop and beauty (Podell et al. 2023, section 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.diffusion.denoisers import Conditioning
from aquatint.families import MICRO_WIDTH, Family
from aquatint.nets.blocks import sinusoids

if TYPE_CHECKING:
    from aquatint.pipelines.encode import Told
    from aquatint.pipelines.request import Resolved

MOST = 65_536  # pixels
MOST_BEAUTY = 100.0


@dataclass(frozen=True)
class Micro:
    """What a picture of Stable Diffusion XL is to look as if it had been before it was learned from. None: as usual.

    original             (width, height) in pixels that it had; the request's size
    crop                 (left, top): pixels that were cut off there; small numbers keep things in the middle
    target               (width, height) that it was brought to; the request's size
    aesthetic            how beautiful it was found, for the refiner; 6.0, and 2.5 for the negative
    negative_aesthetic   the same for the negative
    blank                whether an empty negative is told as zeros, as the base model's family has it, or as what the
                         text encoders say of an empty text, as the refiner's has it and web UIs have it for both

    Raises UserError for a number out of range.
    """

    original: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    target: tuple[int, int] | None = None
    aesthetic: float | None = None
    negative_aesthetic: float | None = None
    blank: bool | None = None

    def __post_init__(self) -> None:
        for name, low in (("original", 1), ("crop", 0), ("target", 1)):
            pair = getattr(self, name)
            if pair is not None and not (
                isinstance(pair, tuple) and len(pair) == 2 and all(type(n) is int and low <= n <= MOST for n in pair)
            ):
                raise UserError(f"micro {name} = {str(pair)[:60]}.", f"Two whole numbers from {low} to {MOST:,}.")
        for name in ("aesthetic", "negative_aesthetic"):
            value = getattr(self, name)
            fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_BEAUTY
            if value is not None and not fits:
                raise UserError(f"micro {name} = {str(value)[:60]}.", f"A number from 0 to {MOST_BEAUTY:g}.")

    def check(self, family: Family) -> None:
        """UserError where the family is not told what this says."""
        said = {"aesthetic" if "aesthetic" in name else name for name, value in vars(self).items() if value is not None}
        strange = sorted(said - {*family.micro, *(("blank",) if family.micro else ())})
        if strange:
            raise UserError(
                f"micro {strange[0]} for {family.name}.",
                f"It is told {', '.join(family.micro) or 'the text alone'}.",
                "Leave it out.",
            )

    def numbers(self, family: Family, width: int, height: int, *, negative: bool = False) -> tuple[float, ...]:
        """The numbers that the family is told, in its order, each pair as (height, width) or (top, left).

        width, height   of the request, in pixels
        """
        aesthetic = self.negative_aesthetic if negative else self.aesthetic
        usual = 2.5 if negative else 6.0
        rows: dict[str, tuple[float, ...]] = {
            "original": (self.original or (width, height))[::-1],
            "crop": (self.crop or (0, 0))[::-1],
            "target": (self.target or (width, height))[::-1],
            "aesthetic": (usual if aesthetic is None else aesthetic,),
        }
        return tuple(number for name in family.micro for number in rows[name])


def embedded(numbers: Sequence[float]) -> Float[Tensor, "1 v"]:
    """MICRO_WIDTH sinusoids of each number, one after the other: what stands behind the pooled text."""
    return sinusoids(torch.tensor(numbers, dtype=torch.float32), MICRO_WIDTH).reshape(1, -1)


def with_micro(told: Sequence["Told"], request: "Resolved", family: Family) -> tuple["Told", ...]:
    """The same with the family's numbers behind the pooled text, and an empty negative blanked where it is to be."""
    if not family.micro:
        return tuple(told)
    micro = request.micro or Micro()
    blank = request.negative == "" and (family.blank if micro.blank is None else micro.blank)
    toward, away = (
        embedded(micro.numbers(family, request.width, request.height, negative=negative)) for negative in (False, True)
    )
    return tuple(
        replace(
            row,
            positives=tuple((weight, _beside(cond, toward)) for weight, cond in row.positives),
            negative=_beside(_blanked(row.negative) if blank else row.negative, away),
        )
        for row in told
    )


def _blanked(cond: Conditioning) -> Conditioning:
    vector = None if cond.vector is None else torch.zeros_like(cond.vector)
    return replace(cond, context=torch.zeros_like(cond.context), vector=vector)


def _beside(cond: Conditioning, numbers: Float[Tensor, "1 v"]) -> Conditioning:
    assert cond.vector is not None, "a family that is told numbers takes a vector"
    return replace(cond, vector=torch.cat([cond.vector, numbers.to(cond.vector)], dim=1))
