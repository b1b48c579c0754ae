"""One request varied along axes: every combination of values of its fields, and the sheet that shows them."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.pipelines.request import Request

MOST_CELLS = 1_000
LONGEST_LABEL = 60  # letters
_RANGE = re.compile(r"(-?\d+(?:\.\d+)?)\.\.(-?\d+(?:\.\d+)?)(?::(\d+(?:\.\d+)?))?")
_MARGIN = 6  # pixels


@dataclass(frozen=True)
class Axis:
    """A field of Request and the values that it takes, as text.

    Beside the fields' own names there are `seed` (one picture's), `size` ("512x768") and `prompt`, whose first value is
    searched for in the prompt and replaced by each of the values in turn, itself included.
    """

    field: str
    values: tuple[str, ...]


def axis(text: str) -> Axis:
    """An axis from "steps=10,20,30", "guidance=1..9:2" (from 1 to 9 by 2) or "prompt=cat,dog"; commas in quotes count
    as letters. UserError for anything else."""
    field, found, listed = text.partition("=")
    takes = "FIELD=VALUE,VALUE,... or FIELD=FIRST..LAST:STEP, as in steps=10,20,30 or guidance=1..9:2."
    if not found or not field.strip() or not listed.strip():
        raise UserError(f'The axis "{text[:80]}".', takes)
    (values,) = csv.reader([listed], skipinitialspace=True)
    spread = [value for part in values for value in _spread(part.strip())]
    if not all(spread):
        raise UserError(f'The axis "{text[:80]}" has an empty value.', takes)
    if len(spread) != len(set(spread)):
        raise UserError(f'The axis "{text[:80]}" has a value twice.', takes)
    return Axis(field.strip(), tuple(spread))


def cells(request: Request, axes: Sequence[Axis]) -> list[Request]:
    """The request at every combination of the axes' values, the first axis changing fastest.

    All are made, hence checked, before any is painted. UserError for a field that does not exist, stands twice, or
    does not take a value, and for more than 1,000 combinations.
    """
    names = [each.field for each in axes]
    if len(set(names)) != len(names):
        raise UserError(f"Two axes of one field: {', '.join(names)}.", "A field for each axis.")
    count = 1
    for each in axes:
        count *= len(each.values)
    if count > MOST_CELLS:
        raise UserError(f"{count:,} combinations.", f"At most {MOST_CELLS:,}.", "Leave some values out.")
    made = []
    for values in product(*(each.values for each in reversed(axes))):
        cell = request
        for each, value in zip(axes, reversed(values), strict=True):
            cell = _changed(cell, each, value)
        made.append(cell)
    return made


def matrix(prompt: str) -> tuple[list[str], list[str], list[str]]:
    """A prompt matrix: "a|b|c" is a alone and with every choice of the rest ("a", "a, b", "a, c", "a, b, c").

    Returns the prompts row by row, the labels of the columns (choices of the first half of the rest) and of the rows.
    """
    first, *others = (part.strip() for part in prompt.split("|"))
    if not first or not others or not all(others):
        takes = "A prompt and parts to add, as in a cat|in snow|at night."
        raise UserError(f'"{prompt[:80]}" is no prompt matrix.', takes)
    if 2 ** len(others) > MOST_CELLS:
        raise UserError(f"{2 ** len(others):,} combinations.", f"At most {MOST_CELLS:,}.", "Leave some parts out.")
    half = -(-len(others) // 2)
    across, down = _choices(others[:half]), _choices(others[half:])
    prompts = [", ".join([first, *here, *there]) for there in down for here in across]
    return prompts, _labels(across), _labels(down)


def labelled(
    pictures: Sequence[Image.Image], across: Sequence[str], down: Sequence[str], title: str = ""
) -> Image.Image:
    """Pictures row by row in a table with labels above the columns and before the rows, and a title over all."""
    assert len(pictures) == len(across) * len(down), f"{len(pictures)} pictures for {len(across)} x {len(down)}"
    width, height = (max(side) for side in zip(*(picture.size for picture in pictures), strict=True))
    font = ImageFont.load_default(max(11, min(20, width // 14)))
    left = max((_size(label, font)[0] for label in down), default=0)
    left += 2 * _MARGIN if left else 0
    top = sum(_size(text, font)[1] + 2 * _MARGIN for text in (title, "".join(across)) if text)
    sheet = Image.new("RGB", (left + len(across) * width, top + len(down) * height), "white")
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((left + len(across) * width / 2, _MARGIN), _short(title), "black", font, anchor="ma")
    for column, label in enumerate(across):
        draw.text(
            (left + (column + 0.5) * width, top - _MARGIN), _fitted(label, width, font), "black", font, anchor="md"
        )
    for row, label in enumerate(down):
        draw.text((left - _MARGIN, top + (row + 0.5) * height), _short(label), "black", font, anchor="rm")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, len(across))
        sheet.paste(picture, (left + column * width, top + row * height))
    return sheet


def _changed(request: Request, axis: Axis, value: str) -> Request:
    if axis.field == "prompt":
        searched = axis.values[0]
        if searched not in request.prompt:
            raise UserError(
                f'The axis looks for "{searched}", which the prompt does not have.', "A part of the prompt."
            )
        return replace(request, prompt=request.prompt.replace(searched, value))
    if axis.field == "seed":
        return config.override(request, {"seeds": value})
    if axis.field == "size":
        width, _, height = value.partition("x")
        return config.override(request, {"width": width, "height": height})
    return config.override(request, {axis.field: value})


def _choices(parts: Sequence[str]) -> list[tuple[str, ...]]:
    """Every choice of some of the parts, the smaller first."""
    return [choice for size in range(len(parts) + 1) for choice in combinations(parts, size)]


def _labels(choices: Sequence[tuple[str, ...]]) -> list[str]:
    return [" + ".join(choice) or "-" for choice in choices] if len(choices) > 1 else [""]


def _spread(value: str) -> list[str]:
    """ "1..9:2" -> 1, 3, 5, 7, 9; any other text is itself."""
    match = _RANGE.fullmatch(value)
    if not match:
        return [value]
    whole = "." not in match[1] + match[2] + (match[3] or "")
    first, last, step = float(match[1]), float(match[2]), float(match[3] or 1)
    count = int((last - first) / step + 1e-9) + 1 if step > 0 else 0
    if not 0 < count <= MOST_CELLS:
        raise UserError(f'The range "{value}".', f"FIRST..LAST:STEP, rising, with at most {MOST_CELLS:,} values.")
    numbers = [round(first + index * step, 9) for index in range(count)]
    return [str(int(number)) if whole else f"{number:g}" for number in numbers]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_LABEL else line[: LONGEST_LABEL - 3] + "..."


def _fitted(text: str, width: int, font: Any) -> str:
    """The label cut to the column that it stands over."""
    line = _short(text)
    while len(line) > 4 and font.getlength(line) > width - _MARGIN:
        line = line[:-4] + "..."
    return line


def _size(text: str, font: Any) -> tuple[int, int]:
    """Of a label's line, in pixels; nothing for no text."""
    ascent, descent = font.getmetrics()
    return (int(font.getlength(_short(text))) + 1, ascent + descent) if text else (0, 0)
