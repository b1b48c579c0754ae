"""A LoRA of a request: a name on the bundle's shelf and how much of it, as a value."""

import math
from dataclasses import dataclass
from typing import Any

from aquatint.base.errors import UserError

STRONGEST = 100.0
LONGEST = 200  # letters of a name
MOST = 64  # in one request


@dataclass(frozen=True)
class Lora:
    """One LoRA, or one of its relatives (docs/adapters.md), and its strength.

    name         as the bundle's shelf has it: the file's name without its ending. Never a path
    weight       1 is as trained, 0 nothing; negative is away from it
    text_weight  the same for the text encoders; None: as `weight`
    blocks       further factors for blocks of the U-Net, (("IN04", 0.5), ("M00", 0)): IN00 ..., M00, OUT00 ... in the
                 order of the forward pass, BASE what is in none of them

    Raises UserError for what is none of these.
    """

    name: str
    weight: float = 1.0
    text_weight: float | None = None
    blocks: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        name = self.name
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= LONGEST
            or name != name.strip()
            or set(name) & set("/\\\0")
        ):
            raise UserError(
                f"The LoRA is named {str(name)[:60]!r}.",
                "The name of a file without folder and ending.",
                "Open the file with load(loras=[...]) or --lora, and name it here.",
            )
        object.__setattr__(self, "weight", _strength(f'The weight of "{name}"', self.weight))
        if self.text_weight is not None:
            weight = _strength(f'The text weight of "{name}"', self.text_weight)
            object.__setattr__(self, "text_weight", weight)
        pairs = self.blocks.items() if isinstance(self.blocks, dict) else self.blocks
        made = []
        for pair in pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise UserError(f'A block of "{name}" is {pair!r}.', 'A name and a factor, as in ("IN04", 0.5).')
            made.append((pair[0].upper(), _strength(f'The factor of "{name}" for {pair[0]}', pair[1])))
        if len(dict(made)) != len(made):
            raise UserError(f'The blocks of "{name}" name one twice.', "Each block once.")
        object.__setattr__(self, "blocks", tuple(sorted(made)))

    @property
    def strengths(self) -> tuple[float, float]:
        """For the U-Net, and for the text encoders."""
        return self.weight, self.weight if self.text_weight is None else self.text_weight


def checked(loras: Any) -> tuple[Lora, ...]:
    """A request's LoRAs: a sequence of Lora, or of names."""
    if isinstance(loras, str | Lora) or not isinstance(loras, tuple | list):
        raise UserError(f"loras = {str(loras)[:60]!r}.", 'A list, as in (Lora("ink", 0.8),).')
    if len(loras) > MOST:
        raise UserError(f"{len(loras)} LoRAs.", f"At most {MOST} in one request.")
    if odd := [lora for lora in loras if not isinstance(lora, Lora | str)]:
        raise UserError(f"loras holds {str(odd[0])[:60]!r}.", "Lora, or the name of one.")
    return tuple(Lora(lora) if isinstance(lora, str) else lora for lora in loras)


def _strength(what: str, value: Any) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or abs(value) > STRONGEST:
        raise UserError(f"{what} is {str(value)[:40]}.", f"A number from {-STRONGEST:g} to {STRONGEST:g}.")
    return float(value) + 0.0  # -0.0 and 0.0 are one value, and one picture
