"""LoRAs and embeddings on the command line: painted with, painted again, listed, inspected, merged, extracted."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.apps.command import run
from tests.fixtures import tiny_bundle
from tests.pipelines.test_adapted import adapters, noise

import aquatint
from aquatint.apps.cli.adapters import read_lora
from aquatint.families import TINY
from aquatint.weights.lora_writer import save_lora


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two LoRAs and an embedding."""
    home = tmp_path_factory.mktemp("home")
    aquatint.save(tiny_bundle(), home / "tiny")
    for seed, name in enumerate(("ink", "oil")):
        said = {"modelspec.trigger_phrase": f"{name} style"}
        save_lora(home / "loras" / f"{name}.safetensors", adapters(seed), TINY, metadata=said)
    save_file({"emb_params": noise(2, 32, seed=0)}, home / "loras" / "inky.safetensors")
    (home / "loras" / "junk.safetensors").write_bytes(b"junk")
    return home


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def pixels(path: str | Path) -> bytes:
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("text", "path", "weights"),
    [
        ("ink.safetensors", "ink.safetensors", []),
        ("a/ink.safetensors:0.8", "a/ink.safetensors", [0.8]),
        ("ink.pt:-1:0.5", "ink.pt", [-1.0, 0.5]),
        ("C:\\ink.pt", "C:\\ink.pt", []),
        ("C:\\ink.pt:2", "C:\\ink.pt", [2.0]),
        (":2", ":2", []),
    ],
)
def test_reading(text: str, path: str, weights: list[float]) -> None:
    assert read_lora(text) == (Path(path), weights)


def test_painting_and_painting_again(capfd: pytest.CaptureFixture[str], home: Path) -> None:
    model, ink, inky = home / "tiny", home / "loras" / "ink.safetensors", home / "loras" / "inky.safetensors"
    paint = ("generate", "a red inky apple", "--model", model, "--seed", 7, "--steps", 2, "--out")
    assert run(capfd, *paint, "plain.png")[0] == 0
    code, _, err = run(capfd, *paint, "ink.png", "--lora", f"{ink}:0.5", "--embedding", inky)
    assert (code, err) == (0, "")
    assert pixels("ink.png") != pixels("plain.png")
    again = ("again", "ink.png", "--model", model, "--check")
    for options, words in (
        ((), "painted with the"),
        (("--embedding", inky), '"ink" (sha256'),
        (("--lora", ink), '"inky" (sha256'),
        (("--lora", home / "loras" / "oil.safetensors", "--embedding", inky), "LoRA"),
    ):
        code, _, err = run(capfd, *again, *options)
        assert code == 2, options
        assert words in err, err
    shutil.copy(ink, "renamed.safetensors")
    code, out, err = run(capfd, *again, "--lora", "renamed.safetensors", "--embedding", inky)
    assert (code, "equal bit for bit" in out) == (0, True), err


def test_tags_and_folders(capfd: pytest.CaptureFixture[str], home: Path) -> None:
    folder = home / "loras"
    paint = ("generate", "a red apple <lora:ink:0.5>", "--model", home / "tiny", "--seed", 7, "--steps", 2, "--out")
    code, _, err = run(capfd, *paint, "bare.png")
    assert (code, "left out" in err) == (0, True)
    assert run(capfd, *paint, "tag.png", "--lora-folder", folder)[0] == 0
    assert pixels("tag.png") != pixels("bare.png")
    code, out, _ = run(capfd, "again", "tag.png", "--model", home / "tiny", "--lora-folder", folder, "--check")
    assert (code, "equal bit for bit" in out) == (0, True)
    code, _, err = run(capfd, "again", "bare.png", "--model", home / "tiny", "--lora-folder", folder, "--check")
    assert (code, "painted with none" in err) == (2, True)
    for options, words in (
        (("--lora", "nowhere.safetensors"), "no file"),
        (("--lora-folder", "nowhere"), "no folder"),
        (("--embedding", "nowhere"), "nowhere"),
        (("--lora", folder / "junk.safetensors"), "junk"),
        (("--lora", folder / "inky.safetensors"), "holds no adapter"),
        (("--embedding", folder / "ink.safetensors"), "no textual inversion"),
        (("--lora", f"{folder / 'ink.safetensors'}:nan"), "nan"),
    ):
        code, _, err = run(capfd, *paint, "x.png", *options)
        assert code == 2, options
        assert words in err, err
        assert not Path("x.png").exists()


def test_listing_and_inspecting(capfd: pytest.CaptureFixture[str], home: Path) -> None:
    code, out, _ = run(capfd, "loras", home / "loras", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert {name: row["kind"] for name, row in rows.items()} == {
        "ink": "kohya", "oil": "kohya", "inky": "embedding", "junk": "unread",
    }  # fmt: skip
    assert (rows["ink"]["rank"], rows["ink"]["words"]) == ("2", "ink style")
    code, out, _ = run(capfd, "loras", home / "loras")
    assert (code, "ink style" in out) == (0, True)
    assert run(capfd, "loras", home / "nowhere")[0] == 2
    Path("none").mkdir()
    assert run(capfd, "loras", "none")[1] == "There are none.\n"
    code, out, _ = run(capfd, "inspect", home / "loras" / "ink.safetensors", "--json")
    facts = json.loads(out)
    assert (code, facts["kind"], facts["ranks"]) == (0, "adapter", [2])
    assert facts["fits"]["TINY"]["matched"]["unet"] == len(adapters(0)["unet"])
    code, out, _ = run(capfd, "inspect", home / "loras" / "inky.safetensors", "--json")
    assert json.loads(out)["words"] == {"inky": [[2, 32]]}
    code, out, _ = run(capfd, "inspect", home / "tiny")
    assert (code, "TINY" in out) == (0, True)


def test_merging_and_extracting(capfd: pytest.CaptureFixture[str], home: Path) -> None:
    model, ink = home / "tiny", home / "loras" / "ink.safetensors"
    code, out, err = run(capfd, "merge", "merged", "--model", model, "--lora", f"{ink}:0.5")
    assert (code, out.strip()) == (0, "merged"), err
    code, out, err = run(capfd, "extract", model, "merged", "back.safetensors", "--rank", 2)
    assert (code, out.strip()) == (0, "back.safetensors"), err
    assert "100.00 %" in err
    paint = ("generate", "a red apple", "--seed", 7, "--steps", 2)
    assert run(capfd, *paint, "--model", "merged", "--out", "merged.png")[0] == 0
    assert run(capfd, *paint, "--model", model, "--lora", f"{ink}:0.5", "--out", "ink.png")[0] == 0
    assert pixels("merged.png") == pixels("ink.png")
    assert run(capfd, "merge", "other", "--model", model)[0] == 2
    assert run(capfd, "extract", model, model, "none.safetensors")[0] == 2
    assert not Path("none.safetensors").exists()


def test_links_that_lead_out_of_the_folder_are_not_followed(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "outside.safetensors").write_bytes(b"x")
    (tmp_path / "folder/inside.safetensors").symlink_to(tmp_path / "outside.safetensors")
    code, out, _ = run(capfd, "loras", tmp_path / "folder")
    assert code == 0
    assert "leads out of its folder" in out


def test_a_grid_over_a_weight(capfd: pytest.CaptureFixture[str], home: Path) -> None:
    words = ("a cat", "--model", home / "tiny", "--seed", 3, "--steps", 1)
    ink, oil = home / "loras" / "ink.safetensors", home / "loras" / "oil.safetensors"
    loras = ("--lora", ink, "--lora", f"{oil}:0.5")
    code, _, _ = run(capfd, "grid", *words, *loras, "--x", "loras.ink.weight=0,2", "--out", "sheet.png")
    assert code == 0
    run(capfd, "generate", *words, "--lora", f"{ink}:2", "--lora", f"{oil}:0.5", "--out", "alone.png")
    with Image.open("sheet.png") as sheet:
        corners = [sheet.crop((x, sheet.height - 64, x + 64, sheet.height)).tobytes() for x in (0, 64)]
    assert corners[1] == pixels("alone.png") != corners[0]
    code, _, err = run(capfd, "grid", *words, *loras, "--x", "loras.pencil.weight=0,2", "--out", "none.png")
    assert code == 2
    assert "One of: ink, oil" in err
