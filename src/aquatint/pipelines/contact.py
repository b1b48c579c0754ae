"""Contact sheets: pictures of any sizes in rows of equal cells, each with words under it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from aquatint.base import images
from aquatint.base.errors import UserError

MOST = 1_000  # pictures
LINES = 3  # of a caption
_MARGIN = 6  # pixels


@dataclass(frozen=True)
class Print:
    """A picture, small enough for its cell, and what stands under it."""

    image: Image.Image
    caption: str


def printed(image: Image.Image, caption: str, cell: int = 256) -> Print:
    """A picture for a sheet: no larger than `cell` pixels a side, its shape kept, never enlarged."""
    small = images.rgb(image)
    if max(small.size) > cell:
        small = small.copy()
        small.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    return Print(small, caption)


def contact(prints: Sequence[Print], columns: int | None = None) -> Image.Image:
    """The sheet; columns: as many as make it about square. UserError for none, too many, or a sheet too large."""
    if not 0 < len(prints) <= MOST:
        raise UserError(f"A sheet of {len(prints):,} pictures.", f"1 to {MOST:,}.")
    columns = math.ceil(math.sqrt(len(prints))) if columns is None else columns
    if not 1 <= columns <= MOST:
        raise UserError(f"A sheet of {columns} columns.", f"1 to {MOST}.")
    columns = min(columns, len(prints))
    width, height = (max(print.image.size[side] for print in prints) for side in (0, 1))
    font: Any = ImageFont.load_default(max(10, min(16, width // 18)))
    ascent, descent = font.getmetrics()
    texts = [_wrapped(print.caption, width, font) for print in prints]
    under = max(map(len, texts)) * (ascent + descent)
    across, down = width + _MARGIN, height + under + 2 * _MARGIN
    rows = -(-len(prints) // columns)
    whole = (columns * across + _MARGIN, rows * down + _MARGIN)
    if max(whole) > images.LARGEST_SIDE or whole[0] * whole[1] > images.LARGEST_AREA:
        raise UserError(
            f"A sheet of {whole[0]} x {whole[1]} pixels.", "A smaller one.", "Take smaller cells, or fewer."
        )
    sheet = Image.new("RGB", whole, "white")
    draw = ImageDraw.Draw(sheet)
    for index, (print, lines) in enumerate(zip(prints, texts, strict=True)):
        row, column = divmod(index, columns)
        x, y = _MARGIN + column * across, _MARGIN + row * down
        sheet.paste(print.image, (x + (width - print.image.width) // 2, y + height - print.image.height))
        for number, line in enumerate(lines):
            draw.text((x, y + height + _MARGIN + number * (ascent + descent)), line, "black", font)
    return sheet


def _wrapped(text: str, width: int, font: Any) -> list[str]:
    """A caption as at most LINES lines that fit; what is longer ends in dots."""
    lines, words = [""], text[:1000].split()
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif lines[-1] and len(lines) < LINES:
            lines.append(word)
        elif not lines[-1]:
            lines[-1] = word
        else:
            lines[-1] += "..."
            break
    return [_cut(line, width, font) for line in lines if line]


def _cut(line: str, width: int, font: Any) -> str:
    while len(line) > 4 and font.getlength(line) > width:
        line = line[:-4].removesuffix("..") + "..."
    return line
