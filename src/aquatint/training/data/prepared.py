"""A prepared folder: samples by number, every one checked as it is read."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from aquatint.base import config, files, images
from aquatint.base.errors import UserError
from aquatint.training.data.shards import ROW, SPLITS, Damaged, Sample, key_of, opened, shard_of

INDEX, REPORT = "index.npy", "report.json"
LARGEST = 80 * 2**20  # bytes of a record


class Prepared:
    """What `aquatint data prepare` wrote; the index is mapped, and shards are opened as they are asked for.

    split   "train" or "validation": whose samples are numbered here, 0 ... len - 1
    """

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        self.folder = Path(folder).expanduser()
        if split not in SPLITS:
            raise UserError(f'split "{split}".', f"One of: {', '.join(SPLITS)}.")
        if not is_prepared(self.folder):
            raise UserError(
                f'"{self.folder}" is no prepared folder.',
                "One that `aquatint data prepare` has finished.",
            )
        self.rows = _mapped(self.folder / INDEX)
        counts = _counts(self.folder, len(self.rows))
        self.first, self.count, self.split = sum(counts[: SPLITS.index(split)]), counts[SPLITS.index(split)], split

    def __len__(self) -> int:
        return self.count

    def row(self, number: int) -> np.void:
        """A copy of what the index says of a sample."""
        if not 0 <= number < self.count:
            raise UserError(f"Sample {number} of {self.split}.", f"There are {self.count:,}.")
        found: np.void = self.rows[self.first + number].copy()
        return found

    def read(self, number: int) -> Sample:
        """A sample of the split; Damaged, which names shard, offset and key, if a bit of it is not what was written."""
        row = self.row(number)
        return opened(self.first + number, row, self._bytes(self.first + number, row))

    def picture(self, number: int) -> Image.Image:
        """A sample's picture, RGB, as it is seen."""
        return images.rgb(images.decode(self.read(number).picture))

    def sizes(self) -> np.ndarray:
        """[n, 2]: every picture's width and height, uint16."""
        own = self.rows[self.first : self.first + self.count]
        return np.stack([own["width"], own["height"]], axis=1)

    def damaged(self) -> Iterator[Damaged]:
        """Every sample of the split that is not what was written."""
        for number in range(self.count):
            try:
                self.read(number)
            except Damaged as damage:
                yield damage

    def _bytes(self, number: int, row: np.void) -> bytes:
        """A record as the disk has it, or less where the shard is short or the row is not to be believed."""
        name, offset, length = shard_of(row), int(row["offset"]), int(row["length"])
        if length > LARGEST or not (self.folder / name).is_file():
            why = f"a record of {length:,} bytes" if length > LARGEST else "there is no such file"
            raise Damaged(name, offset, key_of(number), why)
        with files.reading(self.folder / name) as (file, size):
            file.seek(min(offset, size))
            return _read(file, length)


def is_prepared(folder: str | Path) -> bool:
    """Whether a folder is one of ours, and finished."""
    return (Path(folder) / INDEX).is_file() and (Path(folder) / files.MANIFEST).is_file()


def _read(file: BinaryIO, length: int) -> bytes:
    pieces = []
    while length and (piece := file.read(length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _counts(folder: Path, rows: int) -> list[int]:
    """How many samples each split has: the report says so, whose own digest stands in the manifest."""
    text = files.read(folder / REPORT, limit=2**24)
    told = files.read_manifest(folder).get(REPORT)
    if told is None or hashlib.sha256(text).hexdigest() != told.sha256:
        raise UserError(f'"{folder / REPORT}" is not what was written.', "The report that was prepared.")
    splits = config.parse(text.decode())["splits"]
    counts = [int(splits[split]) for split in SPLITS]
    if sum(counts) != rows:
        raise UserError(f'"{folder / INDEX}" has {rows:,} rows.', f"{sum(counts):,}, says the report.")
    return counts


def _mapped(path: Path) -> np.ndarray:
    """The index. Its head is judged here, its rows as they are used."""
    try:
        with files.telling(path, "read"):
            rows: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise UserError(f'"{path}" is no index: {str(error)[:100]}.', "The one that was prepared.") from None
    if rows.dtype != ROW or rows.ndim != 1:
        raise UserError(
            f'"{path}" is an index of another kind.', "One of this version of aquatint's.", "Prepare again."
        )
    return rows
