"""A folder of pictures with their captions, as people keep them; a picture without one is an error that names it.

Captions stand in a text file beside the picture (cat.txt for cat.png), or for many pictures in `metadata.jsonl`
({"file_name": "cat.png", "text": "..."}, as Hugging Face's datasets has it), `captions.json` ({"cat.png": "..."}) or
`captions.csv` (columns file_name and text; metadata.csv is the same).
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from aquatint.base import config, files, images
from aquatint.base.errors import UserError
from aquatint.training.data.prepared import Prepared, is_prepared

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
TABLES = ("metadata.jsonl", "captions.json", "captions.csv", "metadata.csv")
MOST = 100_000  # pictures of one folder
LONGEST = 10_000  # letters of a caption
LARGEST_TABLE = 256 * 2**20
MASK = "masks"  # folder beside the pictures: how much each place counts, by the picture's name, as a grey picture
HINT = "hints"  # the same: what a ControlNet is shown
DEPTH = "depth"  # the same: a depth map, white where things are near
BEFORE = "before"  # what each picture was made of by an instruction, its caption; of its name or that as .png
_CAPTIONED = (
    "Each picture with a caption: beside it as a .txt file, or in metadata.jsonl, captions.json or captions.csv."
)


@dataclass(frozen=True)
class Example:
    """A picture's file and what is said of it.

    mask     the file that says how much each of its places counts, if any does
    hint     the file with what a ControlNet is shown, if there is one
    held     gives the picture's bytes where they are in no file of their own
    depth    the file with its depth map;  before: that with the picture that it was made of
    """

    path: Path
    caption: str
    mask: Path | None = None
    hint: Path | None = None
    held: Callable[[], bytes] | None = None
    depth: Path | None = None
    before: Path | None = None

    def picture(self) -> Image.Image:
        """The picture, RGB, as it is seen (EXIF's orientation applied); UserError for what is no picture."""
        try:
            data = self.held() if self.held else files.read(self.path, limit=images.LARGEST_FILE)
            found = images.decode(data)
        except UserError as error:
            raise UserError(f'"{self.path}": {error.got}', error.takes, error.remedy) from None
        return images.rgb(found)


def read(folder: str | Path, *, words: Sequence[str] = ()) -> list[Example]:
    """The pictures of a folder with their captions, by name; of a prepared one (prepare.py) its training split.

    words   captions that pictures without one take in turn (DreamBooth's "a photo of sks dog"); none: all must have one

    Raises UserError for a folder without pictures, captions for pictures that are not there, and pictures without one.
    """
    root = Path(folder).expanduser()
    if is_prepared(root):
        return _of_prepared(Prepared(root), words)
    with files.telling(root, "read"):
        if not root.is_dir():
            raise UserError(f'"{root}" is no folder.', "A folder of pictures.")
        found = sorted(path for path in root.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
    if not found:
        raise UserError(f'"{root}" holds no pictures.', f"Files that end in {', '.join(PICTURES)}.")
    _check_count(root, len(found))
    told = table(root)
    if strange := sorted(set(told) - {path.name for path in found}):
        raise UserError(
            f'"{root}" has words for "{strange[0][:80]}", which is not there.', "Captions of pictures there."
        )
    examples, silent = [], []
    for index, path in enumerate(found):
        spare = words[index % len(words)].strip() if words else ""
        said = beside(path) or told.get(path.name, "") or spare
        if not said:
            silent.append(path.name)
        mask, hint, depth, drawn = (_there(root / name / f"{path.stem}.png") for name in (MASK, HINT, DEPTH, BEFORE))
        before = _there(root / BEFORE / path.name) or drawn
        examples.append(Example(path, said, mask, hint, depth=depth, before=before))
    _check_captions(root, silent)
    return examples


def _of_prepared(data: Prepared, words: Sequence[str]) -> list[Example]:
    """The samples of a prepared folder, each read and checked now and when its picture is asked for."""
    _check_count(data.folder, len(data))
    samples = [(sample.key, sample.caption) for sample in map(data.read, range(len(data)))]
    said = [
        caption or (words[index % len(words)].strip() if words else "") for index, (_, caption) in enumerate(samples)
    ]
    _check_captions(data.folder, [key for (key, _), caption in zip(samples, said, strict=True) if not caption])
    return [
        Example(data.folder / key, caption, held=lambda number=number: data.read(number).picture)  # type: ignore[misc]
        for number, ((key, _), caption) in enumerate(zip(samples, said, strict=True))
    ]


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _check_count(root: Path, count: int) -> None:
    if count > MOST:
        raise UserError(f'"{root}" holds {count:,} pictures.', f"At most {MOST:,} in one folder.")


def _check_captions(root: Path, silent: Sequence[str]) -> None:
    if silent:
        more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
        raise UserError(f'"{root}": {", ".join(silent[:3])}{more} without a caption.', _CAPTIONED)


def beside(path: Path) -> str:
    """The caption in the text file of the picture's name; "" if there is none."""
    text = path.with_suffix(".txt")
    return caption(files.read_text(text), text) if text.is_file() else ""


def table(root: Path) -> dict[str, str]:
    """The captions of the folder's table, if it has one, by the pictures' names."""
    for name in TABLES:
        path = root / name
        if path.is_file():
            return {file: caption(text, path) for file, text in _rows(path)}
    return {}


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """(file name, caption) of a table; UserError where it has another shape."""
    text = files.read_text(path, limit=LARGEST_TABLE)
    if path.name == "captions.json":
        data = config.parse(text)
        if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
            raise UserError(f'"{path}" is no object of captions.', '{"cat.png": "a cat"}.')
        yield from data.items()
        return
    if path.suffix == ".csv":
        try:
            reader = csv.DictReader(io.StringIO(text))
            if not {"file_name", "text"} <= set(reader.fieldnames or ()):
                raise UserError(f'"{path}" has the columns {str(reader.fieldnames)[:80]}.', "file_name and text.")
            found = [(str(row["file_name"]), str(row["text"] or "")) for row in reader]
        except csv.Error as error:
            raise UserError(f'"{path}" is not CSV that can be read ({error}).', "Columns file_name and text.") from None
        yield from found
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        row: Any = None
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("file_name", "text")):
            raise UserError(f'"{path}", line {number}, is no row.', '{"file_name": "cat.png", "text": "a cat"}.')
        yield row["file_name"], row["text"]


def caption(text: str, path: Path | str) -> str:
    """A caption in one line; UserError for one that is too long."""
    line = " ".join(text.split())
    if len(line) > LONGEST:
        raise UserError(f'"{path}" has a caption of {len(line):,} letters.', f"At most {LONGEST:,}.")
    return line
