"""Options for the numbers that Stable Diffusion XL is told beside the text."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.pipelines.micro import Micro
    from aquatint.pipelines.refine import Refine


@Parameter(name="*")
@dataclass
class Sizing:
    """What a picture of Stable Diffusion XL is to look as if it had been."""

    original_size: Annotated[str | None, Parameter(help="WIDTHxHEIGHT that it had; its own if not given.")] = None
    crop: Annotated[str | None, Parameter(help="LEFT,TOP: pixels that were cut off there; 0,0 if not given.")] = None
    target_size: Annotated[str | None, Parameter(help="WIDTHxHEIGHT it was brought to; its own if not given.")] = None
    refine: Annotated[float | None, Parameter(help="Share that the base paints, 0.8 if --refiner alone.")] = None
    aesthetic: Annotated[float | None, Parameter(help="Beauty that the refiner aims at; 6 if not given.")] = None
    negative_aesthetic: Annotated[float | None, Parameter(help="Beauty that it avoids; 2.5 if not given.")] = None
    blank: Annotated[
        bool | None, Parameter(help="Tell an empty negative as zeros, or as an empty text.", negative="--no-blank")
    ] = None


def read_refine(sizing: Sizing | None, refiner: str | None) -> "Refine | None":
    """The options as a Refine; None where there is no refiner, with which none may be given."""
    sizing = sizing or Sizing()
    if refiner is None:
        if sizing.refine is not None:
            raise UserError("--refine without --refiner.", "--refiner MODEL, which is to paint the end.")
        return None
    from aquatint.pipelines.refine import Refine

    after = 0.8 if sizing.refine is None else sizing.refine
    return Refine(after, sizing.aesthetic, sizing.negative_aesthetic)


def read_micro(sizing: Sizing | None, refiner: str | None = None) -> "Micro | None":
    """The options as a Micro; None where none is given. With a refiner, beauty is for it alone."""
    if sizing is not None:
        sizing = replace(sizing, refine=None)
    if sizing is not None and refiner is not None:
        sizing = replace(sizing, aesthetic=None, negative_aesthetic=None)
    if sizing is None or sizing == Sizing():
        return None
    from aquatint.pipelines.micro import Micro

    return Micro(
        original=_pair("--original-size", sizing.original_size, "x×"),
        crop=_pair("--crop", sizing.crop, ","),
        target=_pair("--target-size", sizing.target_size, "x×"),
        aesthetic=sizing.aesthetic,
        negative_aesthetic=sizing.negative_aesthetic,
        blank=sizing.blank,
    )


def _pair(option: str, text: str | None, between: str) -> tuple[int, int] | None:
    """ "1024x768" -> (1024, 768)."""
    if text is None:
        return None
    match = re.fullmatch(rf"\s*([0-9]{{1,12}})\s*[{between}]\s*([0-9]{{1,12}})\s*", text.lower())
    if not match:
        raise UserError(f'{option} "{text[:60]}".', f"Two whole numbers, as in 1024{between[0]}768.")
    return int(match[1]), int(match[2])
