"""The head of a safetensors file, checked before anything that it says is believed.

Layout: 8 bytes, little-endian, the length n of the head; n bytes of JSON, {name: {dtype, shape, data_offsets}} and
perhaps `__metadata__`, texts only; then the tensors' bytes without a gap. What the official library refuses is refused
here too (tests run both on the same damaged heads); doubled and endless names, unknown fields and absurd sizes are
refused besides.
"""

import json
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

LONGEST = 8 * 2**20  # bytes of JSON; Stable Diffusion XL has 2,500 tensors and needs 0.4 million
RANK = 8
COUNT = 20_000
LONGEST_NAME = 1_000  # letters; a name stands in messages
SIGNS = ((b"[{", 100_000), (b",", 300_000))  # as many as a head may hold; 20,000 tensors need fewer
DTYPES: dict[str, torch.dtype] = {  # in the order in which a file keeps them: widest first, so that all are aligned
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")  # what weights may be stored as


@runtime_checkable  # for the tests, which check every annotation
class Source(Protocol):
    """Anything with bytes: an open file, or bytes in memory."""

    def seek(self, offset: int, /) -> int:
        """Go to a byte."""

    def read(self, size: int, /) -> bytes | None:
        """At most that many bytes from there."""


class Malformed(ValueError):
    """Why these bytes are no safetensors file, in words that follow "because"."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor, as the head announces it; begin and end count bytes from the first tensor's first."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """A whole head: the tensors by name, the texts beside them, and where in the file the tensors start."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    start: int


def read_header(file: Source, size: int, times: int = 1) -> Header:
    """The checked head of an open file of `size` bytes; raises Malformed.

    times   how many times as much as a model's file it may list: a training state lists each weight several times
    """
    file.seek(0)
    first = _exactly(file, min(8, size))
    if len(first) < 8:
        raise Malformed(f"it has {size} bytes, and the first 8 tell how long the head is")
    length = int.from_bytes(first, "little")
    if length > times * LONGEST:
        raise Malformed(f"its head would have {length:,} bytes, and at most {times * LONGEST:,} are read")
    if 8 + length > size:
        raise Malformed(f"its head of {length:,} bytes does not fit into the file's {size:,}")
    return parse(_exactly(file, length), size - 8 - length, times)


def parse(head: bytes, room: int, times: int = 1) -> Header:
    """The checked head from its JSON bytes, for a file with `room` bytes after it; raises Malformed."""
    if not head.startswith(b"{"):
        raise Malformed("its head does not start with an opening brace")
    for signs, most in SIGNS:
        if sum(head.count(sign) for sign in signs) > times * most:
            raise Malformed(f"its head has more than {times * most:,} of {signs.decode()}")
    try:
        data = json.loads(
            head.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except UnicodeDecodeError:
        raise Malformed("its head is not UTF-8") from None
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"its head is not JSON ({type(error).__name__})") from None
    if not isinstance(data, dict):
        raise Malformed("its head is not a JSON object")
    metadata = _metadata(data.pop("__metadata__", None))
    if len(data) > times * COUNT:
        raise Malformed(f"it lists {len(data):,} tensors, and at most {times * COUNT:,} are read")
    longest = max(map(len, data), default=0)
    if longest > LONGEST_NAME:
        raise Malformed(f"a tensor's name has {longest:,} letters, and at most {LONGEST_NAME:,} are read")
    entries = {_text(name): _entry(name, fields) for name, fields in data.items()}
    _without_gaps(entries, room)
    return Header(entries, metadata, 8 + len(head))


def _entry(name: str, fields: Any) -> Entry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise Malformed(f'tensor "{name}" is not described by dtype, shape and data_offsets')
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Malformed(f'tensor "{name}" has dtype {str(dtype)[:20]!r}, which is not one of {", ".join(DTYPES)}')
    if not _naturals(shape) or len(shape) > RANK:
        raise Malformed(f'tensor "{name}" has no shape of at most {RANK} whole numbers')
    if not _naturals(offsets) or len(offsets) != 2:
        raise Malformed(f'tensor "{name}" does not say where it begins and ends')
    count = 1
    for side in shape:
        count *= side
        if count >= 2**56:  # also where a later side is 0: the official library multiplies in this order
            raise Malformed(f'tensor "{name}" has an absurd shape')
    needed = count * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != needed:
        raise Malformed(f'tensor "{name}" needs {needed:,} bytes and is given {offsets[1] - offsets[0]:,}')
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _without_gaps(entries: dict[str, Entry], room: int) -> None:
    """Every byte after the head belongs to exactly one tensor."""
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            raise Malformed(f'tensor "{name}" begins at byte {entry.begin:,} instead of {at:,}')
        at = entry.end
    if at != room:
        missing = f"{at - room:,} bytes are missing at its end" if at > room else f"{room - at:,} bytes are too many"
        raise Malformed(missing)


def _metadata(data: Any) -> dict[str, str]:
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise Malformed("its metadata are not texts")
    return {_text(key): _text(value) for key, value in data.items()}


def _text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed("it has a text that is not Unicode (half of a surrogate pair)") from None
    return text


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _whole(digits: str) -> int:
    if digits.startswith("-") or len(digits) > 18:
        raise Malformed(f"it counts {digits[:20]}")
    return int(digits)


def _no_number(word: str) -> Any:
    raise Malformed(f"it counts {word[:20]}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Malformed("a name stands twice in its head")
    return result


def _exactly(file: Source, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (piece := file.read(count - len(data))):
        data += piece
    if len(data) < count:
        raise Malformed("it became shorter while it was read")
    return bytes(data)
