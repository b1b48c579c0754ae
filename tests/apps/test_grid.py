"""`aquatint grid`: a sheet whose pictures are those that `generate` paints, everything checked beforehand."""

from pathlib import Path

import pytest
from PIL import Image
from tests.apps.command import run
from tests.fixtures import tiny_bundle

import aquatint
from aquatint.pipelines import metadata


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(aquatint.save(tiny_bundle(), tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def test_a_sheet_along_two_axes(capfd: pytest.CaptureFixture[str], model: str) -> None:
    what = ("a cat", "--model", model, "--seed", 5)
    code, out, _ = run(capfd, "grid", *what, "--x", "steps=1,2", "--y", "prompt=cat,dog", "--out", "sheet.png")
    assert (code, out) == (0, "sheet.png\n")
    sheet = Image.open("sheet.png")
    assert metadata.find(sheet) == metadata.Found(None, None, True)
    run(capfd, "generate", "a dog", "--model", model, "--seed", 5, "--steps", 2, "--out", "alone.png")
    corner = sheet.crop((sheet.width - 64, sheet.height - 64, sheet.width, sheet.height))
    assert corner.tobytes() == Image.open("alone.png").tobytes()


def test_a_sheet_for_every_value_of_the_third_axis(capfd: pytest.CaptureFixture[str], model: str) -> None:
    what = ("a cat", "--model", model, "--seed", 5, "--steps", 1)
    code, out, _ = run(capfd, "grid", *what, "--z", "sampler=ddim,heun", "--out", "sheets")
    assert code == 0
    assert [Path(line).exists() for line in out.split()] == [True, True]


def test_a_prompt_matrix(capfd: pytest.CaptureFixture[str], model: str) -> None:
    what = ("--model", model, "--seed", 5, "--steps", 1, "--out", "m.jpg")
    code, _, _ = run(capfd, "grid", "a cat|at night|in the snow", "--matrix", *what)
    assert code == 0
    assert Image.open("m.jpg").width > 128


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "without an axis"),
        (("--x", "steps=1,0"), "steps = 0"),
        (("--x", "steps=1", "--matrix"), "--matrix together"),
        (("--x", "width=64,65"), "multiple of 8"),
        (("--x", "steps=1", "--count", 2), "One picture a cell"),
        (("--x", "eta=0,1", "--sampler", "heun"), "takes no eta"),
    ],
)
def test_mistakes_come_before_the_work(
    capfd: pytest.CaptureFixture[str], model: str, words: tuple[object, ...], told: str
) -> None:
    code, out, err = run(capfd, "grid", "a cat", "--model", model, *words, "--out", "made/up")
    assert (code, out) == (2, "")
    assert told in err
    assert not Path("made").exists() or not list(Path("made").iterdir())
