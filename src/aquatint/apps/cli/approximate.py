"""Options that make a picture quicker and another one."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.pipelines.approximations import Approximations
    from aquatint.pipelines.request import Request


@Parameter(name="*")
@dataclass
class Approximating:
    """Ways to be quicker that change the picture (docs/approximations.md)."""

    reuse: Annotated[int | None, Parameter(help="Compute deep features every so many steps, as 3; approximate.")] = None
    reuse_skips: Annotated[int | None, Parameter(help="Outer skips that are computed always; 1 if not given.")] = None
    merge_tokens: Annotated[
        float | None, Parameter(help="Share of pixels merged in the largest self-attention, to 0.75; approximate.")
    ] = None


def read_approximating(said: Approximating | None) -> "Approximations | None":
    """The options as Approximations; None where nothing is said."""
    if said is None or said == Approximating():
        return None
    from aquatint.pipelines.approximations import Approximations, Reuse

    if said.reuse is None and said.reuse_skips is not None:
        raise UserError("--reuse-skips without --reuse.", "--reuse STEPS, as in --reuse 3.")
    skips = 1 if said.reuse_skips is None else said.reuse_skips
    return Approximations(None if said.reuse is None else Reuse(said.reuse, skips), said.merge_tokens)


def tell_approximate(request: "Request") -> None:
    """A note on standard error of what about the pictures is approximate."""
    from aquatint.pipelines.approximations import label

    if (said := label(request)) is not None:
        print(f"note: approximate: {said}", file=sys.stderr)
