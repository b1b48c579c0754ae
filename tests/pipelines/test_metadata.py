"""What a picture's file says is read back as it was written, by us and in the form that others read."""

import io
import json
import random
import re
import struct
import zlib
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.pipelines.wishes import requests

from aquatint import __version__
from aquatint.base import config, images
from aquatint.base.errors import UserError
from aquatint.base.runtime import NUMERICS, Key
from aquatint.families import SD15
from aquatint.pipelines import metadata
from aquatint.pipelines.infotext import infotext, parse_infotext, request_from
from aquatint.pipelines.reading import read_foreign
from aquatint.pipelines.record import Model, Record, record_from, record_of
from aquatint.pipelines.request import LONGEST_PROMPT, Request

# beartype picks at random which item of a container it looks at, also while hypothesis builds a value


KEY = Key(NUMERICS, "2.13.0", "cpu", "AVX2", "float32", 2)
DIGEST = "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa"
AWKWARD = [
    "a cat, a dog: two friends",
    'she said "hello", \\n not a newline',
    "two\nlines\n\nand an empty one",
    "日本の城, ünïcödé, 🏰, \u202eright to left",
    "<script>&amp;</script> ]]> <aquatint:record>",
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1",
    "a, b, c, d: e, f: g, h: i",
    " leading and trailing ",
    "\ttabs\r\nand carriage returns",
    "\ufffe\uffff\x7f".replace("\x7f", ""),
]


def record(
    prompt: str = "a cat", negative: str = "", digest: str = DIGEST, name: str = "pocket", **wishes: object
) -> Record:
    request = Request(prompt, negative, seeds=(7,), **wishes).resolved(SD15)  # type: ignore[arg-type]
    return record_of(request, Model(name, digest, "SD15", digest), KEY)


def through_a_file(made: Record, format: str) -> metadata.Found:
    return metadata.find(images.decode(metadata.encode(Image.new("RGB", (16, 8), "red"), made, format)))


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("text", AWKWARD)
def test_a_file_says_what_was_written(format: str, text: str) -> None:
    made = record(text, negative=text)
    found = through_a_file(made, format)
    assert found.infotext == infotext(made)
    assert found.record is not None
    assert record_from(found.record) == made
    assert found.marked


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("letter", ["a", "🏰", '"', "&", "\n", "\uffff"])
def test_the_longest_prompts_fit_into_every_format(format: str, letter: str) -> None:
    text = "a" + letter * (LONGEST_PROMPT - 2) + "a"
    if letter == "\uffff" and format != "png":  # as six characters of escape they do not fit into JPEG's 64 KiB
        text = text[: LONGEST_PROMPT // 2]
    made = record(text, negative=text)
    found = through_a_file(made, format)
    assert found.record is not None
    assert record_from(found.record) == made
    assert found.infotext == infotext(made)


@given(requests, st.sampled_from(["png", "jpeg", "webp"]))
@example(Request("a cat", width=64), "png")  # a size of which nobody has said the other side yet
@settings(max_examples=60, deadline=None)
def test_any_request_survives_a_file(request: Request, format: str) -> None:
    made = Record(__version__, request, Model("a, b", "", "SD15"), KEY)
    found = through_a_file(made, format)
    assert found.record is not None
    assert record_from(found.record) == made


def test_pixels_survive() -> None:
    picture = Image.effect_noise((24, 16), 90).convert("RGB")
    for format in ("png", "webp"):
        assert images.decode(metadata.encode(picture, record(), format)).tobytes() == picture.tobytes()


def test_the_same_picture_is_the_same_file() -> None:
    picture = Image.effect_noise((24, 16), 90).convert("RGB")
    for format in images.MIME:
        assert metadata.encode(picture, record(), format) == metadata.encode(picture.copy(), record(), format)


def test_other_programs_find_it_where_they_look() -> None:
    made = record("ein Schloß", name="my, model")
    png = Image.open(io.BytesIO(metadata.encode(Image.new("RGB", (8, 8)), made, "png")))
    assert png.text["parameters"] == infotext(made)  # type: ignore[attr-defined]
    assert json.loads(png.text["aquatint"])["request"]["prompt"] == "ein Schloß"  # type: ignore[attr-defined]
    assert "Iptc4xmpExt:DigitalSourceType" in png.text["XML:com.adobe.xmp"]  # type: ignore[attr-defined]
    for format in ("jpeg", "webp"):
        data = metadata.encode(Image.new("RGB", (8, 8)), made, format)
        assert b"UNICODE\0" + "ein Schloß".encode("utf-16-be") in data
        assert metadata.MARK.encode() in data


def test_infotext_as_the_web_ui_writes_it() -> None:
    made = record("a cat, sleeping", "blurry", name="v1-5: pruned", steps=20, sampler="dpmpp_2m", guidance=7.0)
    assert infotext(made) == (
        "a cat, sleeping\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 7, Size: 512x512, "
        'Model hash: 6ce0161689, Model: "v1-5: pruned", Hashes: {"model": "6ce0161689"}, '
        f"Version: aquatint {__version__}"
    )
    assert re.findall(r", Hashes:\s*({[^}]+})", infotext(made)) == ['{"model": "6ce0161689"}']


def test_without_a_digest_no_hash_is_claimed() -> None:
    assert "ash" not in infotext(record(digest=""))


plain = requests.filter(lambda r: "Negative prompt:" not in r.prompt + r.negative and r.prompt[-1] != "\n")


@given(plain)
def test_infotext_is_read_back(request: Request) -> None:
    try:
        resolved = request.resolved(SD15)
    except UserError:
        return
    text = infotext(record_of(resolved, Model('a "b": c, d', DIGEST, "SD15", DIGEST), KEY))
    info = parse_infotext(text)
    assert (info.prompt, info.negative) == (request.prompt, request.negative)
    assert info.settings["Model"] == 'a "b": c, d'
    assert info.settings["Hashes"] == '{"model": "6ce0161689"}'
    read = request_from(info)
    assert read.seeds == request.seeds[:1]
    for field in ("prompt", "negative", "width", "height", "steps", "sampler", "grid"):
        assert getattr(read, field) == getattr(resolved, field), field
    scaled = resolved.sampler == "ddim_cfg_pp"  # whose CFG scale A1111 divides by 12.5
    assert read.guidance == (pytest.approx(resolved.guidance) if scaled else resolved.guidance)
    assert (read.rescale or 0, read.eta or 0) == (resolved.rescale, resolved.eta or 0)


GENUINE = """photo of a (castle:1.2) on a hill, by the sea, <lora:detail:0.8>
second line
Negative prompt: blurry, lowres
watermark
Steps: 30, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 3141592653, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned-emaonly, VAE hash: 735e4c3a44, VAE: "vae, ft: mse", Denoising strength: 0.55, Clip skip: 2, \
Hires upscale: 2, Hires upscaler: Latent, Lora hashes: "detail: 7c6bad76eb54", \
Hashes: {"vae": "735e4c3a44", "model": "6ce0161689"}, Version: v1.6.0"""


def test_a_genuine_infotext() -> None:
    info = parse_infotext(GENUINE)
    assert info.prompt == "photo of a (castle:1.2) on a hill, by the sea, <lora:detail:0.8>\nsecond line"
    assert info.negative == "blurry, lowres\nwatermark"
    assert info.settings["VAE"] == "vae, ft: mse"
    assert info.settings["Lora hashes"] == "detail: 7c6bad76eb54"
    assert json.loads(info.settings["Hashes"])["vae"] == "735e4c3a44"
    assert info.settings["Version"] == "v1.6.0"
    request = request_from(info)
    assert (request.width, request.height, request.seeds) == (512, 768, (3141592653,))
    assert (request.sampler, request.grid, request.steps, request.guidance) == ("dpmpp_2m", "karras", 30, 6.5)


def test_a_newer_infotext_names_the_schedule_apart() -> None:
    text = "a cat\nSteps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 1, Size: 64x64"
    request = request_from(parse_infotext(text))
    assert (request.sampler, request.grid) == ("euler_a", None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\nSteps: x, Sampler: Euler, Seed: 1, CFG scale: 7", '"x"'),
        ("a\nSteps: 5, Sampler: DPM sideways, Seed: 1, CFG scale: 7", "DPM sideways"),
        ("a\nSteps: 5, Sampler: Euler, Seed: -1, CFG scale: 7", "seed"),
        ("a\nSteps: 5, Sampler: Euler, Seed: 1, CFG scale: nan", "finite"),
        ("Steps: 5, Sampler: Euler, Seed: 1, CFG scale: 7", "prompt is empty"),
    ],
)
def test_an_infotext_that_we_cannot_paint(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        request_from(parse_infotext(text))


@given(st.text(max_size=300))
def test_any_text_can_be_taken_apart(text: str) -> None:
    info = parse_infotext(text)
    with suppress(UserError):
        request_from(info)


def test_a_text_without_settings_is_a_prompt() -> None:
    assert parse_infotext("just words, and: one").prompt == "just words, and: one"


def test_records_are_read_strictly() -> None:
    data = config.to_data(record())
    for change, says in (
        ({"extra": 1}, "extra"),
        ({"request": data["request"] | {"lights": []}}, "lights"),
        ({"request": data["request"] | {"steps": 0}}, "steps"),
        ({"key": {}}, "numerics"),
    ):
        with pytest.raises(UserError, match=says):
            record_from(json.dumps(data | change))


def test_foreign_pictures() -> None:
    assert through_plain() == metadata.Found(None, None, False, ())
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + GENUINE.encode("utf-16-le")
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG", exif=exif)
    assert metadata.find(images.decode(out.getvalue())).infotext == GENUINE


def through_plain() -> metadata.Found:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return metadata.find(images.decode(out.getvalue()))


def test_text_chunks_after_the_pixels_are_found_too() -> None:
    out = metadata.encode(Image.new("RGB", (8, 8)), record(), "png")
    chunks, at = [], 8
    while at < len(out):
        (length,) = struct.unpack_from(">I", out, at)
        chunks.append(out[at : at + 12 + length])
        at += 12 + length
    texts = [chunk for chunk in chunks if chunk[4:8] in (b"tEXt", b"iTXt")]
    moved = [chunk for chunk in chunks if chunk not in texts]
    data = out[:8] + b"".join([*moved[:-1], *texts, moved[-1]])
    found = metadata.find(images.decode(data))
    assert found.record == config.to_json(record())


def test_format_by_name() -> None:
    assert [metadata.format_of(name) for name in ("a.png", "A.JPG", "b.jpeg", "c.webp")] == [
        "png",
        "jpeg",
        "jpeg",
        "webp",
    ]
    with pytest.raises(UserError, match=r"\.png"):
        metadata.format_of("a.gif")
    with pytest.raises(UserError, match="gif"):
        metadata.encode(Image.new("RGB", (8, 8)), record(), "gif")


def damaged(number: int) -> bytes:
    """A picture's file with a few bytes of its metadata changed, its checksums right."""
    chance = random.Random(number)
    format = chance.choice(["png", "jpeg", "webp"])
    data = bytearray(metadata.encode(Image.new("RGB", (16, 16)), record("a cat", "blurry"), format))
    begin = max(data.find(b"Exif"), 33)
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(begin, min(len(data), begin + 200))] = chance.randrange(256)
    if format != "png":
        return bytes(data)
    chunks, at = bytes(data[:8]), 8
    while at + 12 <= len(data) and at + 12 + (length := struct.unpack_from(">I", data, at)[0]) <= len(data):
        body = bytes(data[at + 4 : at + 8 + length])
        chunks += struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return chunks


def look_at_damaged(numbers: range) -> None:
    found = 0
    for number in numbers:
        with suppress(UserError):
            seen = metadata.find(images.decode(damaged(number)))
            found += 1
            read_foreign(seen)
    assert found > len(numbers) // 4  # most can be looked at, or little is tested


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about what is damaged
def test_damaged_metadata_is_read_or_refused() -> None:
    look_at_damaged(range(300))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_metadata_is_read_or_refused_at_length() -> None:
    look_at_damaged(range(1_000, 31_000))
