"""The scripts for a CUDA machine, rehearsed on the CPU at TINY's shapes: every section runs and nothing fails."""

import json
from pathlib import Path

import torch
from benchmarks.timebox import Box, flop_of, milliseconds, off, options

from aquatint.families import SD15
from aquatint.nets.unet import UNet
from benchmarks import cuda_kernels, cuda_parity, cuda_speed, cuda_training


def words(folder: Path, *more: str) -> list[str]:
    return ["--out", str(folder), "--device", "cpu", "--toy", *more]


def test_parity(tmp_path: Path) -> None:
    box = cuda_parity.main(words(tmp_path))
    assert not box.notes
    assert all(row["same"] for row in box.rows if row["section"] == "noise")
    nets = [row for row in box.rows if row["section"].startswith("nets")]
    assert {row["network"].split()[0] for row in nets} == {"TINY", "TINY_XL", "POCKET"}
    assert all(row["finite"] for row in nets)
    assert all(row["rms"] == 0 for row in nets if row["numbers"] == "float32")
    assert all(0 < row["rms"] < 0.05 for row in nets if row["numbers"] in ("bfloat16", "float16"))
    engines = [row for row in box.rows if row["section"].startswith("engine")]
    assert len(engines) == 3 * 3 * 3
    assert all(row["same"] and row["rms"] < (1e-5 if row["numbers"] == "float32" else 0.05) for row in engines)
    pictures = [row for row in box.rows if row["section"] in ("walks", "doors", "adapters")]
    assert not [row for row in pictures if "failed" in row]
    assert all(row.get("largest", 0) <= 2 for row in pictures if "bfloat16" not in row["what"])
    assert all(row.get("same", True) for row in pictures)
    assert {row["what"].split()[0] for row in pictures} >= {"painted", "alone", "control", "LoRA", "embedding", "saved"}
    record = json.loads((tmp_path / "cuda-parity.json").read_text())
    assert len(record["rows"]) == len(box.rows)
    assert (tmp_path / "cuda-parity.md").read_text().count("\n## ") == len({row["section"] for row in box.rows})


def test_a_section_that_fails_and_one_that_is_not_reached(tmp_path: Path) -> None:
    def broken():
        yield {"a": 1.0}
        raise ValueError("so it goes")

    def long():
        box.seconds = 0.0
        yield {"a": 1}
        yield {"a": 2}

    box = Box("A record", options("", 60).parse_args(words(tmp_path)))
    box.run({"broken": broken, "long": long, "last": broken})
    assert [row["a"] for row in box.rows] == [1.0, 1]
    assert box.notes == ["broken: ValueError: so it goes", "long: cut short by the time box.", "last: not reached."]
    assert "so it goes" in (tmp_path / "a-record.md").read_text()


def test_clocks_and_differences() -> None:
    cpu, want = torch.device("cpu"), torch.arange(8.0)
    assert milliseconds(lambda: None, cpu, budget=0.0) < 10
    assert off(want, want) == {"rms": 0.0, "max": 0.0, "finite": True}
    assert off(want + 1, want)["rms"] == 1 / want.double().std().item()
    assert not off(want / 0, want)["finite"]


def test_speed(tmp_path: Path) -> None:
    box = cuda_speed.main(words(tmp_path))
    assert not box.notes
    assert {row["section"] for row in box.rows} > {"steps", "decode", "pictures", *cuda_kernels.SECTIONS}
    assert all(row["ms"] > 0 for row in box.rows if "batch" in row)
    rungs = {row["what"].split(", exact")[0]: row["rms"] for row in box.rows if row["section"] == "steps"}
    assert len(rungs) == 6
    assert rungs["step, eager"] == rungs["step, graph"] == 0
    assert all(rms < 0.05 for name, rms in rungs.items() if "fp8" not in name)
    assert 0.001 < rungs["step, engine, fp8"] < 0.3


def test_the_work_that_is_counted() -> None:
    """The operations of a guided step of Stable Diffusion 1.5, and its distinct 3x3 convolutions."""
    x, told = torch.zeros(2, 4, 64, 64, device="meta"), torch.zeros(2, 77, 768, device="meta")
    step = flop_of(lambda net: net(x, x[:, 0, 0, 0], told), UNet, SD15.unet)
    assert 1.60e12 < step < 1.61e12
    shapes = cuda_kernels.convolutions(SD15, 64)
    three = sum(2 * 9 * a * b * (side // stride) ** 2 * n for (a, b, side, stride), n in shapes.items())
    assert (len(shapes), sum(shapes.values())) == (21, 52)
    assert 0.395e12 < three < 0.405e12


def test_training(tmp_path: Path) -> None:
    box = cuda_training.main(words(tmp_path))
    assert not box.notes
    assert [row["batch"] for row in box.rows] == [2, 4]
    assert all(0 < row["last loss"] < 3 for row in box.rows)
