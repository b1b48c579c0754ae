"""The command's options for controls, `again` for what they made, and `preprocess`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.apps.command import run
from tests.fixtures import tiny_bundle
from tests.weights import control_files
from tests.weights.control_files import write

import aquatint
from aquatint.apps.cli.control import read_preprocess
from aquatint.base.errors import UserError
from aquatint.families import TINY


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    aquatint.save(tiny_bundle(), folder / "tiny")
    write(folder / "canny.safetensors", control_files.control(TINY, 1))
    write(folder / "style.safetensors", control_files.prompt(TINY, 4))
    write(folder / "clip.safetensors", control_files.tower())
    return folder


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("photo.png", "other.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 8, 32, 32))
    mask.save("mask.png")


def test_controls_and_again(capfd: pytest.CaptureFixture[str], models: Path, tmp_path: Path) -> None:
    model, canny, style = models / "tiny", models / "canny.safetensors", models / "style.safetensors"
    controls = (
        *("--control", canny, "--control-image", "photo.png", "--preprocess", "canny,low=50"),
        *("--control", style, "--control-image", "other.png", "--preprocess", "none"),
        *("--control-weight", 0.5, "--control-end", 0.5, "--control-end", 1),
        *("--image-encoder", models / "clip.safetensors"),
    )
    code, out, _ = run(capfd, "generate", "a cat", "--model", model, "--seed", 3, *controls, "--out", "made.png")
    assert (code, out.split()[0]) == (0, "made.png")
    assert str(models) not in Path("made.png").read_bytes().decode("latin-1")

    repeat = ("again", "made.png", "--model", model, "--check")
    pictures = ("--control-image", "other.png", "--control-image", "photo.png")  # in any order
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(canny.read_bytes())
    files = ("--control", renamed, "--control", style)
    for given, told in (
        ((), "--control-image"),
        (pictures, "--control FILE"),
        ((*pictures, "--control", canny), "style"),
        ((*pictures, *files), "--image-encoder"),
        ((*pictures, *files, "--control-weight", 1), "the record says the rest"),
    ):
        code, _, err = run(capfd, *repeat, *given)
        assert code == 2
        assert told in err
    code, out, _ = run(capfd, *repeat, *pictures, *files, "--image-encoder", models / "clip.safetensors")
    assert code == 0
    assert "equal bit for bit" in out


def test_another_programs_controls(capfd: pytest.CaptureFixture[str], models: Path) -> None:
    unit = 'ControlNet 0: "Module: none, Model: canny [d14c016b], Weight: 0.5, Guidance Start: 0, Guidance End: 0.5"'
    chunks = PngInfo()
    chunks.add_text("parameters", f"a cat\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, {unit}")
    Image.new("RGB", (64, 64)).save("theirs.png", pnginfo=chunks)
    repeat = ("again", "theirs.png", "--model", models / "tiny", "--json")
    control = ("--control", models / "canny.safetensors", "--control-image", "photo.png")
    facts = [json.loads(run(capfd, *repeat, *more)[1]) for more in ((), control, (*control, "--control-weight", 0))]
    assert len({row["pixels_sha256"] for row in facts}) == 2  # a weight of nothing is nothing
    assert facts[0]["pixels_sha256"] == facts[2]["pixels_sha256"]
    assert "control" in {row["name"] for row in facts[0]["account"]["ignored"]}
    assert "control" in {row["name"] for row in facts[1]["account"]["honoured"]}
    (made,) = facts[1]["request"]["controls"]
    assert (made["weight"], made["start"], made["end"]) == (0.5, 0.0, 0.5)
    code, _, err = run(capfd, *repeat, *control, *control)
    assert code == 2
    assert '--control 2 times; the picture was steered by 1: "canny"' in err


def test_an_inpaint_hint(capfd: pytest.CaptureFixture[str], models: Path) -> None:
    hint = ("--control", models / "canny.safetensors", "--control-image", "photo.png", "--preprocess", "inpaint")
    code, _, err = run(capfd, "generate", "a cat", "--model", models / "tiny", *hint, "--out", "made.png")
    assert code == 2
    assert "--control-mask" in err
    hint = (*hint, "--control-mask", "mask.png")
    code, _, _ = run(capfd, "generate", "a cat", "--model", models / "tiny", *hint, "--out", "made.png")
    assert code == 0
    files = ("--control", models / "canny.safetensors", "--control-image", "photo.png", "--control-mask", "mask.png")
    code, out, _ = run(capfd, "again", "made.png", "--model", models / "tiny", "--check", *files)
    assert code == 0
    assert "equal bit for bit" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--control-weight", 1), "without --control"),
        (("--control", "CANNY"), "--control-image"),
        (("--control", "none.safetensors", "--control-image", "photo.png"), "none.safetensors"),
        (("--control", "CANNY", "--control-image", "none.png"), "none.png"),
        (("--control", "CANNY", "--control-image", "photo.png", "--control-weight", 99), "weight"),
        (("--control", "CANNY", "--control-image", "photo.png", "--control-start", 1), "before the end"),
        (("--control", "CANNY", "--control-image", "photo.png", "--control-end", 1, "--control-end", 1), "2 times"),
        (("--control", "CANNY", "--control-image", "photo.png", "--preprocess", "cany"), "canny"),
        (("--control", "CANNY", "--control-image", "photo.png", "--preprocess", "canny,low"), "OPTION=NUMBER"),
        (("--control", "CANNY", "--control-image", "photo.png", "--control-mask", "mask.png"), "--control-mask"),
        (("--control", "STYLE", "--control-image", "photo.png"), "image encoder"),
    ],
    ids=str,
)
def test_mistakes(capfd: pytest.CaptureFixture[str], models: Path, words: tuple[object, ...], told: str) -> None:
    places = {"CANNY": models / "canny.safetensors", "STYLE": models / "style.safetensors"}
    spoken = [places.get(str(word), word) for word in words]
    code, out, err = run(capfd, "generate", "a cat", "--model", models / "tiny", *spoken, "--out", "made.png")
    assert (code, out) == (2, "")
    assert told in err
    assert not Path("made.png").exists()


def test_preprocess(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "preprocess")
    assert code == 0
    assert "canny" in out
    assert "low=100, high=200" in out
    code, out, _ = run(capfd, "preprocess", "canny,low=50", "photo.png")
    assert (code, out.strip()) == (0, "photo-canny.png")
    assert set(np.unique(np.asarray(Image.open("photo-canny.png")))) == {0, 255}
    code, out, _ = run(capfd, "preprocess", "invert", "photo.png", "--out", "a.webp")
    assert (code, out.strip()) == (0, "a.webp")
    for words, told in (
        (("cany", "photo.png"), "canny"),
        (("canny",), "no picture"),
        (("tile,scale=0", "photo.png"), "0"),
    ):
        code, _, err = run(capfd, "preprocess", *words)
        assert code == 2
        assert told in err


def test_inspect(capfd: pytest.CaptureFixture[str], models: Path) -> None:
    for name, kind in (("canny", "a ControlNet"), ("style", "an IP-Adapter"), ("clip", "an image encoder")):
        code, out, _ = run(capfd, "inspect", models / f"{name}.safetensors", "--json")
        assert code == 0
        assert json.loads(out)["kind"] == kind


def test_words() -> None:
    assert read_preprocess("canny") == ("canny", ())
    assert read_preprocess("canny, low=80,high=160") == ("canny", (("low", 80.0), ("high", 160.0)))
    with pytest.raises(UserError):
        read_preprocess("canny,low=x")


def test_a_grid_over_a_control_and_an_edit(capfd: pytest.CaptureFixture[str], models: Path) -> None:
    words = ("a cat", "--model", models / "tiny", "--seed", 3, "--steps", 2, "--image", "photo.png", "--strength", 1)
    control = ("--control", models / "canny.safetensors", "--control-image", "photo.png", "--preprocess", "canny")
    axes = ("--x", "controls.canny.weight=0,1", "--y", "edit.strength=0.5,1")
    code, _, _ = run(capfd, "grid", *words, *control, *axes, "--out", "sheet.png")
    assert code == 0
    run(capfd, "generate", *words, *control, "--out", "alone.png")
    with Image.open("sheet.png") as sheet, Image.open("alone.png") as alone:
        corner = sheet.crop((sheet.width - 64, sheet.height - 64, sheet.width, sheet.height))
        assert corner.tobytes() == alone.tobytes()
