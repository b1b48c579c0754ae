"""What data sets are prepared from, as one sequence of items: folders of pictures, tar archives, Parquet tables.

A folder is walked with all below it, by name. In it count: pictures, with a caption in a .txt or .json beside each or
in a table at its top (folder.py); tar archives as WebDataset and img2dataset write them (KEY.jpg, KEY.txt, KEY.json,
told apart by what stands before the first dot); and Parquet tables that hold the pictures' bytes. A table beside an
archive of its name is img2dataset's account of it, and is left alone. Links are told of and not followed: a data set
of somebody else's may lead one to any file of this machine.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from aquatint.base import config, files, images
from aquatint.base.errors import UserError
from aquatint.training.data import archive, folder

WORDS = (".txt", ".caption", ".text")  # endings of a caption's member
TOLD = ("caption", "text", "TEXT", "prompt")  # what a JSON object or a table calls a caption
LARGEST_WORDS = 2**20


class Unreadable(Exception):
    """An item that cannot be taken: a reason in short, as the report counts them, and what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(detail)


class Raw(NamedTuple):
    """What an item is made of: the picture's bytes, its caption ("" for none), and what else its source says."""

    picture: bytes
    caption: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """One picture to be: where it comes from, its size in bytes, and how it is read (UserError or Unreadable)."""

    name: str
    size: int
    read: Callable[[], Raw]


@dataclass(frozen=True)
class Columns:
    """What a Parquet table's columns are called. A picture may be bytes, or Hugging Face's {"bytes": ...}."""

    image: str = "image"
    caption: str = "caption"
    key: str = "key"


@dataclass(frozen=True)
class Walk:
    """A source being walked: its root and the captions of its table."""

    root: Path
    columns: Columns
    told: Mapping[str, str] = field(default_factory=dict)


def items(source: Path, columns: Columns | None = None) -> Iterator[Item]:
    """The items of a folder, an archive or a table, in an order that does not depend on the disk."""
    with files.telling(source, "read"):
        mode = source.stat().st_mode
    columns = columns or Columns()
    if stat.S_ISDIR(mode):
        yield from _inside(Walk(source, columns, folder.table(source)), source)
    elif source.suffix == ".tar":
        yield from _tar(source, source.name)
    elif source.suffix == ".parquet":
        yield from _parquet(source, source.name, columns)
    else:
        raise UserError(f'"{source}" is no data set.', "A folder, a .tar or a .parquet.")


def _inside(walk: Walk, inside: Path) -> Iterator[Item]:
    with files.telling(inside, "read"):
        entries = sorted(os.scandir(inside), key=lambda entry: entry.name)
    archives = {Path(entry.name).stem for entry in entries if entry.name.endswith(".tar")}
    for entry in entries:
        path, ending = Path(entry.path), Path(entry.name).suffix.lower()
        name = path.relative_to(walk.root).as_posix()
        if entry.is_symlink():
            if ending in (*folder.PICTURES, ".tar", ".parquet") or path.is_dir():
                yield Item(name, 0, _refusing("link", "It is a symbolic link."))
        elif entry.is_dir():
            if entry.name not in (folder.MASK, folder.HINT) or inside != walk.root:
                yield from _inside(walk, path)
        elif ending in folder.PICTURES:
            yield Item(name, entry.stat().st_size, lambda path=path, name=name: _file(walk, path, name))  # type: ignore[misc]
        elif ending == ".tar":
            yield from _tar(path, name)
        elif ending == ".parquet" and path.stem not in archives:
            yield from _parquet(path, name, walk.columns)


def _file(walk: Walk, path: Path, name: str) -> Raw:
    picture = files.read(path, limit=images.LARGEST_FILE, follow=False)
    texts = [path.with_suffix(ending) for ending in (".txt", ".json")]
    said = [files.read(text, limit=LARGEST_WORDS, follow=False) if text.is_file() else b"" for text in texts]
    facts = _object(said[1])
    return Raw(picture, _said(said[0], facts, name) or walk.told.get(name, ""), facts)


def _tar(path: Path, name: str) -> Iterator[Item]:
    """One item for each group of members in a row that share a key."""
    broken: list[str] = []

    def followed() -> Iterator[archive.Member]:
        try:
            yield from archive.members(path)
        except UserError as error:
            broken.append(str(error))

    for key, group in groupby(followed(), key=lambda member: _split(member.name)[0]):
        parts: dict[str, archive.Member] = {}
        for member in group:
            parts.setdefault(_split(member.name)[1], member)
        picture = next((parts[ending] for ending in folder.PICTURES if ending in parts), None)
        words = next((parts[ending] for ending in WORDS if ending in parts), None)
        place = f"{name}/{key}"
        if picture is not None:
            facts = parts.get(".json")
            yield Item(place, picture.size, lambda p=picture, w=words, f=facts, n=place: _members(path, p, w, f, n))  # type: ignore[misc]
        elif words is not None or ".json" in parts:
            yield Item(place, 0, _refusing("no picture", f"It has {', '.join(sorted(parts))[:100]}."))
    if broken:
        yield Item(name, 0, _refusing("broken archive", broken[0]))


def _members(
    path: Path, picture: archive.Member, words: archive.Member | None, facts: archive.Member | None, name: str
) -> Raw:
    if picture.size > images.LARGEST_FILE:
        raise UserError(f"A picture of {picture.size:,} bytes.", f"At most {images.LARGEST_FILE:,} bytes.")
    texts = [archive.read(path, m.offset, min(m.size, LARGEST_WORDS)) if m else b"" for m in (words, facts)]
    known = _object(texts[1])
    return Raw(archive.read(path, picture.offset, picture.size), _said(texts[0], known, name), known)


def _parquet(path: Path, name: str, columns: Columns) -> Iterator[Item]:
    """One item a row, read a few rows at a time."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError("Parquet is read by pyarrow, which is not there.", "pip install aquatint[train]") from None
    try:
        table = parquet.ParquetFile(path)
        have = table.schema_arrow.names
        if columns.image not in have:
            raise UserError(f'"{path}" has the columns {", ".join(have)[:200]}.', f'"{columns.image}" with pictures.')
        wanted = [column for column in (columns.image, columns.caption, columns.key) if column in have]
        number = 0
        for batch in table.iter_batches(batch_size=64, columns=wanted):
            for row in batch.to_pylist():
                picture = row[columns.image]
                picture = picture.get("bytes") if isinstance(picture, dict) else picture
                said, key = str(row.get(columns.caption) or ""), str(row.get(columns.key, number))
                place = f"{name}/{key}"
                if isinstance(picture, bytes):
                    made = Raw(picture, folder.caption(said, place), {})
                    yield Item(place, len(picture), lambda made=made: made)  # type: ignore[misc]
                else:
                    yield Item(place, 0, _refusing("no picture", "There are no bytes."))
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        yield Item(name, 0, _refusing("broken table", str(error).split("\n")[0][:200]))


def _split(name: str) -> tuple[str, str]:
    """(key, ending) of a member: its name up to the first dot after its last slash, and the rest."""
    before, slash, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    return before + slash + stem, (dot + ending).lower()


def _said(words: bytes, facts: Mapping[str, Any], name: str) -> str:
    text = words.decode("utf-8", "replace")
    found = text.strip() or next((facts[key] for key in TOLD if isinstance(facts.get(key), str)), "")
    return folder.caption(found.replace("\0", " ").encode("utf-8", "replace").decode(), name)


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object, or nothing where the text is none."""
    try:
        found = config.parse(text.decode("utf-8", "replace"), most=10_000) if text else {}
        config.to_data(found)
    except (UserError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusing(reason: str, detail: str) -> Callable[[], Raw]:
    def read() -> Raw:
        raise Unreadable(reason, detail)

    return read
