"""The command's options for guidance, and `again` for what they made."""

from pathlib import Path

import pytest
from PIL import Image
from tests.apps.command import run
from tests.fixtures import tiny_bundle

import aquatint
from aquatint.apps.cli.guiding import Guidance, read_guiding
from aquatint.pipelines.guiding import Apg, FreeU, Guiding, Interval, Pag, Sag, Threshold

OPTIONS = (
    "--guidance-interval", "0.2,0.9", "--threshold", "percentile=0.9,limit=2", "--apg", "eta=0.5, momentum=-5e-1",
    "--perp-neg", 1, "--pag", 2, "--pag-layers", "middle, descent.0", "--sag", 0.5, "--sag-blur", 2,
    "--freeu", "b1=1.2,version=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(aquatint.save(tiny_bundle(), tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def test_paint_and_again(capfd: pytest.CaptureFixture[str], model: str) -> None:
    paint = ("generate", "a cat", "--negative", "snow", "--model", model, "--seed", 3, "--out")
    assert run(capfd, *paint, "plain.png")[0] == 0
    code, _, err = run(capfd, *paint, "guided.png", *OPTIONS)
    assert (code, err) == (0, "")
    assert Image.open("plain.png").tobytes() != Image.open("guided.png").tobytes()
    code, out, _ = run(capfd, "again", "guided.png", "--model", model, "--check")
    assert (code, "equal bit for bit" in out) == (0, True)


def test_a_grid_over_a_kind(capfd: pytest.CaptureFixture[str], model: str) -> None:
    """Its fields are axes, once there is one of the kind."""
    grid = ("grid", "a cat", "--model", model, "--seed", 3, "--steps", 2, "--x", "guiding.pag.scale=0,3", "--out")
    assert run(capfd, *grid, "none.png")[0] == 2
    assert run(capfd, *grid, "sheet.png", "--pag", 1)[0] == 0
    assert Image.open("sheet.png").width == 2 * 64


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (Guidance(), None),
        (Guidance(threshold="on", apg="on", freeu="on"), Guiding(threshold=Threshold(), apg=Apg(), freeu=FreeU())),
        (Guidance(threshold="mimic=7"), Guiding(threshold=Threshold(1.0, 7.0))),
        (Guidance(guidance_interval="0,.5", pag=0.0), Guiding(Interval(0.0, 0.5), pag=Pag(0.0))),
        (Guidance(sag=0.75, perp_neg=1.0), Guiding(sag=Sag(), perp_neg=1.0)),
    ],
)
def test_reading(said: Guidance, meant: Guiding | None) -> None:
    assert read_guiding(said) == meant


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--pag-layers", "middle"), "--pag-layers without --pag"),
        (("--sag-blur", 1), "--sag-blur without --sag"),
        (("--pag", 3, "--pag-layers", "descent.7"), "descent.7"),
        (("--pag", "-1"), "guiding.pag.scale"),
        (("--guidance-interval", "0.5"), "--guidance-interval"),
        (("--guidance-interval", "0.9,0.1"), "guiding.interval"),
        (("--apg", "eta=2"), "guiding.apg.eta"),
        (("--apg", "eta=0,eta=1"), "--apg"),
        (("--apg", "strength=1"), "--apg"),
        (("--apg", "eta=1.2.3"), "--apg"),
        (("--freeu", "1.2"), "--freeu"),
        (("--freeu", "version=1.5"), "guiding.freeu.version"),
        (("--threshold", "mimic=7", "--apg", "on"), "guiding.apg and guiding.threshold.mimic"),
        (("--apg", "on", "--sampler", "euler_cfg_pp"), "euler_cfg_pp"),
    ],
)
def test_mistakes(capfd: pytest.CaptureFixture[str], model: str, words: tuple[object, ...], told: str) -> None:
    code, out, err = run(capfd, "generate", "a cat", "--model", model, *words, "--out", "made.png")
    assert (code, out) == (2, "")
    assert told in err
    assert not Path("made.png").exists()
