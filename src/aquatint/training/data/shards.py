"""Shards: tar archives of KEY.jpg, KEY.txt and KEY.json (WebDataset's layout), and the index that says where all is.

A sample's members stand one behind the other in its shard: its record, which its row of `index.npy` describes. Records
follow each other without a gap, and the last one of a shard ends where the file does, so that every byte of a shard
belongs to one record. A row ends in the sha256 of its record and of the row itself: whoever reads a sample knows that
not one bit of its pictures, words, tar headers and padding, nor of the row, is another than was written. A tar header
is written for others and never read by us: where things are and how long, the row says.
"""

import hashlib
import json
import tarfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from aquatint.base.errors import UserError

SPLITS = ("train", "validation")
ENDINGS = {"jpeg": "jpg", "png": "png", "webp": "webp"}  # of members, by a picture's format
BLOCK = 512  # tar's unit, bytes (POSIX.1-1988, ustar)
END = bytes(2 * BLOCK)  # what ends an archive
MOST_WORDS = 2**20  # bytes of a caption or of facts
ROW = np.dtype(
    [
        ("shard", "<u4"),
        ("split", "u1"),
        ("offset", "<u8"),  # of the record in its shard, bytes
        ("length", "<u4"),  # of the record
        ("picture", "<u4"),  # bytes of the picture, of the caption and of the facts
        ("caption", "<u4"),
        ("facts", "<u4"),
        ("width", "<u2"),  # pixels, as the picture is seen
        ("height", "<u2"),
        ("phash", "<u8"),
        ("sha256", "V32"),  # of the picture's bytes
        ("sum", "V32"),  # of the record's bytes, then of the row's up to here
    ]
)


class Damaged(UserError):
    """A sample that is not what was written."""

    def __init__(self, shard: str, offset: int, key: str, why: str) -> None:
        self.shard, self.offset, self.key = shard, offset, key
        super().__init__(
            f'Shard "{shard}" is damaged at byte {offset:,}, sample "{key}": {why}.',
            "What was written there.",
            "Fetch or make that shard again.",
        )


class Written(NamedTuple):
    """A record's bytes and its row, whose place is still to come."""

    data: bytes
    row: np.void


class Sample(NamedTuple):
    """What was read: the picture's bytes as they were found, its caption, and what else is known (a JSON object)."""

    number: int
    key: str
    picture: bytes
    caption: str
    facts: Mapping[str, Any]
    width: int
    height: int
    sha256: str


def shard_name(split: int, shard: int) -> str:
    """The path of a shard in its folder."""
    return f"{SPLITS[split]}-{shard:05d}.tar"


def key_of(number: int) -> str:
    """The key of a sample: its number, in nine digits or more."""
    return f"{number:09d}"


def record(number: int, format: str, picture: bytes, caption: str, facts: Mapping[str, Any]) -> Written:
    """The members of one sample, with everything of its row but shard, split, offset, size in pixels and sums."""
    words = caption.encode()
    known = json.dumps(dict(facts), sort_keys=True, allow_nan=False).encode()
    for text, what in ((words, "caption"), (known, "facts")):
        if len(text) > MOST_WORDS:
            raise UserError(f"A {what} of {len(text):,} bytes.", f"At most {MOST_WORDS:,}.")
    members = ((ENDINGS[format], picture), ("txt", words), ("json", known))
    data = b"".join(_member(f"{key_of(number)}.{ending}", content) for ending, content in members)
    row = np.zeros(1, ROW)[0]
    row["length"], row["picture"], row["caption"], row["facts"] = len(data), len(picture), len(words), len(known)
    row["sha256"] = np.void(hashlib.sha256(picture).digest())
    return Written(data, row)


def sealed(row: np.void, data: bytes) -> np.void:
    """The row with its sum, once all else in it stands."""
    row["length"] = len(data)
    row["sum"] = np.void(_sum(row, data))
    return row


def opened(number: int, row: np.void, data: bytes) -> Sample:
    """A record's bytes -> the sample; Damaged if one bit of them, or of the row, is not what was written."""
    key, where = key_of(number), (shard_of(row), int(row["offset"]))
    if len(data) != int(row["length"]):
        raise Damaged(*where, key, f"{len(data):,} of {int(row['length']):,} bytes are there")
    if _sum(row, data) != row["sum"].tobytes():
        raise Damaged(*where, key, "its sha256 is another")
    parts, at = [], 0
    for name in ("picture", "caption", "facts"):
        size = int(row[name])
        parts.append(data[at + BLOCK : at + BLOCK + size])
        at += BLOCK + _padded(size)
    picture, words, facts = parts
    sizes = int(row["width"]), int(row["height"])
    return Sample(number, key, picture, words.decode(), json.loads(facts), *sizes, row["sha256"].tobytes().hex())


def shard_of(row: np.void) -> str:
    """The name of a row's shard; of one whose row is damaged, as good as can be."""
    split = int(row["split"])
    return shard_name(split, int(row["shard"])) if split < len(SPLITS) else f"?-{int(row['shard']):05d}.tar"


def _sum(row: np.void, data: bytes) -> bytes:
    digest = hashlib.sha256(data)
    digest.update(row.tobytes()[: -ROW["sum"].itemsize])
    return digest.digest()


def _member(name: str, content: bytes) -> bytes:
    """A tar header with nothing of its maker in it (no owner, no time), the content, and zeros up to a whole block."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(_padded(len(content)) - len(content))


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
