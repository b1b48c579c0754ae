"""`aquatint vocabulary`, `samplers`, `grids`, `families`, `version`: what there is to choose from."""

import json as jsonlib
import platform
from typing import Annotated, Any

from cyclopts import Parameter

from aquatint.apps.cli.generate import Machine, Source, open_bundle

Json = Annotated[bool, Parameter(name="--json", help="Print JSON.", negative="")]


def vocabulary(
    *, model: Annotated[str | None, Parameter(help="Another small model.")] = None, json: Json = False
) -> None:
    """The words that the pocket model knows, by kind."""
    known = open_bundle(Source(model), Machine("cpu")).vocabulary
    if known is None:
        print("{}" if json else "This model claims no vocabulary of its own: it was taught on texts of every kind.")
        return
    if json:
        print(jsonlib.dumps({**known.groups, "others": known.others}, ensure_ascii=False))
        return
    for kind, words in known.groups.items():
        print(f"{kind}: {', '.join(words)}")


def samplers(*, json: Json = False) -> None:
    """The samplers: what each is, the grid that goes with it, its order, options and calls of the net in a step."""
    from aquatint.diffusion.samplers import SAMPLERS

    rows = [
        {
            "name": name,
            "order": "-" if row.order is None and not json else row.order,
            "calls": row.calls,
            "grid": row.grid,
            "options": ", ".join(f"{option}={value:g}" for option, value in row.options.items()),
            "what": row.what,
        }
        for name, row in SAMPLERS.items()
    ]
    table(rows, json)


def grids(*, json: Json = False) -> None:
    """The grids: which levels of noise a sampler visits."""
    from aquatint.diffusion.grids import GRIDS

    table([{"name": name, "what": (grid.__doc__ or "").split("\n")[0]} for name, grid in GRIDS.items()], json)


def families(*, json: Json = False) -> None:
    """The kinds of Stable Diffusion that can be opened, and what a request means to them where it says nothing."""
    from aquatint.families import FAMILIES

    rows = [
        {
            "name": family.name,
            "prediction": family.prediction,
            "size": f"{family.defaults.width}x{family.defaults.height}",
            "steps": family.defaults.steps,
            "sampler": family.defaults.sampler,
            "grid": family.defaults.grid,
            "guidance": family.defaults.guidance,
            "rescale": family.defaults.rescale,
        }
        for family in FAMILIES.values()
    ]
    table(rows, json)


def version(*, json: Json = False) -> None:
    """Versions, the device that "auto" means here, and what a picture's bits depend on."""
    from aquatint import __version__
    from aquatint.base import config, runtime
    from aquatint.engines.choice import choose_engine

    device = runtime.choose_device()
    kind = runtime.choose_dtype("auto", device)
    key = runtime.key(device, kind, runtime.choose_threads(), choose_engine("auto", device, kind).name)
    facts: dict[str, Any] = {"aquatint": __version__, "python": platform.python_version(), **config.to_data(key)}
    print(jsonlib.dumps(facts) if json else "\n".join(f"{name:<9} {value}" for name, value in facts.items()))


def table(rows: list[dict[str, Any]], json: bool) -> None:
    """Rows of one kind as columns under their names, or as JSON."""
    if json:
        print(jsonlib.dumps(rows, ensure_ascii=False))
        return
    cells = [[str(name) for name in rows[0]], *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
