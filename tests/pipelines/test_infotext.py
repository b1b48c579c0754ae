"""Infotexts: A1111's grammar to the letter, in linear time; and ours read back whole."""

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipelines.wishes import requests

from aquatint.base.errors import UserError
from aquatint.base.runtime import NUMERICS, Key
from aquatint.families import SD15
from aquatint.pipelines.infotext import _settings, _unquoted, infotext, parse_infotext, request_from
from aquatint.pipelines.record import File, Model, Record, record_of
from aquatint.pipelines.request import Request, Resolved
from aquatint.pipelines.stream import Stream

KEY = Key(NUMERICS, "2.13.0", "cpu", "AVX2", "float32", 2)
PATTERN = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # A1111's own
MODEL = Model("v1-5", "1" * 64, "SD15", "6ce0161689" + "0" * 54)


@settings(max_examples=2_000, deadline=None)
@given(st.text(st.sampled_from('ab_1 -/:,"\\{}é\t$.'), max_size=40))
def test_lines_are_taken_apart_as_a1111_does(line: str) -> None:
    assert _settings(line) == {key.strip(): _unquoted(value) for key, value in PATTERN.findall(line)}


@pytest.mark.parametrize(
    "piece", ["a", "a:", 'a: "', ' a: "\\",', "ab: {", "Hashes: {", "a -", '"\\', "a: [[", "ab:c,"]
)
def test_no_line_takes_long(piece: str) -> None:
    seconds = []
    for size in (20_000, 160_000):
        line, began = piece * (size // len(piece)), time.perf_counter()
        parse_infotext(f"x\n{line}")
        seconds.append(time.perf_counter() - began)
    assert seconds[1] < 32 * max(seconds[0], 0.02)  # eight times as long; 64 would be its square


def check_round_trip(request: Request) -> None:
    """Everything of a request stands in its infotext (options as the Request itself takes them)."""
    fields = {name: getattr(request, name) for name in request.__dataclass_fields__} | {"seeds": request.seeds[:1]}
    try:
        made = request.resolved(SD15)
    except UserError:
        defaults = {"width": 512, "height": 512, "steps": 20, "sampler": "ddim", "grid": "karras", "guidance": 7.5}
        fields |= {name: value for name, value in defaults.items() if fields[name] is None}
        made = Request(**(fields | {"rescale": fields["rescale"] or 0.0}))
    assert isinstance(made, Resolved | Request)
    record = Record("0", Request(**{name: getattr(made, name) for name in request.__dataclass_fields__}), MODEL, KEY)
    read = request_from(parse_infotext(infotext(record)))
    for name in request.__dataclass_fields__:
        wanted = (record.request.seeds[0],) if name == "seeds" else getattr(record.request, name)
        found = getattr(read, name)
        if name in ("eta", "rescale"):  # 0 is not written
            assert (found or 0) == (wanted or 0)
        elif name == "clip_skip":  # nor is a clip skip of 1, which is the last layer
            assert (found or 1) == (wanted or 1)
        else:
            assert found == wanted, name


@settings(max_examples=300, deadline=None)
@given(requests)
def test_what_is_written_is_read_back_whole(request: Request) -> None:
    check_round_trip(request)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None)
@given(requests)
def test_what_is_written_is_read_back_whole_at_length(request: Request) -> None:
    check_round_trip(request)


def test_a_stream_is_read_back() -> None:
    check_round_trip(Request("a cat", noise="cpu+nv", stream=Stream(2, 4)))


def test_every_key_in_its_order() -> None:
    request = Request(
        "a cat", "blurry", seeds=(5,), sampler="ddim", eta=0.5, clip_skip=2, noise="nv", ensd=31337, rescale=0.7
    ).resolved(SD15)
    files = (
        File("lora", "ink", "a" * 64, "b" * 64),
        File("embedding", "tint", "c" * 64, "d" * 64),
        File("vae", "mse", "e" * 64, "f" * 64),
    )
    text = infotext(record_of(request, MODEL, KEY, files))
    assert list(parse_infotext(text).settings) == [
        "Steps",
        "Sampler",
        "Schedule type",
        "CFG scale",
        "Seed",
        "Size",
        "Model hash",
        "Model",
        "VAE hash",
        "VAE",
        "Clip skip",
        "ENSD",
        "RNG",
        "Eta DDIM",
        "CFG rescale",
        "Lora hashes",
        "TI hashes",
        "Hashes",
        "Version",
    ]
    found = parse_infotext(text).settings
    assert (found["Model hash"], found["VAE hash"], found["VAE"]) == ("6ce0161689", "e" * 10, "mse")
    assert found["Lora hashes"] == "ink: bbbbbbbbbbbb"
    assert json.loads(found["Hashes"]) == {
        "model": "6ce0161689",
        "lora:ink": "a" * 10,
        "embed:tint": "c" * 10,
        "vae": "e" * 10,
    }


def test_a_brace_in_a_name_does_not_end_the_hashes() -> None:
    files = (File("lora", "a}b", "a" * 64, "b" * 64),)
    text = infotext(record_of(Request("x").resolved(SD15), MODEL, KEY, files))
    assert json.loads(re.findall(r", Hashes:\s*({[^}]+})", text)[0])["lora:a}b"] == "a" * 10


def test_only_a_single_file_has_a_model_hash() -> None:
    text = infotext(record_of(Request("x").resolved(SD15), Model("folder", "1" * 64, "SD15"), KEY))
    assert "Model hash" not in text
    assert "Hashes" not in text
    assert "Model: folder" in text


def test_a_value_that_is_its_key_stands_alone() -> None:
    text = infotext(record_of(Request("x").resolved(SD15), Model("Model", "", "SD15"), KEY))
    assert ", Model, " in text


@pytest.mark.parametrize(
    "value",
    ["[x", "[]", '"{}"', '{"sparkle": 1}', '{"grammar": 1}', '{"loras": {}}', '{"stream": {"place": 4, "of": 2}}'],
)
def test_our_own_fields_are_read_strictly(value: str) -> None:
    line = f"a\nSteps: 5, Sampler: Euler, Seed: 1, Fields: {json.dumps(value)}, Version:"
    with pytest.raises(UserError):
        request_from(parse_infotext(f"{line} aquatint 1"))
    assert request_from(parse_infotext(f"{line} v1.10.1")).prompt == "a"  # not ours
