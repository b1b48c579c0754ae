"""Options for the safety checker."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.pipelines.request import Request


@Parameter(name="*")
@dataclass
class Guarding:
    """Which pictures are looked at twice."""

    safety: Annotated[Path | None, Parameter(help="A safety checker's folder or file; none is asked otherwise.")] = None
    flagged: Annotated[str | None, Parameter(help="What becomes of flagged pictures: note, blur or refuse.")] = None


def guarded(request: "Request", guarding: Guarding | None) -> tuple["Request", dict[str, Any]]:
    """The request that asks the checker, and what `load` is to open for it."""
    if guarding is None or guarding.safety is None:
        if guarding is not None and guarding.flagged is not None:
            raise UserError("--flagged without --safety.", "--safety FILE, the checker.")
        return request, {}
    return replace(request, safety=guarding.flagged or "note"), {"safety": guarding.safety}
