"""The command's options for painting over pictures, and `again` for what they made."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.apps.command import run
from tests.fixtures import tiny_bundle

import aquatint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(aquatint.save(tiny_bundle(), tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """photo.png and mask.png in a folder of the test's own."""
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 8, 32, 32))
    mask.save("mask.png")


def test_paint_over_and_again(capfd: pytest.CaptureFixture[str], model: str) -> None:
    edit = ("--image", "photo.png", "--mask", "mask.png", "--strength", 0.5, "--blur", 2, "--fill", "noise")
    code, out, _ = run(capfd, "generate", "a cat", "--model", model, "--seed", 3, *edit, "--out", "edited.png")
    assert (code, out.split()[0]) == (0, "edited.png")
    repeat = ("again", "edited.png", "--model", model, "--check")
    code, _, err = run(capfd, *repeat)
    assert code == 2
    assert '"photo"' in err
    assert "--image" in err
    code, _, err = run(capfd, *repeat, "--image", "mask.png", "--mask", "mask.png")
    assert code == 2
    assert "Give the file" in err
    code, out, _ = run(capfd, *repeat, "--image", "photo.png", "--mask", "mask.png")
    assert code == 0
    assert "equal bit for bit" in out


def test_outpaint(capfd: pytest.CaptureFixture[str], model: str) -> None:
    edit = ("--image", "photo.png", "--outpaint", "left=16, bottom=8")
    code, _, _ = run(capfd, "generate", "a cat", "--model", model, *edit, "--out", "larger.png")
    assert code == 0
    assert Image.open("larger.png").size == (80, 72)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--strength", 0.5), "without --image"),
        (("--image", "none.png"), "none.png"),
        (("--image", "photo.png", "--strength", 2), "strength = 2"),
        (("--image", "photo.png", "--size", "32x32"), "fit"),
        (("--image", "photo.png", "--fit", "squeeze"), "squeeze"),
        (("--image", "photo.png", "--mask", "mask.png", "--fill", "red"), "red"),
        (("--image", "photo.png", "--outpaint", "up=8"), "--outpaint"),
        (("--image", "photo.png", "--outpaint", "left=9"), "multiple of 8"),
        (("--image", "photo.png", "--grow", 3), "without a mask"),
    ],
)
def test_mistakes(capfd: pytest.CaptureFixture[str], model: str, words: tuple[object, ...], told: str) -> None:
    code, out, err = run(capfd, "generate", "a cat", "--model", model, *words, "--out", "made.png")
    assert (code, out) == (2, "")
    assert told in err
    assert not Path("made.png").exists()
