"""Pixels <-> [-1, 1], and the decoder that takes bytes from anywhere."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aquatint.base import images
from aquatint.base.errors import UserError


def encoded(format: str, size: tuple[int, int] = (6, 4), mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3)
    Image.fromarray(pixels).convert(mode).save(out, format, **options)
    return out.getvalue()


def test_every_byte_survives_the_trip() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    x = images.from_bytes(pixels)
    assert x[0] == -1
    assert x[255] == 1
    assert torch.equal(images.to_bytes(x), pixels)
    assert images.to_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_pictures_survive_the_trip() -> None:
    picture = Image.open(io.BytesIO(encoded("PNG")))
    x = images.to_tensor([picture, picture])
    assert x.shape == (2, 3, 4, 6)
    assert all(back.tobytes() == picture.tobytes() for back in images.to_pictures(x))


def test_no_picture_from_nan() -> None:
    with pytest.raises(AssertionError, match="not finite"):
        images.to_pictures(torch.full((1, 3, 2, 2), float("nan")))


def test_every_mode_becomes_rgb() -> None:
    clear = Image.new("RGBA", (1, 1), (9, 9, 9, 0))
    assert images.rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.array([[0, 32_896, 65_535]], dtype=np.uint16))
    assert [images.rgb(deep).getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]
    for mode in ("1", "L", "P", "LA", "CMYK", "RGBA"):
        assert images.rgb(Image.new(mode, (2, 2))).mode == "RGB"


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_header_and_decode(format: str) -> None:
    data = encoded(format, (17, 9))
    assert images.header(data) == images.Header(format, 17, 9, False)
    picture = images.decode(data)
    assert picture.size == (17, 9)


def test_the_other_kinds_of_header() -> None:
    assert images.header(encoded("webp", (17, 9), lossless=True)).width == 17
    assert images.header(encoded("webp", (17, 9), xmp=b"<x/>")).width == 17
    assert images.header(encoded("jpeg", (17, 9), progressive=True)).height == 9
    assert images.header(encoded("jpeg", (17, 9), exif=b"Exif\0\0" + b"\0" * 99)).height == 9


def test_the_camera_was_held_sideways() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert images.decode(encoded("jpeg", (6, 4), exif=exif)).size == (4, 6)


def short(format: str) -> bytes:
    whole = encoded(format, (64, 64))
    return whole[: len(whole) * 3 // 4]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks)


def moving(format: str) -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(out, format, save_all=True, append_images=frames[1:])
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a picture"),
        (b"\x89PNG\r\n\x1a\n", "not a picture"),
        (b"\xff\xd8\xff", "not a picture"),
        (b"\xff\xd8\xff\xc0\x00", "not a picture"),
        (b"RIFF\0\0\0\0WEBPVP8X", "not a picture"),
        (encoded("GIF"), "not a picture"),
        (encoded("BMP"), "not a picture"),
        (encoded("TIFF"), "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (png(10**9, 1), "1000000000 x 1"),
        (png(0, 4), "0 x 4"),
        (png(16_000, 16_000), "16000 x 16000"),
        (png(4, 4), "damaged"),
        (png(4, 4, chunk(b"IDAT", zlib.compress(b"\0" * 5)), chunk(b"IEND", b"")), "damaged"),
        (short("png"), "damaged"),
        (short("jpeg"), "damaged"),
        (short("webp"), "damaged"),
        (moving("png"), "moves"),
        (moving("webp"), "moves"),
    ],
)
def test_bad_bytes_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(UserError, match=says):
        images.decode(data)


def test_a_huge_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGEST_FILE", 10)
    with pytest.raises(UserError, match="bytes"):
        images.decode(encoded("png"))


def test_nothing_large_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("Pillow was asked")

    monkeypatch.setattr(Image, "open", never)
    with pytest.raises(UserError):
        images.decode(encoded("webp", (64, 64)), largest_area=100)


@given(st.sampled_from(["png", "jpeg", "webp"]), st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_give_a_picture_or_one_error(format: str, draw: st.DataObject) -> None:
    data = bytearray(encoded(format, (40, 30)))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(data)))
    try:
        picture = images.decode(bytes(data[:cut]), largest_area=10**6)
    except UserError:
        return
    assert picture.width * picture.height <= 10**6


def test_a_sheet_has_its_pictures_row_by_row() -> None:
    tiles = [Image.new("RGB", (4, 3), (value, 0, 0)) for value in (10, 20, 30)]
    whole = images.sheet(tiles, 2)
    assert whole.size == (8, 6)
    assert [whole.getpixel(place)[0] for place in ((0, 0), (4, 0), (0, 3), (4, 3))] == [10, 20, 30, 0]
