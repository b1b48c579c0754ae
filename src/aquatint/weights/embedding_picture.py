"""Textual inversions inside pictures, as AUTOMATIC1111's web UI shares them.

Either as a PNG text `sd-ti-embedding` (base64 of JSON, tensors as nested lists), or written into the picture: a strip
of coloured noise at its left and one at its right, a black column beside each. The strips hold, in the lower four bits
of every value, the lower and the upper halves of the bytes of zlib-packed JSON, mixed with a fixed sequence.
"""

import base64
import binascii
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aquatint.base import config, images
from aquatint.base.errors import UserError

LARGEST = 32 * 2**20  # bytes of JSON
MOST_NUMBERS = 1_400_000  # a thousand vectors of 1,280 numbers, and what stands round them
KEY = "sd-ti-embedding"
_TAKES = "The picture of a textual inversion, as it was saved: neither resized nor converted."
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def is_picture(start: bytes) -> bool:
    """Whether a file's first 12 bytes are a PNG's, a JPEG's or a WebP's."""
    return start.startswith(_PICTURES) or (start[:4], start[8:12]) == (b"RIFF", b"WEBP")


def read(data: bytes, source: str) -> tuple[str, Tensor]:
    """(its own name, its vectors [n, width]) from a picture's bytes; UserError for one that carries none."""
    image = images.decode(data)
    text = image.info.get(KEY)
    if isinstance(text, str):
        try:
            packed = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise UserError(f'"{source}": its {KEY} is not base64.', _TAKES) from None
    else:
        packed = _unpacked(np.asarray(images.rgb(image)), source)
    try:
        told = config.parse(packed.decode("utf-8"), most=MOST_NUMBERS)
    except UnicodeDecodeError:
        raise UserError(f'"{source}": what it carries is not text.', _TAKES) from None
    table = told.get("string_to_param") if isinstance(told, dict) else None
    values = next(iter(table.values()), None) if isinstance(table, dict) else None
    rows = values.get("TORCHTENSOR") if isinstance(values, dict) else None
    name = told.get("name") if isinstance(told, dict) else None
    return name if isinstance(name, str) else "", _tensor(rows, source)


def _unpacked(pixels: NDArray[np.uint8], source: str) -> bytes:
    """What the two strips of a picture hold."""
    there: NDArray[np.bool_] = np.all(pixels > 0, axis=2)
    rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    none = UserError(f'"{source}" is a picture that carries no textual inversion.', _TAKES)
    if not len(rows):
        raise none
    low = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & np.uint8(0x0F)
    black = np.flatnonzero(low.sum(axis=(0, 2)) == 0)
    if len(black) < 2:
        raise none
    left, right = low[:, : black[0]], low[:, black[-1] + 1 :]
    if left.shape != right.shape or not left.size:
        raise none
    packed = (_mixed(right) << 4 | _mixed(left)).tobytes()
    try:
        return zlib.decompressobj().decompress(packed, LARGEST)
    except zlib.error:
        raise UserError(f'"{source}": the textual inversion in the picture is damaged.', _TAKES) from None


def _mixed(strip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Exclusive or with the lower bits of a linear congruential sequence (Numerical Recipes' constants, from 0)."""
    sequence, state = bytearray(strip.size), 0
    for place in range(strip.size):
        state = (1664525 * state + 1013904223) % 2**32
        sequence[place] = state % 255 & 0x0F
    return strip ^ np.frombuffer(bytes(sequence), np.uint8).reshape(strip.shape)


def _tensor(rows: Any, source: str) -> Tensor:
    """Nested lists of numbers -> [n, width]; UserError for anything else."""
    rows = [rows] if isinstance(rows, list) and rows and not isinstance(rows[0], list) else rows
    if (
        not isinstance(rows, list)
        or not rows
        or not all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows)
        or not all(type(value) in (int, float) and abs(value) < 1e30 for row in rows for value in row)
    ):
        raise UserError(f'"{source}" carries no word vectors (string_to_param).', _TAKES)
    return torch.tensor(rows, dtype=torch.float32)
