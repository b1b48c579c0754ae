"""`aquatint sheet`: pictures that are there, on one page with captions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from aquatint.apps.cli.output import Output
from aquatint.base import files
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

SMALLEST, LARGEST = 32, 1024  # pixels of a cell


def sheet(
    *pictures: Annotated[Path, Parameter(help="PNG, JPEG or WebP files.")],
    out: Annotated[str, Parameter(help="A folder or a file.")] = "pictures",
    columns: Annotated[int | None, Parameter(help="Pictures in a row.")] = None,
    cell: Annotated[int, Parameter(help="Pixels of a picture's longer side.")] = 256,
    bare: Annotated[bool, Parameter(help="No captions.", negative="")] = False,
) -> None:
    """Lay pictures out on a contact sheet, each with its prompt and seed, or else its file's name, under it."""
    if not pictures:
        raise UserError("There is no picture.", "One or more files.")
    if not SMALLEST <= cell <= LARGEST:
        raise UserError(f"--cell {cell}.", f"{SMALLEST} to {LARGEST} pixels.")
    from aquatint.base import images
    from aquatint.pipelines import metadata
    from aquatint.pipelines.contact import contact, printed

    output = Output(out, None, 1)
    try:
        prints, marked = [], False
        for path in pictures:
            image = images.decode(files.read(path, limit=images.LARGEST_FILE))
            marked |= metadata.find(image).marked
            prints.append(printed(image, "" if bare else caption(path, image), cell))
        page = contact(prints, columns)
        data = metadata.encode_marked(page, output.format) if marked else encode(page, output.format)
        print(output.write(data, "sheet", len(prints)), flush=True)
    except BaseException:
        output.abandon()
        raise


def caption(path: Path, image: "Image.Image") -> str:
    """Prompt and seed, if the file tells them to us; else its name."""
    from aquatint.pipelines import metadata
    from aquatint.pipelines.reading import read_foreign
    from aquatint.pipelines.record import record_from

    found = metadata.find(image)
    try:
        if found.record is not None:
            record = record_from(found.record)
            return f"{record.request.prompt} ({record.seed})"
        reading = read_foreign(found)
    except UserError:
        return path.name
    return path.name if reading is None else f"{reading.request.prompt} ({reading.request.seeds[0]})"


def encode(image: "Image.Image", format: str) -> bytes:
    """A page of pictures that no model made: a plain file."""
    import io

    out = io.BytesIO()
    image.save(out, format.upper(), quality=95)
    return out.getvalue()
