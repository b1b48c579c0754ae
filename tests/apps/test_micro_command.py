"""The command's options for Stable Diffusion XL, and `again` for what they made, from every format."""

import json
from pathlib import Path

import pytest
from tests.apps.command import run
from tests.fixtures import tiny_bundle
from tests.pipelines.test_adapted_xl import REFINER

import aquatint
from aquatint.families import TINY_XL
from aquatint.weights import inspect


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    names = {"native": "native", "diffusers": "diffusers", "compvis": "model.safetensors"}
    return {format: str(aquatint.save(tiny_bundle(TINY_XL), root / name, format)) for format, name in names.items()}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.chdir(tmp_path)


SAID = ("--original-size", "320x200", "--crop", "8,16", "--target-size", "640X400", "--no-blank", "--steps", 4)


def test_paint_and_again_from_every_format(capfd: pytest.CaptureFixture[str], models: dict[str, str]) -> None:
    made = {}
    for format, model in models.items():
        name = f"{format}.png"
        code, out, err = run(
            capfd, "generate", "two cats", "--model", model, "--seed", 3, *SAID, "--out", name, "--json"
        )
        assert code == 0, err
        made[format] = json.loads(out)
        micro = {"original": [320, 200], "crop": [8, 16], "target": [640, 400]}
        assert made[format]["request"]["micro"] == {
            **micro, "aesthetic": None, "negative_aesthetic": None, "blank": False
        }  # fmt: skip
        code, out, _ = run(capfd, "again", name, "--model", models["native"], "--check")
        assert code == 0
        assert "equal bit for bit" in out
    assert len({facts["pixels_sha256"] for facts in made.values()}) == 1
    assert len({facts["model"]["digest"] for facts in made.values()}) == 1


def test_a_refiner_paints_the_end(capfd: pytest.CaptureFixture[str], models: dict[str, str], tmp_path: Path) -> None:
    refiner = str(aquatint.save(tiny_bundle(REFINER, seed=9), tmp_path / "fine.safetensors", "compvis"))
    base = ("--model", models["native"])
    code, out, err = run(
        capfd, "generate", "two cats", *base, "--refiner", refiner, "--refine", 0.5, "--aesthetic", 7, "--seed", 3,
        "--out", "both.png", "--json",
    )  # fmt: skip
    assert code == 0, err
    made = json.loads(out)
    assert made["request"]["refine"] == {"after": 0.5, "aesthetic": 7.0, "negative_aesthetic": None}
    assert made["request"]["micro"] is None
    assert [(file["kind"], file["name"]) for file in made["files"]] == [("refiner", "fine.safetensors")]
    code, out, _ = run(capfd, "again", "both.png", *base, "--refiner", refiner, "--check")
    assert (code, "equal bit for bit" in out) == (0, True)
    other = str(aquatint.save(tiny_bundle(REFINER, seed=8), tmp_path / "other"))
    for words, told in (
        (("again", "both.png", *base), "Give it with --refiner"),
        (("again", "both.png", *base, "--refiner", other), "refiner"),
        (("generate", "a cat", *base, "--refine", 0.5), "--refine without --refiner"),
        (("generate", "a cat", *base, "--refiner", refiner, "--refine", 2), "refine after"),
        (("generate", "a cat", *base, "--refiner", "nowhere"), "nowhere"),
    ):
        code, out, err = run(capfd, *words)
        assert (code, out) == (2, "")
        assert told in err


def test_inspect_names_both_encoders(models: dict[str, str]) -> None:
    for format, model in models.items():
        plan = inspect(model)
        assert plan.format == format
        assert [part.name for part in plan.parts] == ["unet", "autoencoder", "text", "text2"]
        assert plan.complete
        assert "text2" in str(plan)
        assert "text width 56" in str(plan)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--original-size", "320"), "--original-size"),
        (("--crop", "3x4"), "--crop"),
        (("--target-size", "0x4"), "micro target"),
        (("--aesthetic", 7), "micro aesthetic for TINY_XL"),
        (("--clip-skip", 3), "clip_skip = 3"),
    ],
)
def test_mistakes(
    capfd: pytest.CaptureFixture[str], models: dict[str, str], words: tuple[object, ...], told: str
) -> None:
    code, out, err = run(capfd, "generate", "a cat", "--model", models["native"], *words, "--out", "made.png")
    assert (code, out) == (2, "")
    assert told in err
    assert not Path("made.png").exists()


def test_the_pocket_model_is_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, "generate", "a cat", "--crop", "3,4", "--out", "made.png")
    assert code == 2
    assert "micro crop for POCKET" in err
