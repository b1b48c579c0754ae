"""`aquatint grid`: one request along axes, as a labelled sheet."""

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from aquatint.apps.cli.adapters import Adapting
from aquatint.apps.cli.approximate import Approximating, tell_approximate
from aquatint.apps.cli.control import Controlling
from aquatint.apps.cli.edit import Editing
from aquatint.apps.cli.enlarge import Enlarging, Tools
from aquatint.apps.cli.generate import Machine, Source, Wishes, open_bundle, opening_all, wished
from aquatint.apps.cli.guard import Guarding, guarded
from aquatint.apps.cli.guiding import Guidance
from aquatint.apps.cli.micro import Sizing
from aquatint.apps.cli.output import Output
from aquatint.apps.cli.shown import Shown
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.request import Request
    from aquatint.pipelines.sweep import Axis


@Parameter(name="*")
@dataclass
class Axes:
    """What changes across, down and from sheet to sheet: FIELD=VALUE,VALUE,... or FIELD=FIRST..LAST:STEP."""

    x: Annotated[str | None, Parameter(help="Across, as in steps=10,20,30 or sampler=ddim,heun.")] = None
    y: Annotated[str | None, Parameter(help="Down, as in guidance=1..9:2.")] = None
    z: Annotated[str | None, Parameter(help="From sheet to sheet, as in prompt=cat,dog (searched and replaced).")] = (
        None
    )
    matrix: Annotated[bool, Parameter(help="The prompt is A|B|C: A with every choice of the rest.", negative="")] = (
        False
    )


def grid(
    prompt: Annotated[str, Parameter(help="What to paint.", allow_leading_hyphen=True)],
    /,
    *,
    axes: Axes | None = None,
    wishes: Wishes | None = None,
    source: Source | None = None,
    machine: Machine | None = None,
    editing: Editing | None = None,
    adapting: Adapting | None = None,
    guidance: Guidance | None = None,
    sizing: Sizing | None = None,
    guarding: Guarding | None = None,
    controlling: Controlling | None = None,
    enlarging: Enlarging | None = None,
    tools: Tools | None = None,
    shown: Shown | None = None,
    approximating: Approximating | None = None,
    out: Annotated[str, Parameter(help="A folder or a file (.png).")] = "pictures",
) -> None:
    """Paint one request along up to three axes, and lay the pictures out in a labelled sheet.

    Any field of a request is an axis, and seed, size and prompt (search and replace) besides; a LoRA's or control's by
    its name, as in --x loras.ink.weight=0..1:0.25. All combinations are checked before the first is painted. Every
    picture of the sheet is the one that `generate` paints alone.
    """
    wishes, axes = wishes or Wishes(), axes or Axes()
    if wishes.count != 1:
        raise UserError(f"--count {wishes.count} in a grid.", "One picture a cell.", "Take the axis seed=1..4.")
    request = wished(prompt, wishes, editing, adapting, guidance, sizing, controlling, enlarging, shown, approximating)
    request, checker = guarded(request, guarding)
    sheets = [_matrix(request, axes)] if axes.matrix else _table(request, axes)
    output = Output(out, None, 1)
    try:
        bundle = open_bundle(source, machine, opening_all(adapting, controlling, tools, enlarging) | checker)
        for sheet in sheets:
            for cell in sheet.cells:
                cell.resolved(bundle.family)
        tell_approximate(request)
        for sheet in sheets:
            data = sheet.encode(sheet.paint(bundle), output.format)
            print(output.write(data, request.prompt, request.seeds[0]), flush=True)
    except BaseException:
        output.abandon()
        raise


@dataclass(frozen=True)
class Sheet:
    """A sheet to be painted: its cells row by row, and what stands beside them."""

    cells: "list[Request]"
    across: list[str]
    down: list[str]
    title: str = ""

    def paint(self, bundle: "Bundle") -> "Image.Image":
        """All its pictures, laid out; progress goes to standard error."""
        from aquatint.apps.cli.again import paint
        from aquatint.pipelines.sweep import labelled

        pictures = []
        for number, cell in enumerate(self.cells, start=1):
            print(f"{number} of {len(self.cells)}", file=sys.stderr)
            pictures.append(paint(bundle, cell).image)
        return labelled(pictures, self.across, self.down, self.title)

    def encode(self, image: "Image.Image", format: str) -> bytes:
        """The sheet's file, marked as made by AI; no picture's record, for it is none of them."""
        from aquatint.pipelines import metadata

        return metadata.encode_marked(image, format)


def _table(request: "Request", given: Axes) -> list[Sheet]:
    """A sheet for each value of z (or one)."""
    from aquatint.pipelines.sweep import Axis, axis, cells

    if given.x is None and given.y is None and given.z is None:
        raise UserError("A grid without an axis.", "--x, --y or --z, as in --x steps=10,20,30.")
    one = Axis("", ("",))
    x, y, z = (one if text is None else axis(text) for text in (given.x, given.y, given.z))
    made = cells(request, [each for each in (x, y, z) if each is not one])
    size = len(x.values) * len(y.values)
    return [Sheet(made[index * size :][:size], _labels(x), _labels(y), label) for index, label in enumerate(_labels(z))]


def _labels(axis: "Axis") -> list[str]:
    return [f"{axis.field} {value}" if axis.field and axis.field != "prompt" else value for value in axis.values]


def _matrix(request: "Request", given: Axes) -> Sheet:
    """The prompt matrix as a sheet."""
    from aquatint.pipelines.sweep import matrix

    if any(text is not None for text in (given.x, given.y, given.z)):
        raise UserError("--matrix together with an axis.", "One of the two.")
    prompts, across, down = matrix(request.prompt)
    return Sheet([replace(request, prompt=prompt) for prompt in prompts], across, down, prompts[0])
