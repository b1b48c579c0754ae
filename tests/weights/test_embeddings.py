"""Textual inversions in every format that they are shared in."""

import base64
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.families import SD15, TINY
from aquatint.weights.embedding_picture import KEY
from aquatint.weights.embeddings import fit_embedding, open_embedding

VECTORS = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))


def as_json(vectors: Tensor, name: str = "ink") -> str:
    return json.dumps(
        {"string_to_token": {"*": 265}, "string_to_param": {"*": {"TORCHTENSOR": vectors.tolist()}}, "name": name}
    )


def text_picture(path: Path, text: str) -> None:
    info = PngInfo()
    info.add_text(KEY, text)
    Image.new("RGB", (64, 64), "red").save(path, pnginfo=info)


def strips_picture(path: Path, packed: bytes, size: int = 64) -> None:
    """As the web UI draws it, but for the upper bits of the strips, which only please the eye."""
    data = np.frombuffer(packed, np.uint8)
    columns = -(-len(data) // (size * 3))
    data = np.resize(data, size * columns * 3).reshape(size, columns, 3)
    sequence, state = [], 0
    for _ in range(data.size):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        sequence.append(state % 255 & 0x0F)
    mask = np.array(sequence, np.uint8).reshape(data.shape)
    picture = np.zeros((size, 2 * columns + size + 2, 3), np.uint8)
    picture[:, :columns] = (data & 0x0F) ^ mask | 0x50
    picture[:, columns + 1 : columns + 1 + size] = 200
    picture[:, columns + size + 2 :] = (data >> 4) ^ mask | 0x50
    bordered = np.pad(picture, ((3, 3), (5, 5), (0, 0)))
    Image.fromarray(bordered).save(path)


FORMATS: dict[str, Callable[[Path], None]] = {
    "ink.pt": lambda path: torch.save(
        {"string_to_token": {"*": 265}, "string_to_param": {"*": VECTORS}, "name": "x", "step": 100}, path
    ),
    "ink.bin": lambda path: torch.save({"<ink>": VECTORS}, path),
    "a1111/ink.safetensors": lambda path: save_file({"emb_params": VECTORS}, path),
    "diffusers/ink.safetensors": lambda path: save_file({"<ink>": VECTORS}, path),
    "half/ink.safetensors": lambda path: save_file({"emb_params": VECTORS.half()}, path),
    "clip/ink.safetensors": lambda path: save_file({"clip_l": VECTORS}, path),
    "text/ink.png": lambda path: text_picture(path, base64.b64encode(as_json(VECTORS, "").encode()).decode()),
    "strips/ink.png": lambda path: strips_picture(path, zlib.compress(as_json(VECTORS, "").encode(), 9)),
    "strips/ink.webp": lambda path: _as_webp(path),
}


def _as_webp(path: Path) -> None:
    strips_picture(path.with_suffix(".png"), zlib.compress(as_json(VECTORS, "").encode(), 9))
    Image.open(path.with_suffix(".png")).save(path, lossless=True)


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    FORMATS[name](path)
    file = open_embedding(path)
    words = fit_embedding(file, TINY)
    assert "ink" in words
    assert set(words) <= {"ink", "<ink>"}
    for (vectors,) in words.values():
        assert vectors.shape == (3, 32)
        assert torch.allclose(vectors, VECTORS, atol=1e-3 if "half" in name else 0)
    assert len(file.digest) == 64


def test_one_vector_and_several_words(tmp_path: Path) -> None:
    save_file({"<one>": VECTORS[0].clone(), "<two>": VECTORS[1:].clone()}, tmp_path / "words.safetensors")
    words = fit_embedding(open_embedding(tmp_path / "words.safetensors"), TINY)
    assert {word: rows[0].shape[0] for word, rows in words.items()} == {"<one>": 1, "<two>": 2}


def refused(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        fit_embedding(open_embedding(path), TINY)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ink.safetensors"
    for tensors, words in (
        ({"emb_params": torch.zeros(2, 768)}, ("width 768", "Stable Diffusion 1", "TINY: 32")),
        ({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, ("1280", "Stable Diffusion XL")),
        ({"emb_params": torch.full((2, 32), torch.nan)}, ("not finite",)),
        ({"emb_params": torch.zeros(0, 32)}, ("[0, 32]",)),
        ({"emb_params": torch.zeros(2000, 32)}, ("[2000, 32]",)),
        ({"emb_params": torch.zeros(2, 2, 32)}, ("no textual inversion",)),
        ({"emb_params": torch.zeros(2, 32, dtype=torch.int32)}, ("no textual inversion",)),
        ({f"{index}": torch.zeros(32) for index in range(101)}, ("no textual inversion",)),
        ({"x" * 300: torch.zeros(32)}, ("300 letters",)),
    ):
        save_file(tensors, path)
        refused(path, *words)
    save_file({"emb_params": VECTORS}, path)
    with pytest.raises(UserError, match="768"):
        fit_embedding(open_embedding(path), SD15)


def test_pictures_without_or_with_damaged_embeddings(tmp_path: Path) -> None:
    path = tmp_path / "ink.png"
    packed = zlib.compress(as_json(VECTORS).encode())
    for colour in ("red", "black"):
        Image.new("RGB", (32, 32), colour).save(path)
        refused(path, "carries no textual inversion")
    for text, word in (
        ("%%%", "not base64"),
        (base64.b64encode(b"\xff\xfe").decode(), "not text"),
        (base64.b64encode(b"[1]").decode(), "no word vectors"),
        (base64.b64encode(b"{").decode(), "not JSON"),
        (base64.b64encode(b'{"string_to_param": {"*": {"TORCHTENSOR": [[1, 2], [3]]}}}').decode(), "no word vectors"),
        (base64.b64encode(b'{"string_to_param": {"*": {"TORCHTENSOR": [["a"]]}}}').decode(), "no word vectors"),
    ):
        text_picture(path, text)
        refused(path, word)
    strips_picture(path, packed[:-20] + bytes(20))
    refused(path)
    strips_picture(path, b"nonsense" * 100)
    refused(path, "damaged")
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    path.write_bytes(out.getvalue()[:40])
    refused(path, "damaged")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    strips_picture(tmp_path / "ink.png", zlib.compress(b" " * 100_000_000, 9), 256)
    refused(tmp_path / "ink.png", "JSON")
