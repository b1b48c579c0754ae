"""Reading tar archives that others made: where each regular file lies, and nothing else is looked at.

ustar with its prefix, GNU's long names and pax's path and size (POSIX.1-2001) are understood. Nothing is unpacked.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from aquatint.base import files
from aquatint.base.errors import UserError

BLOCK = 512
LONGEST_NAME = 2**16  # bytes of an extended header


class Member(NamedTuple):
    """A regular file of an archive: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


class BrokenArchive(UserError):
    """An archive that cannot be followed further."""


def members(path: Path) -> Iterator[Member]:
    """The regular files of an archive in their order; BrokenArchive at the first byte that makes no sense."""
    with files.reading(path) as (file, size):
        at, name, length = 0, "", -1
        while True:
            head = _at(file, at, BLOCK)
            if len(head) < BLOCK:
                raise _broken(path, at, "it ends without an end")
            if not any(head):
                return
            if not _checked(head):
                raise _broken(path, at, "this is no header")
            kind, own = head[156:157], _number(head[124:136])
            start = at + BLOCK
            if own < 0 or start + (length if length >= 0 else own) > size:
                raise _broken(path, at, "a file that would end after the archive")
            if kind in b"Lx":
                if own > LONGEST_NAME:
                    raise _broken(path, at, f"a header of {own:,} bytes")
                told = _at(file, start, own)
                name, length = (_text(told), length) if kind == b"L" else _pax(told, name, length)
                at = start + _padded(own)
                continue
            own = length if length >= 0 else own
            if kind in b"0\0":
                yield Member(name or _name(head), start, own)
            at, name, length = start + _padded(own), "", -1


def read(path: Path, offset: int, size: int) -> bytes:
    """A member's bytes."""
    with files.reading(path) as (file, _):
        data = _at(file, offset, size)
    if len(data) != size:
        raise UserError(f'"{path}" is shorter than it was.', "A file that nobody is writing.")
    return data


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    pieces = []
    while size and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _checked(head: bytes) -> bool:
    """Whether the header's sum is right; the field itself counts as spaces."""
    return _number(head[148:156]) == sum(head[:148]) + sum(head[156:]) + 8 * ord(" ")


def _number(field: bytes) -> int:
    """An octal number, or GNU's base-256 one; -1 for neither."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.rstrip(b" \0").lstrip(b" ")
    try:
        return int(digits or b"0", 8)
    except ValueError:
        return -1


def _name(head: bytes) -> str:
    prefix = _text(head[345:500]) if head[257:263] == b"ustar\0" else ""
    return f"{prefix}/{_text(head[:100])}" if prefix else _text(head[:100])


def _pax(data: bytes, name: str, length: int) -> tuple[str, int]:
    """(path, size) of pax records, "LENGTH KEY=VALUE\\n" each; what they do not say stays."""
    while data:
        count, _, rest = data.partition(b" ")
        if not count.isdigit() or len(count) > 6 or not len(count) + 1 < int(count) <= len(data):
            break
        key, _, value = rest[: int(count) - len(count) - 2].partition(b"=")
        name = _text(value) if key == b"path" else name
        length = int(value) if key == b"size" and value.isdigit() and len(value) < 16 else length
        data = data[int(count) :]
    return name, length


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _broken(path: Path, at: int, why: str) -> BrokenArchive:
    return BrokenArchive(f'"{path}" is damaged at byte {at:,}: {why}.', "A whole tar archive.")
