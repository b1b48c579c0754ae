"""Options for models that are shown something beside the noisy picture: a picture (InstructPix2Pix), a depth map."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.pipelines.request import Request


@Parameter(name="*")
@dataclass
class Shown:
    """What the model is shown, and how much it counts."""

    picture_guidance: Annotated[
        float | None, Parameter(help="How much the picture counts, for InstructPix2Pix; 1.5 if not given.")
    ] = None
    depth: Annotated[str | None, Parameter(help="A depth map, white where near, for a depth model.")] = None


@Parameter(name="*")
@dataclass
class Seen:
    """What a picture was painted after, for `again`."""

    depth: Annotated[str | None, Parameter(help="The depth map that it was painted after, if there was one.")] = None


def with_shown(request: "Request", wished: Shown | None) -> "Request":
    """The request with what the options say."""
    if wished is None or wished == Shown():
        return request
    from aquatint.pipelines.given import given

    depth = None if wished.depth is None else given(wished.depth)
    return replace(request, picture_guidance=wished.picture_guidance, depth=depth)


def with_depth(request: "Request", seen: Seen | None) -> "Request":
    """The request with its depth map at hand; UserError for one that lacks, or is another."""
    from aquatint.pipelines.given import supplied

    path, wanted = (None if seen is None else seen.depth), request.depth
    if wanted is None:
        if path is not None:
            raise UserError("--depth for a picture that had none.", "Leave it out.")
        return request
    if path is None:
        raise UserError(
            f'The picture was painted after the depth map "{wanted.name}" (sha256 {wanted.sha256[:10]}).',
            "That file again: a record holds no pixels.",
            "Give it with --depth.",
        )
    return replace(request, depth=supplied(wanted, path))
