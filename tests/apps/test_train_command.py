"""`aquatint train`: from a folder of pictures to a file that `generate` takes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from tests.apps.command import run
from tests.fixtures import tiny_bundle
from tests.training.sets import picture

import aquatint
from aquatint.families import TINY


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aquatint.save(tiny_bundle(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for index in range(3):
        Image.new("RGB", (64, 64), (80 * index, 20, 120)).save(f"pictures/{index}.png")


def lesson(kind: str, model: Path, *more: object) -> tuple[object, ...]:
    return (
        "train",
        kind,
        "--data",
        "pictures",
        "--words",
        "a zorb",
        "--model",
        model,
        "--steps",
        3,
        "--out",
        "run",
        *more,
    )


def pixels(capfd: pytest.CaptureFixture[str], model: Path, *more: object) -> str:
    paint = ("generate", "a zorb", "--model", model, "--steps", 2, "--json", "--out", "out/")
    code, out, err = run(capfd, *paint, *more)
    assert code == 0, err
    return str(json.loads(out.splitlines()[-1])["pixels_sha256"])


@pytest.mark.parametrize("format", ["kohya", "diffusers"])
def test_a_lora_from_pictures_to_a_file_that_paints(
    format: str, capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    rate = ("--set", "optim.lr=0.05", "--set", "optim.warmup=1", "--set", "text=true", "--rank", 2)
    code, out, err = run(capfd, *lesson("lora", model, *rate, "--prompt", "a zorb", "--format", format))
    assert code == 0, err
    assert out.split() == ["run/sheet.jpg", "run/report.html", "run/run.safetensors"]
    with safe_open("run/run.safetensors", "pt") as file:
        said = file.metadata()
    assert json.loads(said["aquatint.training"])["optim"]["lr"] == 0.05
    assert str(tmp_path) not in json.dumps(said)
    assert said["modelspec.trigger_phrase"] == "a zorb"
    assert pixels(capfd, model, "--lora", "run/run.safetensors") != pixels(capfd, model)
    code, _, err = run(capfd, *lesson("lora", model, "--format", format))
    assert code == 2
    assert "is there already" in err


def test_a_word_from_pictures_to_a_file_that_paints(capfd: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, err = run(capfd, *lesson("inversion", model, "--word", "zorb", "--set", "optim.lr=0.5"))
    assert code == 0, err
    assert out.split() == ["run/sheet.jpg", "run/report.html", "run/zorb.safetensors"]
    assert pixels(capfd, model, "--embedding", "run/zorb.safetensors") != pixels(capfd, model)


@pytest.mark.parametrize("format", ["native", "compvis"])
def test_the_whole_net_from_pictures_to_a_model(format: str, capfd: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, err = run(capfd, *lesson("full", model, "--format", format, "--set", "optim.lr=0.01"))
    assert code == 0, err
    path = out.split()[-1]
    assert path == ("run/model" if format == "native" else "run/model.safetensors")
    assert pixels(capfd, Path(path)) != pixels(capfd, model)


def test_a_dry_run_says_what_would_learn(capfd: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, _ = run(capfd, *lesson("lora", model, "--set", "rank=2", "--dry-run"))
    assert code == 0
    said = json.loads(out)
    assert (said["kind"], said["settings"]["rank"], said["settings"]["steps"]) == ("lora", 2, 3)
    assert said["settings"]["aim"]["prediction"] == TINY.prediction
    assert 0 < said["numbers that learn"] < 50_000
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--set", "optim.speed=3"), "speed"),
        (("--set", "rank"), "NAME=VALUE"),
        (("--set", "rank=0"), "rank = 0"),
        (("--set", "reach=nowhere"), "reach"),
        (("--format", "compvis"), "format for lora"),
        (("--prior", "pictures"), "one is missing"),
        (("--data", "nowhere"), "is no folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(
    more: tuple[str, ...], told: str, capfd: pytest.CaptureFixture[str], model: Path
) -> None:
    arguments = [part for part in lesson("lora", model) if more[0] != "--data" or part not in ("--data", "pictures")]
    code, out, err = run(capfd, *arguments, *more)
    assert (code, out) == (2, "")
    assert told in err
    assert not Path("run").exists()


def test_kinds_and_needs(capfd: pytest.CaptureFixture[str], model: Path) -> None:
    for arguments, told in (
        (lesson("dreambooth", model), "kind of training"),
        (lesson("inversion", model), "--word WORD"),
        (("train", "lora", "--model", model), "--data FOLDER"),
    ):
        code, _, err = run(capfd, *arguments)
        assert code == 2
        assert told in err


@pytest.mark.parametrize("format", ["original", "diffusers"])
def test_a_controlnet_from_pictures_to_a_file_that_paints(
    format: str, capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    rate = ("--set", "optim.lr=0.05", "--set", "optim.warmup=1", "--set", "hint=canny", "--format", format)
    code, out, err = run(capfd, *lesson("controlnet", model, *rate, "--prompt", "a zorb"))
    assert code == 0, err
    path = out.splitlines()[-1]
    assert path == ("run/run.safetensors" if format == "original" else "run/control")
    with Image.open("run/sheet.jpg") as sheet:
        assert sheet.width < sheet.height * 2
    shown = ("--control", path, "--control-image", "pictures/1.png")
    assert pixels(capfd, model) != pixels(capfd, model, *shown)


def test_a_hint_that_nobody_makes(capfd: pytest.CaptureFixture[str], model: Path) -> None:
    code, _, err = run(capfd, *lesson("controlnet", model, "--set", "hint=cany"))
    assert code == 2
    assert "canny" in err
    code, _, err = run(capfd, *lesson("controlnet", model))
    assert code == 2
    assert "has no hint" in err


@pytest.mark.parametrize("kind", ["lora", "full", "controlnet"])
def test_sheets_while_it_learns(kind: str, capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    Path("held").mkdir()
    Image.new("RGB", (64, 64), "green").save("held/0.png")
    more = ["--set", "hint=canny"] if kind == "controlnet" else []
    code, _, err = run(
        capfd, *lesson(kind, model, "--every", 2, "--set", "steps=5", "--set", "held=held", "--prompt", "x", *more)
    )
    assert code == 0, err
    assert [path.name for path in sorted(Path("run/sheets").iterdir())] == [
        "00000002.jpg",
        "00000004.jpg",
        "00000005.jpg",
    ]
    lines = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held" in line] == [5]


@pytest.mark.parametrize(("kind", "sees"), [("lora", "picture"), ("full", "depth"), ("controlnet", "picture")])
def test_a_model_that_is_shown_something(
    kind: str, sees: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """From pictures with those before, or with depth maps, to a file that paints; the sheet shows them too."""
    more = {"picture": 4, "depth": 1}[sees]
    family = replace(TINY, name="SHOWN", unet=replace(TINY.unet, channels_in=4 + more))
    model, folder = (
        aquatint.save(tiny_bundle(family), tmp_path / "model"),
        {"picture": "before", "depth": "depth"}[sees],
    )
    rate = ("--set", "optim.lr=0.05", "--set", "optim.warmup=1", "--every", 3, "--prompt", "a zorb")
    rate = (*rate, "--set", "hint=canny") if kind == "controlnet" else rate
    code, _, err = run(capfd, *lesson(kind, model, *rate))
    assert code == 2
    assert '"0.png" has no' in err
    Path(f"pictures/{folder}").mkdir()
    for index in range(3):
        picture(index, (64, 64)).save(f"pictures/{folder}/{index}.png")
    code, out, err = run(capfd, *lesson(kind, model, *rate))
    assert code == 0, err
    path = Path(out.splitlines()[-1])
    assert Path("run/sheets/00000003.jpg").is_file()
    with Image.open("run/sheet.jpg") as sheet:
        assert sheet.width < sheet.height
    shown = ("--image" if sees == "picture" else "--depth", f"pictures/{folder}/1.png")
    own = {"lora": ("--lora", path), "controlnet": ("--control", path, "--control-image", "pictures/1.png"), "full": ()}
    after = pixels(capfd, path if kind == "full" else model, *shown, *own[kind])
    assert after != pixels(capfd, model, *shown)


@pytest.mark.slow
def test_two_processes_tune_and_one_writes(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "aquatint"]
    command += [str(part) for part in lesson("lora", model, "--prompt", "a zorb")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["run/sheet.jpg", "run/report.html", "run/run.safetensors"]
    assert json.loads(Path("run/run.json").read_text())["processes"] == 2
