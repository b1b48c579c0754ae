"""`aquatint evaluate`: from prompts to figures, a page, and runs side by side; with the smallest of models."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.apps.command import run
from tests.evaluation.test_spaces import Pool, script
from tests.fixtures import tiny_bundle
from tests.weights.test_clip import peer

import aquatint
from aquatint.base import config
from aquatint.evaluation import plots
from aquatint.evaluation.results import Results, features_of, read
from aquatint.nets.tokenizer import Tokenizer
from aquatint.training.data.render import FONT_VARIABLE, has_font
from aquatint.training.state import locked

needs_font = pytest.mark.skipif(
    not has_font(), reason="Noto Color Emoji is not installed (Debian: fonts-noto-color-emoji)"
)
WORDS = [f"{colour} {thing}" for thing in ("cat", "apple") for colour in ("red", "two", "a", "the", "any", "blue")]
EVIL = '<img src=x onerror=alert(1)> & "$\\frac'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aquatint.save(tiny_bundle(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aquatint.save(tiny_bundle(seed=1), tmp_path_factory.mktemp("models") / "other")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    peer().save_pretrained(folder)
    Tokenizer.train(["a cat in the snow and two red circles"], 600).save(folder)
    return folder


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.setattr("aquatint.evaluation.page.has_matplotlib", lambda: False)  # which takes a second a page
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": words, "category": "even" if i % 2 else EVIL} for i, words in enumerate([*WORDS, EVIL])]
    Path("set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    photos("photos", 24, 0)


def photos(name: str, count: int, seed: int) -> None:
    Path(name).mkdir()
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 40)).save(f"{name}/{index:02}.png")


def evaluation(model: Path, *more: object) -> tuple[object, ...]:
    return ("evaluate", model, "--set", "set.jsonl", "--steps", 1, "--reconstruct", 3, *more)


class Page(HTMLParser):
    """Every tag, attribute and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def check_page(text: str) -> Page:
    """Nothing is run and nothing fetched: no script, no handler, no address but data: ones."""
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "style")]
        assert str(attributes.get("src", "data:")).startswith("data:")
    assert "url(" not in text
    assert "@import" not in text
    return page


def test_from_prompts_to_a_page(
    capfd: pytest.CaptureFixture[str], model: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aquatint.evaluation.page.has_matplotlib", plots.has_matplotlib)
    photos("taught", 5, 7)
    digest = script(Path("pool.pt"), Pool())
    eyes = ("--clip", clip, "--inception", "pool.pt", "--trust-sha256", digest)
    code, out, err = run(
        capfd, *evaluation(model, "--reference", "photos", "--training", "taught", *eyes, "--out", "run")
    )
    assert code == 0, err
    assert out.splitlines()[-1] == "run/report.html"
    found = read(Path("run"))
    names = {one.name for one in found.figures}
    assert names == {
        "clip_score", "clip_score_wrong", "r_precision", "psnr", "ssim",
        *(f"{kind}_{space}" for kind in ("fd", "kd", "rfd") for space in ("pixels", "clip", "inception")),
        *(f"{kind}_{space}" for kind in ("nearest", "copies") for space in ("thumbs", "clip", "inception")),
    }  # fmt: skip
    for one in found.figures:
        assert one.value is not None
        if one.low is not None and one.high is not None:
            assert one.low <= one.value <= one.high, one
    assert found.settings.request.steps == 1
    assert found.settings.model.digest == aquatint.load(model).digest
    assert found.references is not None
    assert (found.references.count, found.settings.prompts.count) == (24, 13)
    features = features_of(Path("run"))
    assert features["painted/clip"].shape == (13, 24)
    page = check_page(Path("run/report.html").read_text())
    assert EVIL + " (12)" in "".join(page.texts)
    assert sum(tag == "img" for tag, _ in page.tags) == 13 + 5  # pictures; distances, scores, three of nearest ones
    assert page.tags.count(("figure", {})) == 13 + 5
    assert found.markdown() in out


def test_a_stopped_run_goes_on_and_a_changed_one_is_refused(
    capfd: pytest.CaptureFixture[str], model: Path, other: Path
) -> None:
    assert run(capfd, *evaluation(model, "--out", "whole"))[0] == 0
    assert run(capfd, *evaluation(model, "--out", "run"))[0] == 0
    kept = {path.name: path.read_bytes() for path in Path("run/pictures").iterdir()}
    assert kept == {path.name: path.read_bytes() for path in Path("whole/pictures").iterdir()}
    before = Path("run/pictures/000000.png").stat().st_mtime_ns
    for number in (3, 12):
        Path(f"run/pictures/{number:06d}.png").unlink()
    Path("run/results.json").unlink()
    assert run(capfd, *evaluation(model, "--out", "run"))[0] == 0
    assert kept == {path.name: path.read_bytes() for path in Path("run/pictures").iterdir()}
    assert Path("run/pictures/000000.png").stat().st_mtime_ns == before
    for more, told in (
        (("--seed", 1), "request.seeds"),
        (("--guidance", 2), "request.guidance"),
        (("--each", 2), "prompts.digest"),
    ):
        code, _, err = run(capfd, *evaluation(model, "--out", "run", *more))
        assert (code, told in err) == (2, True), err
    code, _, err = run(capfd, *evaluation(other, "--out", "run"))
    assert code == 2
    assert "model.digest" in err
    with locked(Path("run")):
        code, _, err = run(capfd, *evaluation(model, "--out", "run"))
        assert (code, "Another run is at work" in err) == (2, True)
    Path("run/pictures/000005.png").write_bytes(kept["000005.png"][:200])
    code, _, err = run(capfd, *evaluation(model, "--out", "run"))
    assert (code, "000005.png" in err, "painted again" in err) == (2, True, True)


def test_figures_without_matplotlib_and_without_references(capfd: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, err = run(capfd, *evaluation(model, "--each", 1, "--out", "run"))
    assert code == 0, err
    assert "No references: no distances" in out
    assert read(Path("run")).figures == ()
    assert "Without matplotlib there are no drawings" in Path("run/report.html").read_text()


@needs_font
def test_the_pocket_world_with_any_model(
    capfd: pytest.CaptureFixture[str], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aquatint.evaluation.page.has_matplotlib", plots.has_matplotlib)
    code, out, err = run(
        capfd, "evaluate", model, "--each", 2, "--category", "subject", "--category", "pair", "--steps", 1,
        "--reconstruct", 2, "--out", "run",
    )  # fmt: skip
    assert code == 0, err
    found = read(Path("run"))
    assert found.figure("right/pair") is not None
    assert found.figure("fd_detector_floor") is not None
    assert found.figure("right").value == 0.0  # type: ignore[union-attr]
    assert found.scores is not None
    assert found.scores.row("true renders", "subject").scores["object"] == (2, 2)
    assert found.scores.total().row("reconstructions", "together").scores["all"][1] == 2
    assert all("object" in lacks for lacks in found.wrong)
    assert "| true renders | together | 4 " in out
    assert config.from_json(Results, config.to_json(found)) == found
    check_page(Path("run/report.html").read_text())


def test_side_by_side(capfd: pytest.CaptureFixture[str], model: Path, other: Path, clip: Path) -> None:
    more = ("--reference", "photos", "--clip", clip)
    for name, source in (("a", model), ("b", other), ("c", model)):
        code, _, err = run(capfd, *evaluation(source, *more, "--out", name))
        assert code == 0, err
    code, out, err = run(capfd, "evaluate", "--compare", "a", "b", "c", "--out", "side")
    assert code == 0, err
    rows = {cells[0]: cells for line in out.splitlines() if (cells := [c.strip() for c in line.strip("| ").split("|")])}
    assert rows["figure"][1:4] == ["a", "b", "c"]
    for name in ("CLIP score", "Fréchet distance, pixels", "R-precision", "autoencoder: PSNR, dB"):  # a and c are one
        nothing = r"\+0\.0 \(-.* to .*\)" if name == "R-precision" else r"\+0\.0000 \(0\.0000 to 0\.0000\)"
        assert re.fullmatch(nothing, rows[name][6]), rows[name]
        assert rows[name][7] == "not sure"
    found = json.loads(Path("side/changes.json").read_text())
    score = next(line for line in found["lines"] if line["name"] == "clip_score")
    values = [read(Path(name)).values["clip_score"] for name in "ab"]
    assert score["changes"][0]["value"] == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
    assert score["changes"][0]["how"] == "bootstrap"
    assert "They differ in the weights" in out
    check_page(Path("side/report.html").read_text())


def test_what_is_not_alike_is_not_compared(capfd: pytest.CaptureFixture[str], model: Path) -> None:
    photos("more", 5, 1)
    assert run(capfd, *evaluation(model, "--reference", "photos", "--out", "a"))[0] == 0
    assert run(capfd, *evaluation(model, "--reference", "more", "--out", "b"))[0] == 0
    assert run(capfd, *evaluation(model, "--reference", "photos", "--each", 2, "--out", "c"))[0] == 0
    photos("taught", 3, 9)
    more = ("--reference", "photos", "--training", "taught", "--seed", 5)
    assert run(capfd, *evaluation(model, *more, "--out", "d"))[0] == 0
    for name, told in (("b", "the references differ"), ("c", "the prompts differ")):
        code, out, err = run(capfd, "evaluate", "--compare", "a", name)
        assert (code, out, told in err) == (2, "", True)
    code, out, _ = run(capfd, "evaluate", "--compare", "a", "d")
    assert code == 0
    assert "The seeds differ: no pairs." in out
    assert "nearest training" not in out  # which only one of them has
    for folders, told in ((("a",), "2 to 8"), (("a", "nowhere"), "no results"), (("a", "photos"), "no results")):
        code, _, err = run(capfd, "evaluate", "--compare", *folders)
        assert (code, told in err) == (2, True), err
    data = json.loads(Path("d/results.json").read_text())
    for change, told in (({"version": 2}, "version"), ({"figures": 3}, "figures"), ({"values": {"x": ["nan"]}}, "x")):
        Path("d/results.json").write_text(json.dumps(data | change))
        code, _, err = run(capfd, "evaluate", "--compare", "a", "d")
        assert (code, told in err) == (2, True), err
    Path("d/results.json").write_text(json.dumps(data))
    Path("d/features.safetensors").write_bytes(b"nothing")
    code, _, err = run(capfd, "evaluate", "--compare", "a", "d")
    assert (code, "damaged" in err) == (2, True)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--count", "2"), "One picture a prompt"),
        (("--reference", "nowhere"), "is no folder"),
        (("--training", "photos"), "--reference FOLDER"),
        (("--training", "photos", "--reference", "photos"), "24 of the 24 references are training pictures"),
        (("--clip", "photos"), "no model.safetensors"),
        (("--inception", "set.jsonl"), "which is not that of FID's Inception"),
        (("--trust-sha256", "0" * 64), "without --inception"),
        (("--sampler", "magic"), 'sampler "magic"'),
        (("--category", "strange"), 'category "strange"'),
        (("--seed", str(2**64 - 3)), "smaller first seed"),
        (("--model", "x"), "Two models"),
    ],
)
def test_mistakes_are_told_before_anything_is_painted(
    more: tuple[str, ...], told: str, capfd: pytest.CaptureFixture[str], model: Path
) -> None:
    code, out, err = run(capfd, *evaluation(model, *more, "--out", "run"))
    assert (code, out) == (2, "")
    assert told in err
    assert not Path("run/pictures").exists()


def test_a_missing_font_is_told(
    capfd: pytest.CaptureFixture[str], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FONT_VARIABLE, "no.ttf")
    code, _, err = run(capfd, "evaluate", model, "--each", 2)
    assert (code, "fonts-noto-color-emoji" in err) == (2, True)


def test_pictures_that_were_learned_by_heart_are_found(
    capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    assert run(capfd, *evaluation(model, "--out", "run"))[0] == 0
    Path("taught").mkdir()
    for number in range(4):
        image = Image.open(f"run/pictures/{number:06d}.png").convert("RGB")
        image.save(f"taught/{number}.jpg", quality=95, subsampling=0)
    photos("strangers", 8, 3)
    for index, path in enumerate(sorted(Path("strangers").iterdir())):
        path.rename(f"taught/stranger-{index}.png")
    code, _, err = run(capfd, *evaluation(model, "--reference", "photos", "--training", "taught", "--out", "run"))
    assert code == 0, err
    found = read(Path("run"))
    near = torch.tensor(found.values["nearest_thumbs"])
    assert float(near[:4].max()) < 8.0
    copies = found.figure("copies_thumbs")
    assert copies is not None
    assert copies.value is not None
    assert copies.value >= 4 / 13
    assert copies.low is not None
    assert copies.low > 1 / 25  # what no copying would give
