"""What torch.save wrote, read as data: .ckpt, .pt, .pth and .bin files of both of its layouts.

zip      since torch 1.6: a zip archive of stored members, NAME/data.pkl and a NAME/data/KEY for each storage
legacy   before: five pickles one after the other (magic number, version, machine, value, keys), then for each key
         its count as 8 bytes and its numbers

The pickles go through weights/pickles.py, which runs nothing of theirs. Sizes and places are checked against the file's
before anything is read; tensors are views of the mapped bytes.
"""

import hashlib
import math
import mmap
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.weights import pickles
from aquatint.weights.header import COUNT, DTYPES, Entry, Header
from aquatint.weights.mapped import Mapped
from aquatint.weights.pickles import Refused, Storage, Stored

ZIP, PICKLE = b"PK\x03\x04", tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
MEMBERS = 100_000
LARGEST_DIRECTORY = 12 * 2**20  # bytes; a member of torch's takes 100
DEEPEST = 6  # dicts within dicts
WIDEST = 200_000  # values in them, each as often as it is reached
LONGEST_NAME = 500  # letters of a tensor's
MOST_SHARED = 8  # times the file's bytes that its tensors have together, when they share storages
LEGACY = 0x1950A86A20F9469CFC6C, 1001  # magic number and version
_TAKES = "A checkpoint as torch.save writes it, or safetensors."


class TorchFile:
    """One file of torch.save's: its tensors by their dotted names in the dict that it holds.

    header     as of a safetensors file; a dict under "state_dict" is taken for the whole, and the texts and numbers
               beside it become metadata
    notes      what was passed over, in words
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with files.reading(path, follow=False) as (file, size):
            self.size = size
            if not size:
                raise UserError(f'"{path}" is empty.', _TAKES, "Fetch it again.")
            self._mapped = Mapped(file, size)
        try:
            value, self._places = self._opened()
            self._tensors, self.header, self.notes = _laid_out(value, self.size)
            self._checked()
        except Refused as why:
            raise UserError(
                f'"{path}" is not read: {why}.', _TAKES, "Fetch it again, or from a source that you trust."
            ) from None

    def tensor(self, name: str, *, apart: bool = False) -> Tensor:
        """A tensor, without copying (except where it is badly aligned)."""
        stored = self._tensors[name]
        dtype = DTYPES[stored.storage.dtype]
        if 0 in stored.shape:
            return torch.empty(stored.shape, dtype=dtype)
        size = stored.storage.count * dtype.itemsize
        offset = self._places[stored.storage.key][0]
        flat = self._mapped.tensor(offset, size, dtype, apart=apart)
        return flat.as_strided(stored.shape, stored.stride, stored.offset)

    def sha256(self) -> str:
        """Of the whole file, in hexadecimal."""
        return hashlib.sha256(self._mapped.bytes).hexdigest()

    def data(self) -> memoryview:
        """All bytes of the file."""
        return memoryview(self._mapped.bytes)

    def release(self, name: str, *, apart: bool = False) -> None:
        """Tell the system that a tensor's bytes are not needed again soon (they were copied elsewhere)."""
        self._mapped.release(*self._places[self._tensors[name].storage.key], apart=apart)

    def _opened(self) -> tuple[Any, dict[str, tuple[int, int]]]:
        """(the value, where each storage's bytes begin and how many there are)."""
        if self._mapped.bytes[:4] == ZIP:
            return self._zip()
        if self._mapped.bytes[:2] in PICKLE:
            return self._legacy()
        raise Refused("it is neither torch's zip archive nor its older pickles")

    def _zip(self) -> tuple[Any, dict[str, tuple[int, int]]]:
        members = _members(self._mapped.bytes)
        roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(roots) != 1:
            raise Refused(f"it holds {len(roots)} pickles named data.pkl, and torch writes one")
        (root,) = roots
        if f"{root}byteorder" in members:
            begin, size = members[f"{root}byteorder"]
            if self._mapped.bytes[begin : begin + size] != b"little":
                raise Refused("its numbers are not little-endian")
        begin, size = members[f"{root}data.pkl"]
        if size > pickles.LONGEST:
            raise Refused(f"its pickle has {size:,} bytes, and at most {pickles.LONGEST:,} are read")
        value, end = pickles.run(self._mapped.bytes[begin : begin + size])
        if end != size:
            raise Refused("something follows its pickle")
        inner = f"{root}data/"
        return value, {name.removeprefix(inner): at for name, at in members.items() if name.startswith(inner)}

    def _legacy(self) -> tuple[Any, dict[str, tuple[int, int]]]:
        view, at, values, budget = memoryview(self._mapped.bytes), 0, [], pickles.Budget()
        for number in range(5):
            value, at = pickles.run(view, at, budget)
            values.append(value)
            if number < 2 and (type(value) is not int or value != LEGACY[number]):
                raise Refused("it is a bare pickle, not what torch.save writes")
        keys = values[4]
        if type(keys) is not list or not all(type(key) is str for key in keys) or len(set(keys)) != len(keys):
            raise Refused("its list of storages is none")
        sizes = {stored.storage.key: stored.storage for stored in _tensors_of(values[3])}
        places = {}
        for key in keys:
            if at + 8 > self.size:
                raise Refused("it breaks off within its storages")
            (count,) = struct.unpack("<q", view[at : at + 8])
            if key not in sizes or count != sizes[key].count:
                raise Refused(f'its storage "{key[:40]}" has not the size that its pickle says')
            places[key] = (at + 8, count * DTYPES[sizes[key].dtype].itemsize)
            at += 8 + places[key][1]
        if at != self.size:
            raise Refused("its length is not that of its storages")
        return values[3], places

    def _checked(self) -> None:
        """Every tensor's storage is there, whole, and of one type."""
        seen: dict[str, Storage] = {}
        for name, stored in self._tensors.items():
            storage = stored.storage
            if seen.setdefault(storage.key, storage) != storage:
                raise Refused(f'its storage "{storage.key[:40]}" is of two kinds')
            begin, size = self._places.get(storage.key, (0, -1))
            if size != storage.count * DTYPES[storage.dtype].itemsize or begin + size > self.size:
                raise Refused(f'the numbers of "{name[:80]}" are not there, or not as many as it says')


def is_torch(start: bytes) -> bool:
    """Whether a file that starts so may be one of torch.save's; its first 9 bytes tell it from safetensors."""
    return start[8:9] != b"{" and (start[:4] == ZIP or start[:2] in PICKLE)


def _members(data: mmap.mmap) -> dict[str, tuple[int, int]]:
    """Every member's first byte and size, from the directory, checked against the members' own heads."""
    if _directory(data) > LARGEST_DIRECTORY:
        raise Refused("its zip directory is larger than any checkpoint's")
    try:
        # Only the directory is read by the library; no member is unpacked.
        listed = zipfile.ZipFile(cast(IO[bytes], data)).infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error, EOFError) as why:
        raise Refused(f"its zip directory is damaged ({why})") from None
    if len(listed) > MEMBERS:
        raise Refused(f"its zip has {len(listed):,} members")
    found: dict[str, tuple[int, int]] = {}
    for info in listed:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise Refused(f'its member "{info.filename[:80]}" is packed or encrypted, which torch does not do')
        head = data[info.header_offset : info.header_offset + 30]
        if len(head) < 30 or head[:4] != ZIP or info.filename in found:
            raise Refused(f'its member "{info.filename[:80]}" is not where its directory says, or there twice')
        name, extra = struct.unpack("<HH", head[26:30])
        begin = info.header_offset + 30 + name + extra
        if begin + info.file_size > len(data):
            raise Refused(f'its member "{info.filename[:80]}" reaches beyond the end of the file')
        found[info.filename] = (begin, info.file_size)
    end = 0
    for name, (begin, size) in sorted(found.items(), key=lambda item: item[1]):
        if begin < end:
            raise Refused(f'its member "{name[:80]}" lies within another')
        end = begin + size
    return found


def _directory(data: mmap.mmap) -> int:
    """The size in bytes of the archive's directory, as its last record says, and the record of large archives before
    it (APPNOTE 4.3.14 to 4.3.16); torch adds no comment, so the record ends the file."""
    end = len(data) - 22
    if end < 0 or data[end : end + 4] != b"PK\x05\x06":
        raise Refused("its zip directory is damaged, or something follows it")
    (size,) = struct.unpack("<I", data[end + 12 : end + 16])
    if end >= 20 and data[end - 20 : end - 16] == b"PK\x06\x07":
        (place,) = struct.unpack("<Q", data[end - 12 : end - 4])
        if place + 56 > len(data) or data[place : place + 4] != b"PK\x06\x06":
            raise Refused("its zip directory is damaged")
        (large,) = struct.unpack("<Q", data[place + 40 : place + 48])
        return max(int(large), int(size) if size != 0xFFFFFFFF else 0)
    return int(size)


def _laid_out(value: Any, size: int) -> tuple[dict[str, Stored], Header, tuple[str, ...]]:
    """The tensors by name, as a head, and what was passed over, of a file of `size` bytes."""
    if type(value) is not dict:
        raise Refused(f"it holds a {type(value).__name__}, and a checkpoint is a dict")
    beside: Mapping[Any, Any] = {}
    if type(value.get("state_dict")) is dict:
        value, beside = value["state_dict"], {key: inner for key, inner in value.items() if key != "state_dict"}
    tensors: dict[str, Stored] = {}
    total = 0
    for name, stored in _walk(value):
        if name in tensors or len(name) > LONGEST_NAME:
            raise Refused(f'two of its tensors have the name "{name[:80]}", or it is too long')
        tensors[name] = stored
        total += _size(stored)
        if len(tensors) > COUNT or total > MOST_SHARED * size:
            raise Refused(f"it holds more than {COUNT:,} tensors, or {MOST_SHARED} times its own bytes in them")
    entries = {name: Entry(stored.storage.dtype, stored.shape, 0, _size(stored)) for name, stored in tensors.items()}
    texts = {
        str(key)[:200]: str(inner)[:1000]
        for key, inner in {**value, **beside}.items()
        if isinstance(key, str) and isinstance(inner, str | int | float)
    }
    told = sorted(str(key)[:40] for key in beside)
    notes = (f"beside its state_dict it holds {', '.join(told[:8])}: not looked at",) if told else ()
    return tensors, Header(entries, texts, 0), notes


def _walk(value: Any) -> Iterator[tuple[str, Stored]]:
    """Every tensor in dicts within dicts, by its dotted name; a dict may be in many, so what is reached is counted."""
    waiting, reached = [("", value, 0)], 0
    while waiting:
        name, part, depth = waiting.pop()
        if isinstance(part, Stored):
            yield name, part
        elif type(part) is dict and depth < DEEPEST:
            reached += len(part)
            if reached > WIDEST:
                raise Refused(f"it holds more than {WIDEST:,} values")
            start = f"{name}."[: LONGEST_NAME + 1] if depth else ""
            inside = [(key, inner) for key, inner in part.items() if isinstance(key, str | int)]
            waiting += [(f"{start}{key}", inner, depth + 1) for key, inner in reversed(inside)]


def _tensors_of(value: Any) -> Iterator[Stored]:
    """Every tensor anywhere in a value, without recursion and each part once."""
    waiting, seen = [value], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Stored):
            yield part
        elif isinstance(part, dict | list | tuple) and id(part) not in seen:
            seen.add(id(part))
            waiting += part.values() if isinstance(part, dict) else part


def _size(stored: Stored) -> int:
    """Of a tensor by itself, in bytes."""
    return math.prod(stored.shape) * DTYPES[stored.storage.dtype].itemsize
