"""A LoRA of a request: a name on the bundle's shelf and how much of it, as a value."""

from dataclasses import dataclass
from typing import Any

from aquatint.base.errors import UserError
from aquatint.pipelines.checks import named, number

BOUNDS = -100.0, 100.0  # of a weight
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
        name = named("LoRA", self.name, "Open the file with load(loras=[...]) or --lora, and name it here.")
        object.__setattr__(self, "weight", number(f'the weight of "{name}"', self.weight, *BOUNDS))
        if self.text_weight is not None:
            weight = number(f'the text weight of "{name}"', self.text_weight, *BOUNDS)
            object.__setattr__(self, "text_weight", weight)
        pairs = self.blocks.items() if isinstance(self.blocks, dict) else self.blocks
        made = []
        for pair in pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise UserError(f'A block of "{name}" is {pair!r}.', 'A name and a factor, as in ("IN04", 0.5).')
            made.append((pair[0].upper(), number(f'the factor of "{name}" for {pair[0]}', pair[1], *BOUNDS)))
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
