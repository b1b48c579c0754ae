"""Pictures as the nets see them, [-1, 1], and as the world does, 0 ... 255; and the one decoder of untrusted bytes."""

import io
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from aquatint.base.errors import UserError

MIME = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}  # every format that we read or write
LARGEST_FILE = 64 * 2**20  # bytes
LARGEST_SIDE = 16_384  # pixels
LARGEST_AREA = 8_192 * 8_192  # pixels; 200 MB as RGB
_ORIENTATION = 0x0112  # EXIF: how the camera was held


class Header(NamedTuple):
    """What a picture's first bytes say: format ("png", "jpeg", "webp"), size in pixels, and whether it moves."""

    format: str
    width: int
    height: int
    moving: bool


def from_bytes(pixels: UInt8[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """pixels / 127.5 - 1: 0 ... 255 -> [-1, 1], float32, any shape."""
    return pixels.float() / 127.5 - 1.0


def to_bytes(x: Float[Tensor, "*s"]) -> UInt8[Tensor, "*s"]:
    """The nearest of 0 ... 255 to (x + 1) * 127.5, clamped; the inverse of `from_bytes`. x must be finite."""
    return ((x.float() + 1.0) * 127.5).round().clamp(0.0, 255.0).to(torch.uint8)


def to_tensor(pictures: Image.Image | Sequence[Image.Image]) -> Float[Tensor, "b 3 h w"]:
    """Pictures of one size -> [b, 3, h, w] in [-1, 1]; transparency is laid over white."""
    several = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    pixels = torch.from_numpy(np.stack([np.asarray(rgb(picture)) for picture in several]))
    return from_bytes(pixels.permute(0, 3, 1, 2).contiguous())


def to_pictures(x: Float[Tensor, "b 3 h w"]) -> list[Image.Image]:
    """[b, 3, h, w], about [-1, 1] -> b RGB pictures; what lies outside is clamped."""
    assert bool(torch.isfinite(x).all()), "a picture is never made from a value that is not finite"
    pixels = to_bytes(x.detach()).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [Image.fromarray(row) for row in pixels]


def depth(grey: Image.Image, height: int, width: int) -> Float[Tensor, "1 1 h w"]:
    """A depth map (L) at the latents' size, from -1 where it is darkest to 1 where it is lightest.

    Bicubic, then the range of each map, as Stable Diffusion 2 was trained; UserError for a map of one grey.
    """
    values = torch.from_numpy(np.asarray(grey).astype(np.float32))[None, None]
    small = F.interpolate(values, size=(height, width), mode="bicubic", align_corners=False)
    low, high = small.min(), small.max()
    if not high > low:
        raise UserError("The depth map is the same grey everywhere.", "A map with near and far.")
    return 2.0 * (small - low) / (high - low) - 1.0


def sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size side by side, row by row, in one RGB picture."""
    width, height = pictures[0].size
    whole = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for index, picture in enumerate(pictures):
        whole.paste(picture, (index % columns * width, index // columns * height))
    return whole


def rgb(picture: Image.Image) -> Image.Image:
    """Any mode -> RGB: transparency over white, 16 bits to 8."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips it instead of scaling it
        return Image.fromarray((np.asarray(picture) / 257.0).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def decode(data: bytes, *, largest_area: int = LARGEST_AREA) -> Image.Image:
    """PNG, JPEG or WebP bytes, from anywhere -> the picture, as the camera was held, with its text in `.info`.

    The format is told by the first bytes, never by a name. Size and movement are read by `header` and judged before
    Pillow sees a byte, so that nothing large is allocated for a lie; everything that Pillow may raise on a broken
    file is one UserError.
    """
    head = header(data, largest_area=largest_area)
    try:
        picture: Image.Image = Image.open(io.BytesIO(data), formats=[head.format.upper()])
        if picture.size != (head.width, head.height):
            raise ValueError("two sizes in one file")
        picture.load()
        if picture.getexif().get(_ORIENTATION, 1) != 1:
            picture = ImageOps.exif_transpose(picture)
    except Exception as error:  # whatever a hostile file makes the decoder raise, it says "not decodable"
        raise UserError(
            f"This {head.format.upper()} picture is damaged: {_first_line(error)}.", "A whole PNG, JPEG or WebP file."
        ) from None
    return picture


def header(data: bytes, *, largest_area: int = LARGEST_AREA) -> Header:
    """The format and size that a picture's first bytes announce, refused if too large, moving or of another format."""
    if len(data) > LARGEST_FILE:
        raise UserError(f"A picture of {len(data):,} bytes.", f"At most {LARGEST_FILE:,} bytes.")
    try:
        head = _header(data)
    except (struct.error, IndexError):
        head = None
    if head is None:
        raise UserError("This is not a picture that aquatint reads.", "PNG, JPEG or WebP, told by its first bytes.")
    area = head.width * head.height
    if not (0 < head.width <= LARGEST_SIDE and 0 < head.height <= LARGEST_SIDE and area <= largest_area):
        raise UserError(
            f"A picture of {head.width} x {head.height} pixels.",
            f"At most {LARGEST_SIDE:,} a side and {largest_area:,} in all.",
        )
    if head.moving:
        raise UserError(f"This {head.format.upper()} moves.", "A single picture.", "Save one frame of it.")
    return head


def _header(data: bytes) -> Header | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        width, height = struct.unpack_from(">II", data, 16)
        return Header("png", width, height, _moving_png(data))
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _moving_png(data: bytes) -> bool:
    """Whether an acTL chunk of more than one frame stands before the pixels."""
    at = 8
    while at + 16 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            return False
        if name == b"acTL":
            return bool(struct.unpack_from(">I", data, at + 8)[0] > 1)
        at += 12 + length
    return False


def _jpeg(data: bytes) -> Header | None:
    """Walk the segments up to the start of frame, which holds the size (ITU T.81, B.2.2)."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # padding and markers without a length
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Header("jpeg", width, height, False)
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _webp(data: bytes) -> Header | None:
    """The three kinds of first chunk of a WebP file (RFC 9649)."""
    kind = data[12:16]
    if kind == b"VP8X":
        flags = data[20]
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return Header("webp", width, height, bool(flags & 0x02)) if len(data) >= 30 else None
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, False)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("webp", width & 0x3FFF, height & 0x3FFF, False)
    return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
