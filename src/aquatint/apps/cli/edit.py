"""Options for painting over a picture."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from aquatint.base.errors import UserError, unknown

if TYPE_CHECKING:
    from aquatint.pipelines.edit import Edit, Outpaint

FILLS, FITS = ("original", "blur", "noise", "nothing"), ("exact", "stretch", "crop", "pad")
SIDES = ("left", "top", "right", "bottom")


@Parameter(name="*")
@dataclass
class Editing:
    """A picture to begin from, and what of it is to change."""

    image: Annotated[str | None, Parameter(help="A picture to begin from instead of noise.")] = None
    strength: Annotated[float | None, Parameter(help="How far from it, above 0 to 1; 0.75 (InstructPix2Pix: 1).")] = (
        None
    )
    mask: Annotated[str | None, Parameter(help="A picture of the same size: white where to paint.")] = None
    invert: Annotated[bool, Parameter(help="The mask is black where to paint.", negative="")] = False
    grow: Annotated[int | None, Parameter(help="Widen the mask by pixels, or narrow it below 0.")] = None
    blur: Annotated[float | None, Parameter(help="Softness of the mask's edge in pixels; 4 if not given.")] = None
    fill: Annotated[str | None, Parameter(help="Where the masked part begins: original, blur, noise, nothing.")] = None
    masked: Annotated[bool, Parameter(help="Paint the mask's surroundings alone, at full size.", negative="")] = False
    padding: Annotated[int | None, Parameter(help="Pixels of surroundings seen with it; 32 if not given.")] = None
    keep: Annotated[bool, Parameter(help="What the mask leaves out keeps its bits.", negative="--change-all")] = True
    fit: Annotated[str | None, Parameter(help="If sizes differ: stretch, crop or pad.")] = None
    outpaint: Annotated[str | None, Parameter(help="New canvas, as in left=64,right=64.")] = None


def read_edit(editing: Editing | None) -> "Edit | None":
    """The options as an Edit; None where no picture is named, which no other option may then lack."""
    if editing is None or editing == Editing():
        return None
    if editing.image is None:
        raise UserError("Options of an edit without --image.", "--image FILE, the picture to begin from.")
    if editing.fill is not None and editing.fill not in FILLS:
        raise unknown("fill", editing.fill, FILLS)
    if editing.fit is not None and editing.fit not in FITS:
        raise unknown("fit", editing.fit, FITS)
    from aquatint.pipelines.edit import Edit
    from aquatint.pipelines.given import given

    said = {name: getattr(editing, name) for name in ("strength", "grow", "blur", "fill", "padding", "fit")}
    return Edit(
        image=given(editing.image),
        mask=None if editing.mask is None else given(editing.mask),
        invert=editing.invert,
        masked=editing.masked,
        keep=editing.keep,
        outpaint=None if editing.outpaint is None else read_outpaint(editing.outpaint),
        **{name: value for name, value in said.items() if value is not None},
    )


def read_outpaint(text: str) -> "Outpaint":
    """ "left=64,right=128" -> the new canvas."""
    from aquatint.pipelines.edit import Outpaint

    sides = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([a-z]+)\s*=\s*([0-9]{1,6})\s*", part)
        if not match or match[1] not in SIDES or match[1] in sides:
            raise UserError(f'--outpaint "{text}".', f"SIDE=PIXELS, each of {', '.join(SIDES)} once, as in left=64.")
        sides[match[1]] = int(match[2])
    return Outpaint(**sides)
