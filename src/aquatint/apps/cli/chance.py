"""Options for prompts with chance in them."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from aquatint.pipelines.request import Request


@Parameter(name="*")
@dataclass
class Chance:
    """What the seed chooses in the prompt."""

    wildcards: Annotated[str | None, Parameter(help="A folder: __name__ is a line of its name.txt.")] = None
    dynamic: Annotated[bool, Parameter(help="{a|b} is one of them; --wildcards implies it.", negative="")] = False


def settled(request: "Request", chance: Chance | None) -> tuple["Request", ...]:
    """The requests to paint: one for each seed where the prompt has chance in it, else the one that is asked."""
    if chance is None or not (chance.dynamic or chance.wildcards is not None):
        return (request,)
    from aquatint.pipelines.wildcards import spread

    requests, missing = spread(request, chance.wildcards)
    for name in missing:
        print(f'note: there is no wildcard "{name}" in {chance.wildcards}; it stays in the prompt.', file=sys.stderr)
    return requests
