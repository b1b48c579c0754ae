"""`aquatint preprocess`: the hint that a control would be shown of a picture."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aquatint.apps.cli.control import read_preprocess
from aquatint.apps.cli.lists import Json, table
from aquatint.apps.cli.output import Output
from aquatint.base import files
from aquatint.base.errors import UserError, unknown


def preprocess(
    name: Annotated[str | None, Parameter(help="As --preprocess takes it: NAME, or NAME,OPTION=NUMBER.")] = None,
    picture: Annotated[Path | None, Parameter(help="A PNG, JPEG or WebP file.")] = None,
    /,
    *,
    out: Annotated[str | None, Parameter(help="A file or folder; beside the picture if not given.")] = None,
    json: Json = False,
) -> None:
    """Write the hint that a preprocessor makes of a picture; without a name, list the preprocessors."""
    import io

    from aquatint.base import images
    from aquatint.pipelines.preprocess import PREPROCESSORS

    if name is None:
        rows = [
            {
                "name": known,
                "options": ", ".join(f"{o}={row.options[o].usual:g}" for o in row.options),
                "what": row.what,
            }
            for known, row in PREPROCESSORS.items()
        ]
        table(rows, json)
        return
    kind, options = read_preprocess(name)
    if kind not in PREPROCESSORS:
        raise unknown("preprocessor", kind, PREPROCESSORS)
    if picture is None:
        raise UserError(f"{kind} of no picture.", "A PNG, JPEG or WebP file.")
    made = PREPROCESSORS[kind](images.decode(files.read(picture, limit=images.LARGEST_FILE)), options)
    output = Output(out or str(picture.with_name(f"{picture.stem}-{kind}.png")), None, 1)
    try:
        data = io.BytesIO()
        made.save(data, output.format)
        print(output.write(data.getvalue(), kind, 0), flush=True)
    except BaseException:
        output.abandon()
        raise
