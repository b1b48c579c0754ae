"""Caches: made once, read by the next run, and what is damaged made again."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.training.data.buckets import Shape
from aquatint.training.data.cache import Cache
from aquatint.training.data.loader import latents_key

NAMES = [latents_key(f"{number:064x}", Shape(64, 128)) for number in range(6)]


class Encoder:
    """Something that makes tensors and counts them."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def make(self, places: Sequence[int]) -> list[Tensor]:
        self.made += places
        return [torch.arange(8.0).view(2, 4) + place for place in places]


def filled(folder: Path) -> tuple[Encoder, list[Tensor]]:
    encoder, cache = Encoder(), Cache(folder, "abc")
    found = cache.remembered(NAMES[:4], encoder.make)
    cache.flush()
    found += cache.remembered(NAMES[4:], encoder.make)
    cache.flush()
    return encoder, found


def test_what_was_made_is_read_by_the_next_run(tmp_path: Path) -> None:
    encoder, made = filled(tmp_path)
    assert encoder.made == [0, 1, 2, 3, 0, 1]
    again = Encoder()
    found = Cache(tmp_path, "abc").remembered(NAMES, again.make)
    assert again.made == []
    assert all(torch.equal(a, b) for a, b in zip(found, made, strict=True))
    assert len(Cache(tmp_path, "abc")) == 6
    other = Encoder()
    Cache(tmp_path, "another").remembered(NAMES, other.make)
    assert other.made == list(range(6))
    with pytest.raises(UserError):
        Cache(tmp_path, "../x")


def test_a_flip_of_any_byte_never_gives_another_tensor(tmp_path: Path) -> None:
    _, made = filled(tmp_path)
    paths = sorted((tmp_path / "abc").glob("*.safetensors"))
    assert len(paths) == 2
    whole, remade = paths[0].read_bytes(), 0
    for place in range(len(whole)):
        spoiled = bytearray(whole)
        spoiled[place] ^= 1 << place % 8
        paths[0].write_bytes(spoiled)
        cache = Cache(tmp_path, "abc")
        found = [cache.get(name) for name in NAMES]
        remade += None in [None if tensor is None else 0 for tensor in found]
        assert all(tensor is None or torch.equal(tensor, wanted) for tensor, wanted in zip(found, made, strict=True))
    assert remade > 0.9 * len(whole)  # the rest are spaces of the head that mean nothing
    told: list[str] = []
    paths[0].write_bytes(whole[:-1])
    cache, encoder = Cache(tmp_path, "abc", told.append), Encoder()
    cache.remembered(NAMES, encoder.make)
    cache.flush()
    assert told
    assert encoder.made
    after = Encoder()
    Cache(tmp_path, "abc").remembered(NAMES, after.make)
    assert after.made == []
