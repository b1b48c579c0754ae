"""Stable Diffusion from nothing, in small: three runs over a prepared folder, and a model that paints."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.apps.command import run
from tests.fixtures import WORDS
from tests.training.sets import prepared

import aquatint
from aquatint.families import TINY
from aquatint.nets.tokenizer import Tokenizer
from aquatint.training.state import averaged

ROOT = Path(__file__).parents[2]
TOWER = ("size=32", "patch=8", "width=32", "layers=2", "heads=2", "projection=24")
COMMON = (
    "family=TINY",
    "tokenizer=words",
    "runs=runs",
    "data=set/set",
    "size=64",
    "batch=4",
    "workers=2",
    "log_steps=1",
)
STAGES = {
    "alignment": ("steps=3", "size=32"),
    "autoencoder": ("steps=4", "weights.start=0.4", "critic.widths=8,16,16", "critic.groups=4"),
    "unet": ("steps=3", "parts=2", "optim.warmup=1"),
}


def stage(capfd: pytest.CaptureFixture[str], name: str, *more: str) -> tuple[int, str, str]:
    tower = () if name == "unet" else tuple(f"tower.{change}" for change in TOWER)
    changes = [f"--set={change}" for change in (*COMMON, *tower, *STAGES[name], *more)]
    return run(capfd, "train", f"{ROOT}/recipes/stable.py:{name}", "--out", f"runs/{name}", *changes)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    prepared(tmp_path / "set", 12, ((80, 64), (64, 96)))
    Tokenizer.train([*WORDS, "picture 0123456789, red, green"], TINY.text.vocabulary).save(tmp_path / "words")


def test_three_runs_and_a_model(capfd: pytest.CaptureFixture[str]) -> None:
    for name in STAGES:
        code, _, err = stage(capfd, name)
        assert code == 0, err
    from recipes.stable import Painting, encoder_of, export

    settings = Painting(family="TINY", tokenizer="words", runs="runs", data="set/set", size=64, batch=4, workers=0)
    encoder = encoder_of(settings)
    with settings.loader(crop=False, flip=False) as loader, torch.no_grad():
        pixels = torch.cat([loader.batch(moment)["pixels"] for moment in moments(3)])
        latents = encoder.posterior(pixels).mean * TINY.autoencoder.scale
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.05
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.05
    plain, kept = averaged(Path("runs/unet"), "unet"), []
    for folder in ("runs/first", "runs/second"):  # the second reads what the first one kept
        changes = [f"--set={change}" for change in (*COMMON, *STAGES["unet"], "cache=kept")]
        command = (sys.executable, "-m", "aquatint", "train", f"{ROOT}/recipes/stable.py:unet", "--out", folder)
        subprocess.run((*command, *changes), check=True, capture_output=True)
        kept.append(averaged(Path(folder), "unet"))
        for name, tensor in plain.items():
            torch.testing.assert_close(kept[-1][name], tensor, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(tensor, kept[1][name]) for name, tensor in kept[0].items())
    assert list(Path("kept").rglob("*.safetensors"))
    path = export(Path("runs"), Path("model"), "diffusers")
    bundle = aquatint.load(path)
    assert bundle.paint("picture 3, red", seed=1, steps=2).image.size == (64, 64)
    shadow = averaged(Path("runs/unet"), "unet")
    assert all(torch.equal(tensor, shadow[name]) for name, tensor in bundle.unet.state_dict().items())


def moments(count: int) -> list[object]:
    from aquatint.training.recipe import Moment

    return [Moment(step, 0.0) for step in range(count)]


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("alignment", "data=", "No pictures"),
        ("alignment", "data=words", "no prepared folder"),
        ("alignment", "family=SDXL", "is not trained from nothing"),
        ("alignment", "family=SD14", "SD15"),
        ("alignment", "tokenizer=", "49,408 tokens for TINY"),
        ("alignment", "size=64", "tower.size = 32"),
        ("autoencoder", "size=72", "multiple of the tower's 32"),
        ("unet", "runs=elsewhere", "holds no checkpoint"),
        ("alignment", "batch=0", "batch = 0"),
    ],
)
def test_what_is_missing_or_wrong(name: str, change: str, told: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = stage(capfd, name, change)
    assert code == 2
    assert told in err
