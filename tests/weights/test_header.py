"""Our reader of safetensors heads against the official library: it may refuse more, it must never accept more."""

import io
import json
import random
import struct
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from aquatint.weights import header, writer
from aquatint.weights.header import Malformed, read_header
from aquatint.weights.writer import Outgoing

GOOD = {
    "__metadata__": {"format": "pt", "note": "é"},
    "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F16", "shape": [], "data_offsets": [24, 26]},
    "empty": {"dtype": "I64", "shape": [0, 5], "data_offsets": [26, 26]},
    "c": {"dtype": "BF16", "shape": [3], "data_offsets": [26, 32]},
}


def file_of(head: Any, room: int = 32, length: int | None = None) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(room)


def ours(data: bytes) -> str:
    """Why we refuse, or nothing."""
    try:
        read_header(io.BytesIO(data), len(data))
    except Malformed as why:
        return str(why)
    return ""


def official(data: bytes) -> bool:
    try:
        safetensors.deserialize(data)
    except Exception:
        return False
    return True


def test_a_good_file_is_read() -> None:
    data = file_of(GOOD)
    assert official(data)
    found = read_header(io.BytesIO(data), len(data))
    assert found.start == len(data) - 32
    assert found.metadata == GOOD["__metadata__"]
    assert found.entries["a.weight"].shape == (2, 3)
    assert found.entries["c"].size == 6
    assert set(found.entries) == set(GOOD) - {"__metadata__"}


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return GOOD | {name: GOOD[name] | fields}


ONE = b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}'
REFUSED = {
    "nothing": (b"", "0 bytes"),
    "seven bytes": (b"1234567", "7 bytes"),
    "only a length": (struct.pack("<Q", 100), "does not fit"),
    "a huge length": (struct.pack("<Q", 2**63), "at most"),
    "a length past the end": (file_of(GOOD, length=5000), "does not fit"),
    "truncated by one": (file_of(GOOD)[:-1], "1 bytes are missing"),
    "one byte too many": (file_of(GOOD) + b"x", "1 bytes are too many"),
    "no JSON": (file_of(b"{nonsense}"), "not JSON"),
    "a JSON list": (file_of(b"[1, 2]"), "opening brace"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "not UTF-8"),
    "half a surrogate": (file_of(ONE.replace(b'"a"', b'"\\ud800"') % b"1", 4), "surrogate"),
    "deep nesting": (file_of(b'{"a":' + b"[" * 90_000 + b"]" * 90_000 + b"}"), "not JSON"),
    "a name twice": (file_of(ONE[:-1] % b"1" + b"," + ONE[1:] % b"1", 4), "stands twice"),
    "a field twice": (file_of(b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4), "twice"),
    "unknown dtype": (file_of(changed("b", dtype="F17")), "F17"),
    "dtype a list": (file_of(changed("b", dtype=["F16"])), "dtype"),
    "an unknown field": (file_of(changed("b", code="os.system")), "not described"),
    "a missing field": (file_of(GOOD | {"b": {"dtype": "F16", "shape": []}}), "not described"),
    "a negative side": (file_of(changed("a.weight", shape=[-2, -3])), "counts -2"),
    "minus nothing": (file_of(ONE % b"-0", 4), "counts -0"),
    "a broken side": (file_of(ONE % b"1.0", 4), "counts 1.0"),
    "NaN": (file_of(ONE % b"NaN", 4), "counts NaN"),
    "true for a side": (file_of(ONE % b"true", 4), "no shape"),
    "a text for a side": (file_of(ONE % b'"1"', 4), "no shape"),
    "overflowing sides": (file_of(changed("empty", shape=[2**40, 2**40, 0])), "absurd"),
    "many sides": (file_of(changed("b", shape=[1] * 9)), "at most 8"),
    "three offsets": (file_of(changed("b", data_offsets=[24, 25, 26])), "begins and ends"),
    "offsets backwards": (file_of(changed("b", data_offsets=[26, 24])), "given -2"),
    "a gap": (file_of(changed("c", data_offsets=[28, 34]), 34), "begins at byte 28"),
    "an overlap": (file_of(changed("c", data_offsets=[22, 28])), "begins at byte"),
    "past the end": (file_of(changed("c", data_offsets=[26, 32]), 30), "missing"),
    "metadata of numbers": (file_of(GOOD | {"__metadata__": {"a": 1}}), "not texts"),
    "metadata a list": (file_of(GOOD | {"__metadata__": []}), "not texts"),
    "millions of lists": (file_of(b'{"a":[' + b"[]," * 300_000 + b"1]}"), "more than 100,000"),
    "millions of numbers": (file_of(b'{"a":[' + b"1," * 600_000 + b"1]}"), "more than 300,000"),
    "space first": (file_of(b" " + json.dumps(GOOD).encode()), "opening brace"),
}


@pytest.mark.parametrize(("data", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_heads_are_refused_with_the_reason(data: bytes, why: str) -> None:
    assert why in ours(data)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The file with one to three small changes, mostly in its head and mostly such that it stays JSON."""
    start = 8 + int.from_bytes(data[:8], "little")
    head, room = bytearray(data[8:start]), bytearray(data[start:])
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(head))
        match rng.randrange(8):
            case 0:
                head[at] = rng.randrange(256)
            case 1:
                head[at : at + rng.randint(1, 6)] = b""
            case 2:
                digits = [i for i, c in enumerate(head) if chr(c).isdigit()]
                if digits:
                    head[rng.choice(digits)] = ord(rng.choice("0123456789-.e"))
            case 3:
                head[at:at] = rng.choice([b" ", b",", b"0", b'"', b"[", b"}", b"\x00", b"\xc3", b"1e9", b"null", b"-"])
            case 4:
                words = [b'"F32"', b'"F16"', b'"BF16"', b'"I64"', b'"F8_E4M3"', b'"F4"', b'"C64"', b'"U8"', b'"f32"']
                old = rng.choice(words[:4])
                head = bytearray(bytes(head).replace(old, rng.choice(words), 1))
            case 5:
                room = room[: -rng.randint(1, 3)] if rng.random() < 0.5 else room + bytes(rng.randint(1, 3))
            case 6:
                part = bytes(head[at : at + rng.randint(1, 40)])
                head[at:at] = part
            case _:
                head += rng.choice([b" ", b"\n", b"\t ", b"x", b"{}"])
        if not head:
            head = bytearray(b"{")
    length = len(head) if rng.random() < 0.9 else rng.randrange(2 * len(head))
    return struct.pack("<Q", length) + bytes(head) + bytes(room)


def test_nothing_is_accepted_that_the_official_library_refuses() -> None:
    rng = random.Random(7)
    seeds = [file_of(GOOD), file_of(json.dumps(GOOD, separators=(",", ":")).encode() + b"   ")]
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for _ in range(3000):
        data = mutate(rng.choice(seeds), rng)
        mine, theirs = not ours(data), official(data)
        counts[mine, theirs] += 1
        assert theirs or not mine, data
    assert counts[True, True] > 100, "too few were still good for the comparison to mean anything"
    assert counts[False, False] > 1000


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "z.weight": torch.randn(3, 5, generator=generator),
        "a.bias": torch.randn(7, generator=generator).half(),
        "b": torch.randn(2, 2, generator=generator).bfloat16(),
        "c": torch.arange(6).reshape(2, 3),
        "d": torch.arange(3).int(),
        "e": torch.arange(3).byte(),
        "f": torch.tensor([True]),
        "g": torch.arange(3).double(),
        "nothing": torch.empty(0, 4),
        "one": torch.tensor(1.5),
    }


def test_we_write_what_the_official_library_writes() -> None:
    made = tensors()
    rows = [
        Outgoing(name, value.dtype, tuple(value.shape), lambda value=value: value)  # type: ignore[misc]
        for name, value in made.items()
    ]
    data = writer.head(rows, {"format": "pt"}) + b"".join(writer.chunks(rows))
    assert data == safetensors.torch.save(made, {"format": "pt"})
    assert not ours(data)


def test_every_dtype_that_is_read_has_the_size_that_torch_gives_it() -> None:
    for name, dtype in header.DTYPES.items():
        head = {"x": {"dtype": name, "shape": [3], "data_offsets": [0, 3 * dtype.itemsize]}}
        data = file_of(head, 3 * dtype.itemsize)
        assert official(data), name
        assert not ours(data)


def test_an_endless_name_is_refused_in_few_words() -> None:
    row = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    assert header.parse(json.dumps({"n" * 1_000: row}).encode(), 0).entries
    with pytest.raises(Malformed, match="at most 1,000") as caught:
        header.parse(json.dumps({"n" * 1_000_000: row}).encode(), 0)
    assert len(str(caught.value)) < 100
