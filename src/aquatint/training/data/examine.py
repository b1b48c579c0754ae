"""One item of a source looked at: decoded, hashed, or refused with a reason. Nothing here depends on other items."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aquatint.base import images
from aquatint.base.errors import UserError
from aquatint.training.data.phash import MOST, phash
from aquatint.training.data.sources import Columns, Item, Unreadable

Missing = Literal["fail", "drop", "empty"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a data set is prepared.

    missing      a picture without a caption stops the run, is dropped, or is kept with none
    near         bits of the perceptual hash by which two that count as one may differ; -1 compares bytes only
    min_side     pixels that the shorter side has at least       max_ratio   longer to shorter at most; 0: any
    validation   share of the pictures that is held back, by a hash of where they come from
    shard_bytes, shard_count   the most that goes into one shard (one sample always does)
    columns      what a Parquet source calls its columns
    """

    missing: Missing = "fail"
    near: int = 4
    min_side: int = 1
    max_ratio: float = 0.0
    validation: float = 0.0
    shard_bytes: int = 256 * 2**20
    shard_count: int = 10_000
    columns: Columns = field(default_factory=Columns)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("near", -1, MOST),
            ("min_side", 1, images.LARGEST_SIDE),
            ("max_ratio", 0, 1e6),
            ("validation", 0, 1),
            ("shard_bytes", 1, 2**40),
            ("shard_count", 1, 10**7),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} = {getattr(self, name):g}.", f"{low} to {high:,}.")
        if 0 < self.max_ratio < 1:
            raise UserError(f"max_ratio = {self.max_ratio:g}.", "1 or more: longer side to shorter; 0 for any.")


@dataclass(frozen=True)
class Examined:
    """What was found: either a reason, with details, why it cannot be taken, or all that a record says."""

    source: str
    split: int
    reason: str = ""
    detail: str = ""
    format: str = ""
    picture: bytes = b""
    caption: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    width: int = 0
    height: int = 0
    sha256: bytes = b""
    phash: int = 0


def split_of(source: str, settings: Settings) -> int:
    """0 for training, 1 for validation: a function of the name, whatever else there is."""
    drawn = int.from_bytes(hashlib.sha256(source.encode()).digest()[:6], "big")
    return int(drawn < settings.validation * 2**48)


def examine(item: Item, source: str, split: int, settings: Settings) -> Examined:
    """Read and decode one item. What is wrong with it is a reason; only a missing caption may be an error."""

    def refused(reason: str, detail: str) -> Examined:
        return Examined(source, split, reason, detail)

    try:
        raw = item.read()
    except Unreadable as error:
        return refused(error.reason, error.detail)
    except UserError as error:
        return refused("unreadable", str(error))
    try:
        format = images.header(raw.picture).format
        picture = images.rgb(images.decode(raw.picture))
    except UserError as error:
        return refused("no sound picture", str(error))
    width, height = picture.size
    if not raw.caption and settings.missing == "fail":
        raise UserError(
            f'"{source}" has no caption.',
            "A caption for each picture.",
            "Pass --missing drop to leave such out, or --missing empty to take them without.",
        )
    if not raw.caption and settings.missing == "drop":
        return refused("no caption", "")
    if min(width, height) < settings.min_side:
        return refused("too small", f"{width} x {height} pixels")
    if settings.max_ratio and max(width, height) > settings.max_ratio * min(width, height):
        return refused("too long or wide", f"{width} x {height} pixels")
    alike = phash(picture) if settings.near >= 0 else 0
    digest = hashlib.sha256(raw.picture).digest()
    return Examined(source, split, "", "", format, raw.picture, raw.caption, raw.facts, width, height, digest, alike)
