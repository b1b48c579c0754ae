"""The command's options for models that are shown something, and `again` for what they painted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.apps.command import run
from tests.fixtures import tiny_bundle, tiny_with

import aquatint
from aquatint.families import TINY


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    kinds = {"pix2pix": {"channels_in": 8}, "depth": {"channels_in": 5}, "lcm": {"guidance": 6}}
    return {
        name: str(aquatint.save(tiny_bundle(tiny_with(unet=replace(TINY.unet, **changes))), root / name))  # type: ignore[arg-type]
        for name, changes in kinds.items()
    }


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("photo", "map")):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{name}.png")


def test_change_a_picture_and_again(capfd: pytest.CaptureFixture[str], models: dict[str, str]) -> None:
    words = ("generate", "two cats", "--model", models["pix2pix"], "--seed", 3, "--out", "changed.png")
    code, _, err = run(capfd, *words)
    assert code == 2
    assert "--image" in err
    code, _, _ = run(capfd, *words, "--image", "photo.png", "--picture-guidance", 1.2)
    assert code == 0
    repeat = ("again", "changed.png", "--model", models["pix2pix"], "--check", "--image", "photo.png")
    code, out, _ = run(capfd, *repeat)
    assert (code, "equal bit for bit" in out) == (0, True)
    code, _, err = run(capfd, *repeat, "--depth", "map.png")
    assert code == 2
    assert "--depth for a picture that had none" in err


def test_paint_after_a_depth_map_and_again(capfd: pytest.CaptureFixture[str], models: dict[str, str]) -> None:
    words = ("generate", "two cats", "--model", models["depth"], "--seed", 3, "--out", "deep.png")
    code, _, err = run(capfd, *words)
    assert code == 2
    assert "--depth" in err
    code, _, _ = run(capfd, *words, "--depth", "map.png")
    assert code == 0
    repeat = ("again", "deep.png", "--model", models["depth"], "--check")
    code, _, err = run(capfd, *repeat)
    assert code == 2
    assert 'the depth map "map"' in err
    code, _, err = run(capfd, *repeat, "--depth", "photo.png")
    assert code == 2
    assert "Give the file" in err
    code, out, _ = run(capfd, *repeat, "--depth", "map.png")
    assert (code, "equal bit for bit" in out) == (0, True)


def test_guidance_that_is_heard(capfd: pytest.CaptureFixture[str], models: dict[str, str]) -> None:
    words = ("generate", "two cats", "--model", models["lcm"], "--seed", 3, "--sampler", "lcm", "--steps", 2)
    for guidance in (2, 8):
        code, _, _ = run(capfd, *words, "--guidance", guidance, "--out", f"{guidance}.png")
        assert code == 0
    assert Image.open("2.png").tobytes() != Image.open("8.png").tobytes()
    code, _, err = run(capfd, *words, "--depth", "none.png")
    assert code == 2
    assert "none.png" in err
