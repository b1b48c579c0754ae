"""What saving writes besides the weights, what it refuses, and that a failure leaves nothing behind."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, safe_open
from tests.weights.models import random_model

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.families import FAMILIES, SD15, TINY, Family
from aquatint.nets.text import TextEncoder
from aquatint.nets.unet import Stage
from aquatint.weights import Opened, assembly, description, open_model, save, writer


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def test_single_files_say_what_they_are(models: Callable[[str], Opened], tmp_path: Path) -> None:
    model = replace(models("SD21_V"), name="My model", metadata={"modelspec.author": "me", "modelspec.license": "MIT"})
    path = save(model, tmp_path / "model.safetensors", "compvis", dtype=torch.float16)
    said = metadata_of(path)
    assert said["modelspec.sai_model_spec"] == "1.0.1"
    assert said["modelspec.prediction_type"] == "v"
    assert said["modelspec.resolution"] == "64x64"
    assert said["modelspec.title"] == "My model"
    assert said["modelspec.author"] == "me"
    assert said["format"] == "pt"
    data = path.read_bytes()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    assert said["modelspec.hash_sha256"] == "0x" + hashlib.sha256(body).hexdigest()
    again = open_model(path)
    assert again.metadata["modelspec.license"] == "MIT"
    assert metadata_of(save(again, tmp_path / "again.safetensors", "compvis"))["modelspec.author"] == "me"


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("SD15", "stable-diffusion-v1"),
        ("SD15_INPAINT", "stable-diffusion-v1-inpainting"),
        ("SD21", "stable-diffusion-v2-512"),
    ]
    + [("SD21_V", "stable-diffusion-v2-768-v"), ("TINY", "aquatint-tiny")],
)
def test_architectures_are_named_as_modelspec_names_them(row: str, name: str, models: Callable[[str], Opened]) -> None:
    from aquatint.weights.save import modelspec

    model = replace(models("SD15"), family=FAMILIES[row])
    assert modelspec(model, "compvis", [])["modelspec.architecture"] == name


def test_half_precision_variant(models: Callable[[str], Opened], tmp_path: Path) -> None:
    model = models("SD15")
    path = save(model, tmp_path / "model", "diffusers", variant="fp16")
    names = {str(file.relative_to(path)) for file in path.rglob("*.safetensors")}
    assert names == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
    }
    for options in ({"variant": "fp16"}, {}):
        again = open_model(path, **options)  # type: ignore[arg-type]
        assert torch.equal(again.unet.enter.weight, model.unet.enter.weight.half().float())
    assert "only the variant fp16" in " ".join(again.notes)
    save(model, tmp_path / "plain", "diffusers")
    for folder in ("unet", "vae"):
        for file in (tmp_path / "plain" / folder).glob("*.safetensors"):
            file.rename(path / folder / file.name)
    again = open_model(path, variant="fp16")  # the text encoder's too, which has no plain weights
    assert torch.equal(again.unet.enter.weight, model.unet.enter.weight.half().float())
    (path / "unet/diffusion_pytorch_model.fp16.safetensors").unlink()
    again = open_model(path, variant="fp16")
    assert "unet has no variant fp16: its plain weights are used" in again.notes
    assert torch.equal(again.unet.enter.weight, model.unet.enter.weight)


def test_shards_of_a_folder(models: Callable[[str], Opened], tmp_path: Path) -> None:
    path = save(models("SD15"), tmp_path / "model", "diffusers", shard_size=2**19)
    index = json.loads((path / "unet/diffusion_pytorch_model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert shards[0] == f"diffusion_pytorch_model-00001-of-{len(shards):05d}.safetensors"
    for shard in shards:
        held = load_file(path / "unet" / shard)
        assert sum(tensor.numel() * 4 for tensor in held.values()) <= 2**19
        assert {name for name, file in index["weight_map"].items() if file == shard} == set(held)
    assert torch.equal(open_model(path).unet.leave.bias, models("SD15").unet.leave.bias)


@pytest.mark.parametrize("row", FAMILIES.values(), ids=FAMILIES)
def test_documents_and_families_are_inverse(row: Family) -> None:
    if row.name == "POCKET":
        with pytest.raises(UserError, match="encoder and decoder have different widths"):
            assembly.documents(row)
        return
    documents = json.loads(json.dumps(assembly.documents(row)))
    again, notes = assembly.family(documents, row.text.pad)
    kept = replace(row.defaults, steps=again.defaults.steps, guidance=again.defaults.guidance)
    if row.name == "SD_TURBO":  # whose grid has no name there
        assert again.defaults.grid == "trailing"
        kept = replace(kept, grid="trailing")
        assert "Turbo" in notes.pop()
    assert again == replace(row, defaults=kept)
    assert not notes
    assembly.check_index(documents["model_index.json"])


def test_schedules_and_samplers_survive_the_folder() -> None:
    for kind, prediction, zero in (
        ("linear", "v", True),
        ("cosine", "sample", False),
        ("scaled_linear", "epsilon", False),
    ):
        schedule = replace(SD15.schedule, kind=kind, zero_terminal=zero, steps=500)
        for sampler, grid in (("ddim", "trailing"), ("euler", "karras"), ("pndm", "leading"), ("dpmpp_2m", "linspace")):
            defaults = replace(SD15.defaults, sampler=sampler, grid=grid)
            made = replace(SD15, schedule=schedule, prediction=prediction, defaults=defaults)
            again, _ = assembly.family(assembly.documents(made), "end")
            assert again.schedule == schedule
            assert again.prediction == prediction
            if not zero and prediction != "sample":
                assert again.defaults.sampler == sampler
                assert again.defaults.grid == grid


def without(part: str, **changes: Any) -> Family:
    return replace(TINY, name="odd", **{part: replace(getattr(TINY, part), **changes)})


UNSAYABLE = {
    "different widths": without("autoencoder", decoder=(8, 8, 16, 32)),
    "without norms": without("autoencoder", groups=0),
    "its middle": without("unet", middle=2, stages=(Stage(16, 2), Stage(32, 2))),
    "projection": without("text", projection=32),
}


@pytest.mark.parametrize("reason", list(UNSAYABLE))
@pytest.mark.parametrize("format", ["diffusers", "compvis"])
def test_what_a_format_cannot_say_is_refused(reason: str, format: str, tmp_path: Path) -> None:
    model = random_model(UNSAYABLE[reason])
    with pytest.raises(UserError, match=reason):
        save(model, tmp_path / "model.safetensors", format)
    assert not list(tmp_path.iterdir())
    again = open_model(save(model, tmp_path / "model"))
    assert again.family == model.family


def refused(model: Opened, path: Path, format: str, **options: Any) -> str:
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    with pytest.raises(UserError) as caught:
        save(model, path, format, **options)
    assert (sorted(path.parent.iterdir()) if path.parent.is_dir() else []) == before
    return str(caught.value)


def test_wrong_wishes(tiny: Opened, tmp_path: Path) -> None:
    path = tmp_path / "model"
    assert 'Did you mean "compvis"?' in refused(tiny, path, "compvi")
    assert "no variants" in refused(tiny, path, "native", variant="fp16")
    assert "no name for a variant" in refused(tiny, path, "diffusers", variant="../x")
    assert "single file has no shards" in refused(tiny, path, "compvis", shard_size=2**20)
    assert "At least" in refused(tiny, path, "native", shard_size=7)
    assert "number format" in refused(tiny, path, "native", dtype=torch.float64)
    (tmp_path / "there").write_text("mine")
    for format in ("native", "diffusers", "compvis"):
        assert "exists already" in refused(tiny, tmp_path / "there", format)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    for format in ("native", "diffusers", "compvis"):
        assert "exists already" in refused(tiny, tmp_path / "full", format)
    (tmp_path / "empty").mkdir()
    save(tiny, tmp_path / "empty", "diffusers")  # an empty folder is as good as none
    for format in ("native", "diffusers", "compvis"):
        assert "is a file, and a folder is needed" in refused(tiny, tmp_path / "there" / "model.safetensors", format)


@pytest.mark.parametrize("format", ["native", "diffusers", "compvis"])
def test_values_that_are_not_finite_are_not_saved(format: str, tmp_path: Path) -> None:
    model = random_model(TINY)
    model.text.norm.bias[0] = 1e6
    path = tmp_path / "model.safetensors"
    assert "norm.bias, stored as float16" in refused(model, path, format, dtype=torch.float16)
    model.text.norm.bias[0] = float("nan")
    assert "norm.bias" in refused(model, path, format)
    assert "float16" not in refused(model, path, format)


@pytest.mark.parametrize("format", ["native", "native file", "diffusers", "compvis"])
def test_a_failure_halfway_leaves_nothing(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(TINY)
    path = tmp_path / ("model.safetensors" if format in ("native file", "compvis") else "model")
    written = 0

    def fail(self: files.Out, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 900_000:
            raise OSError(28, "No space left on device")
        return ok(self, data)

    ok = files.Out.write
    monkeypatch.setattr(files.Out, "write", fail)
    with pytest.raises(UserError, match="disk is full"):
        save(model, path, format.split()[0])
    assert os.listdir(tmp_path) == []
    assert written > 900_000


def test_a_net_that_is_not_the_familys_is_a_mistake_of_ours(tiny: Opened, tmp_path: Path) -> None:
    wrong = replace(tiny, text=TextEncoder(replace(tiny.family.text, layers=1)))
    with pytest.raises(AssertionError):
        save(wrong, tmp_path / "model")


def test_splitting_keeps_order_and_limits() -> None:
    rows = [writer.Outgoing(str(n), torch.float32, (n,), lambda: torch.zeros(0)) for n in (5, 1, 1, 9, 2, 20, 3)]
    shards = writer.split(rows, 40)
    assert [[row.name for row in shard] for shard in shards] == [["5", "1", "1"], ["9"], ["2"], ["20"], ["3"]]
    assert writer.split(rows, None) == [rows]


@pytest.mark.parametrize("row", FAMILIES.values(), ids=FAMILIES)
def test_younger_fields_stand_in_a_description_only_where_they_say_something(row: Family) -> None:
    """So a model that needs none has the header and the digest that it had before they came, and old headers open."""
    text = description.describe(row, "ab")
    assert description.described(text) == (row, "ab")
    data = json.loads(text)["family"]
    assert {"text2", "micro", "blank"} & set(data) == {
        name for name, said in (("text2", row.text2), ("micro", row.micro), ("blank", row.blank)) if said
    }
    assert ("skip" in data["text"], "normed" in data["text"]) == (row.text.skip > 0, not row.text.normed)
    # sha256 of these facts without any tensor: SD15's as version 0.1.0 had it before there was a second text encoder
    before = {
        "SD15": "c669311c15f83d23f19849488a49297e1b14626ab2b09fe1109b5d49d906ba00",
        "POCKET": "1897112bbc3aeb6ae8ec58fdcfb75d696c205d5325a381eb62d6cc7c6936eb4d",
    }
    if row.name in before:
        assert description.digest(row, []) == before[row.name]
