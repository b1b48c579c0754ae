"""The command's options for approximations: labelled, recorded, repeated."""

from pathlib import Path

import pytest
from PIL import Image
from tests.apps.command import run
from tests.fixtures import tiny_bundle

import aquatint
from aquatint.apps.cli.approximate import Approximating, read_approximating
from aquatint.pipelines.approximations import Approximations, Reuse


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(aquatint.save(tiny_bundle(), tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def test_paint_and_again(capfd: pytest.CaptureFixture[str], model: str) -> None:
    paint = ("generate", "a cat", "--negative", "snow", "--model", model, "--seed", 3, "--out")
    code, _, err = run(capfd, *paint, "exact.png", "--reuse", 1, "--merge-tokens", 0)
    assert (code, err) == (0, "")
    code, _, err = run(capfd, *paint, "quick.png", "--reuse", 2, "--reuse-skips", 2, "--merge-tokens", 0.5)
    assert code == 0
    assert err.startswith("note: approximate: deep features are computed every 2 steps; 50 % of the pixels are merged")
    assert Image.open("quick.png").tobytes() != Image.open("exact.png").tobytes()
    code, out, _ = run(capfd, "again", "quick.png", "--model", model, "--check")
    assert (code, "equal bit for bit" in out) == (0, True)


@pytest.mark.slow
def test_a_grid_over_steps(capfd: pytest.CaptureFixture[str], model: str) -> None:
    grid = ("grid", "a cat", "--model", model, "--seed", 3, "--steps", 2, "--x", "approximations.reuse.every=1,2")
    assert run(capfd, *grid, "--out", "none.png")[0] == 2
    assert run(capfd, *grid, "--out", "sheet.png", "--reuse", 2)[0] == 0
    assert Image.open("sheet.png").width == 2 * 64


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (Approximating(), None),
        (Approximating(reuse=3), Approximations(Reuse(3, 1))),
        (Approximating(reuse=2, reuse_skips=3, merge_tokens=0.5), Approximations(Reuse(2, 3), 0.5)),
        (Approximating(merge_tokens=0.0), Approximations(merge=0.0)),
    ],
)
def test_reading(said: Approximating, meant: Approximations | None) -> None:
    assert read_approximating(said) == meant


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--reuse-skips", 2), "--reuse-skips without --reuse"),
        (("--reuse", 0), "approximations.reuse.every"),
        (("--merge-tokens", 0.9), "approximations.merge"),
    ],
)
def test_mistakes(capfd: pytest.CaptureFixture[str], model: str, words: tuple[object, ...], told: str) -> None:
    code, out, err = run(capfd, "generate", "a cat", "--model", model, *words, "--out", "made.png")
    assert (code, out) == (2, "")
    assert told in err
    assert not Path("made.png").exists()
