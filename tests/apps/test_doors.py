"""More doors: prompts from files, other programs' ways, contact sheets, info, models, signatures, safety."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.apps.command import run
from tests.fixtures import tiny_bundle
from tests.pipelines.test_foreign import A1111, GRAPH, INVOKE

import aquatint
from aquatint.base import images
from aquatint.pipelines import metadata
from aquatint.pipelines.infotext import parse_infotext


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(aquatint.save(tiny_bundle(), tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def settings_of(path: str | Path) -> dict[str, str]:
    found = metadata.find(images.decode(Path(path).read_bytes())).infotext
    assert found is not None
    return parse_infotext(found).settings


def foreign(path: str, **texts: str) -> None:
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    Image.effect_noise((64, 64), 90).convert("RGB").save(path, pnginfo=chunks)


def test_prompts_from_a_file(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    Path("list.txt").write_text('a red apple\ntwo cats --d 9 --s 1\n{"prompt": "at night", "steps": 3}\n')
    code, out, err = run(
        capfd, "generate", "--prompts", "list.txt", "--model", model, "--seed", 4, "--steps", 2, "--sheet", "all.jpg"
    )
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "pictures/a-red-apple-4.png",
        "pictures/two-cats-9.png",
        "pictures/at-night-4.png",
    ]
    assert [settings_of(line.split()[0])["Steps"] for line in out.splitlines()] == ["2", "1", "3"]
    assert err == "all.jpg\n"
    with Image.open("all.jpg") as sheet:
        assert sheet.size[0] > 2 * 64
    run(capfd, "generate", "two cats", "--model", model, "--seed", 9, "--steps", 1, "--out", "alone.png")
    assert Path("alone.png").read_bytes() == Path("pictures/two-cats-9.png").read_bytes()


def test_prompts_that_cannot_be_painted_stop_before_the_first(capfd: pytest.CaptureFixture[str], model: str) -> None:
    Path("list.txt").write_text("a red apple\ntwo cats --w 20000\n")
    code, out, err = run(capfd, "generate", "--prompts", "list.txt", "--model", model)
    assert (code, out) == (2, "")
    assert "Line 2" in err
    Path("list.txt").write_text('a red apple\n{"prompt": "two cats", "clip_skip": 60}\n')
    code, out, err = run(capfd, "generate", "--prompts", "list.txt", "--model", model)
    assert (code, out) == (2, "")
    assert "clip_skip = 60" in err


def test_another_programs_way(capfd: pytest.CaptureFixture[str], model: str) -> None:
    paint = ("generate", "a red apple", "--model", model, "--seed", 4, "--steps", 2, "--sampler", "dpm_2")
    run(capfd, *paint, "--replay", "a1111", "--out", "a.png")
    assert settings_of("a.png")["RNG"] == "NV"
    code, out, _ = run(capfd, *paint, "--replay", "comfyui", "--count", 2, "--out", "c", "--json")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["request"]["stream"] for row in rows] == [{"place": 0, "of": 2}, {"place": 1, "of": 2}]
    assert len({row["pixels_sha256"] for row in rows}) == 2
    for row in rows:
        assert run(capfd, "again", row["path"], "--model", model, "--check")[0] == 0


def test_again_of_comfyui(capfd: pytest.CaptureFixture[str], model: str) -> None:
    graph = json.loads(json.dumps(GRAPH))
    graph["5"]["inputs"] |= {"width": 64, "height": 64, "batch_size": 3}
    graph["3"]["inputs"]["steps"] = 2
    foreign("c.png", prompt=json.dumps(graph), workflow="{}")
    code, out, err = run(capfd, "again", "c.png", "--model", model, "--json")
    assert code == 0, err
    facts = json.loads(out)
    account = facts["account"]
    assert {row["name"] for row in account["changed"]} == {"batch_size", "model"}
    assert [(row["name"], row["value"]) for row in account["ignored"]] == [("lora", "ink")]
    assert "steps" in {row["name"] for row in account["honoured"]}
    assert facts["request"]["stream"] == {"place": 0, "of": 3}
    assert facts["request"]["loras"] == []
    assert "note: left out: lora ink" in err
    other = json.loads(run(capfd, "again", "c.png", "--model", model, "--json", "--place", 3)[1])
    assert other["pixels_sha256"] != facts["pixels_sha256"]
    assert run(capfd, "again", "c.png", "--model", model, "--place", 4)[0] == 2


def test_again_of_a1111_with_the_same_model(capfd: pytest.CaptureFixture[str], model: str) -> None:
    run(capfd, "generate", "a red apple", "--model", model, "--seed", 4, "--steps", 2, "--out", "own.png")
    hashed = settings_of("own.png")["Model hash"]
    text = A1111.replace("6ce0161689", hashed).replace("512x768", "64x64").replace("Steps: 30", "Steps: 2")
    foreign("a.png", parameters=text)
    facts = json.loads(run(capfd, "again", "a.png", "--model", model, "--json")[1])
    assert ("model hash", hashed) in {(row["name"], row["value"]) for row in facts["account"]["honoured"]}
    assert facts["request"]["prompt"] == "photo of a (castle:1.2), <lora:detail:0.8>".replace("<lora:detail:0.8>", "")
    assert "Face restoration" in {row["name"] for row in facts["account"]["ignored"]}
    foreign("b.png", parameters=text.replace(hashed, "0123456789"))
    facts = json.loads(run(capfd, "again", "b.png", "--model", model, "--json")[1])
    assert "model hash" in {row["name"] for row in facts["account"]["changed"]}


def test_again_of_a_second_pass(capfd: pytest.CaptureFixture[str], model: str) -> None:
    text = A1111.replace("512x768", "64x64").replace("Steps: 30", "Steps: 2")
    foreign("latent.png", parameters=text)
    foreign("lost.png", parameters=text.replace("Hires upscaler: Latent", "Hires upscaler: R-ESRGAN 4x+"))
    found = json.loads(run(capfd, "again", "latent.png", "--model", model, "--json")[1])
    assert found["width"] == 128
    assert "Hires upscale" in {row["name"] for row in found["account"]["honoured"]}
    found = json.loads(run(capfd, "again", "lost.png", "--model", model, "--json")[1])
    assert found["width"] == 64
    assert "Hires upscale" in {row["name"] for row in found["account"]["ignored"]}
    assert "Hires upscale" not in {row["name"] for row in found["account"]["honoured"]}


def test_again_over_a_picture(capfd: pytest.CaptureFixture[str], model: str) -> None:
    Image.new("RGB", (64, 64), "blue").save("sea.png")
    text = "a red apple\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, Denoising strength: 0.5"
    foreign("i.png", parameters=text)
    code, _, err = run(capfd, "again", "i.png", "--model", model)
    assert code == 2
    assert "--image" in err
    code, out, _ = run(capfd, "again", "i.png", "--model", model, "--image", "sea.png", "--json")
    assert code == 0
    assert json.loads(out)["request"]["edit"]["image"]["name"] == "sea"
    code, out, _ = run(capfd, "again", "i.png", "--model", model, "--anyway", "--json")
    assert code == 0
    assert "image" in {row["name"] for row in json.loads(out)["account"]["ignored"]}


def test_our_infotext_without_our_record(capfd: pytest.CaptureFixture[str], model: str) -> None:
    run(capfd, "generate", "a red apple", "--model", model, "--seed", 4, "--steps", 2, "--out", "own.png")
    with Image.open("own.png") as own:
        chunks = PngInfo()
        chunks.add_text("parameters", own.text["parameters"])  # type: ignore[attr-defined]
        own.save("bare.png", pnginfo=chunks)
    code, out, err = run(capfd, "again", "bare.png", "--model", model, "--check")
    assert (code, err) == (0, "")
    assert "equal bit for bit" in out


def test_sheets(capfd: pytest.CaptureFixture[str], model: str) -> None:
    run(capfd, "generate", "a red apple", "--model", model, "--seed", 4, "--count", 2, "--steps", 1, "--out", "p.png")
    Image.new("RGB", (300, 100), "red").save("plain.jpg")
    code, out, _ = run(capfd, "sheet", "p-4.png", "p-5.png", "plain.jpg", "--out", "s.png", "--columns", 2)
    assert (code, out) == (0, "s.png\n")
    page = images.decode(Path("s.png").read_bytes())
    assert metadata.find(page).marked
    assert page.size[0] == 2 * (256 + 6) + 6
    assert np.asarray(page)[80:100, 400:420].std() > 0  # the second picture stands there
    run(capfd, "sheet", "plain.jpg", "--out", "t.png", "--bare", "--cell", 100)
    page = images.decode(Path("t.png").read_bytes())
    assert not metadata.find(page).marked
    assert page.size[0] == 112


def test_info(capfd: pytest.CaptureFixture[str], model: str) -> None:
    run(capfd, "generate", "a red apple", "--model", model, "--seed", 4, "--steps", 1, "--out", "own.webp")
    facts = json.loads(run(capfd, "info", "own.webp", "--json")[1])
    assert facts["record"]["request"]["prompt"] == "a red apple"
    assert facts["parameters"]["settings"]["Seed"] == "4"
    assert facts["made_by_ai"]
    assert facts["xmp"] == {"creator_tool": f"aquatint {aquatint.__version__}", "digital_source_type": metadata.MARK}
    assert "Iptc4xmpExt" in facts["texts"]["xmp"]
    assert "credentials" not in facts
    foreign("x.png", invokeai_metadata=json.dumps(INVOKE), prompt="[" * 5000)
    facts = json.loads(run(capfd, "info", "x.png", "--json")[1])
    assert facts["reading"]["program"] == "InvokeAI"
    assert facts["reading"]["request"]["seeds"] == [5]
    assert facts["texts"]["prompt"] == "[" * 5000
    text = run(capfd, "info", "x.png")[1]
    assert "InvokeAI metadata" in text
    assert "vae" in text
    foreign("y.png", prompt="[" * 5000)
    assert "not JSON" in json.loads(run(capfd, "info", "y.png", "--json")[1])["reading_refused"]


def test_info_on_the_engine(
    capfd: pytest.CaptureFixture[str], model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from aquatint.engines import choice
    from aquatint.engines.kernels.build import Found

    facts = json.loads(run(capfd, "info", "--engine", "--json")[1])
    assert facts["engine"] == choice.choose_engine().name
    assert facts["memory free"] > 0
    monkeypatch.setattr(choice, "found", lambda: Found(None, "There is no compiler."))
    assert "engine            torch" in run(capfd, "info", "--engine")[1]
    for refused in (("info",), ("info", "x.png", "--engine")):
        assert run(capfd, *refused)[0] == 2
    painted = run(capfd, "generate", "a cat", "--model", model, "--steps", 1, "--memory", "1GB", "--out", "e.png")
    assert painted[0] == 0
    assert painted[2].count("note: torch alone computes, slower: There is no compiler.") == 1
    assert run(capfd, "generate", "a cat", "--memory", "much")[0] == 2


def test_models(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tmp_path / "home" / "models"
    aquatint.save(tiny_bundle(), shelf / "inner" / "native")
    aquatint.save(tiny_bundle(), shelf / "single.safetensors", "compvis")
    (shelf / "bad.safetensors").write_bytes(b"\x00" * 30)
    (shelf / "evil.ckpt").write_bytes(b"\x80\x02cos\nsystem\n.")
    (shelf / "notes.txt").write_text("nothing")
    (shelf / "loop").symlink_to(shelf)
    code, out, _ = run(capfd, "models", shelf, "--json")
    assert code == 0
    rows = {Path(row["path"]).name: row for row in json.loads(out)}
    assert set(rows) == {"native", "single.safetensors", "bad.safetensors", "evil.ckpt"}
    assert (rows["native"]["kind"], rows["native"]["family"], rows["native"]["format"]) == ("model", "TINY", "native")
    assert rows["single.safetensors"]["format"] == "compvis"
    assert rows["single.safetensors"]["size"] > 1e6
    assert (rows["bad.safetensors"]["kind"], rows["evil.ckpt"]["kind"]) == ("unread", "unread")
    assert "system" in rows["evil.ckpt"]["note"] or "not read" in rows["evil.ckpt"]["note"]
    monkeypatch.setenv("AQUATINT_HOME", str(tmp_path / "home"))
    assert "single.safetensors" in run(capfd, "models")[1]
    (tmp_path / "void").mkdir()
    assert run(capfd, "models", tmp_path / "void")[1] == "There are none.\n"


def test_a_signature(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    pytest.importorskip("c2pa")
    ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    from tests.pipelines.test_provenance import certificates

    chain, key, ca = certificates(tmp_path, ec.SECP256R1())
    (tmp_path / "ca.pem").write_bytes(ca)
    paint = ("generate", "a red apple", "--model", model, "--seed", 4, "--steps", 1, "--out", "s.png")
    assert run(capfd, *paint, "--sign", chain, "--key", key)[0] == 0
    assert json.loads(run(capfd, "info", "s.png", "--json")[1])["credentials"]["state"] == "Valid"
    trusting = json.loads(run(capfd, "info", "s.png", "--json", "--trust", "ca.pem")[1])
    assert trusting["credentials"]["state"] == "Trusted"
    assert run(capfd, "again", "s.png", "--model", model, "--check")[0] == 0
    data = bytearray(Path("s.png").read_bytes())
    data[data.find(b"red apple")] ^= 1
    Path("t.png").write_bytes(data)
    changed = run(capfd, "info", "t.png", "--json")
    assert changed[0] == 2 or json.loads(changed[1])["credentials"]["state"] == "Invalid"


def test_signing_without_the_package(
    capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mark in (("c.pem", "CERTIFICATE"), ("k.pem", "PRIVATE KEY")):
        (tmp_path / name).write_text(f"-----BEGIN {mark}-----\nAAAA\n-----END {mark}-----\n")
    monkeypatch.setitem(sys.modules, "c2pa", None)
    code, _, err = run(capfd, "generate", "a cat", "--model", model, "--sign", "c.pem", "--key", "k.pem")
    assert code == 2
    assert "aquatint[provenance]" in err


def test_the_safety_checker(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.parity.test_safety import checker

    checker(-2.0).save_pretrained(tmp_path / "strict")
    paint: tuple[Any, ...] = ("generate", "a red apple", "--model", model, "--seed", 4, "--steps", 1)
    code, out, _ = run(capfd, *paint, "--safety", "strict", "--out", "n.png")
    assert code == 0
    assert out.rstrip().endswith("flagged")
    code, out, _ = run(capfd, *paint, "--safety", "strict", "--flagged", "blur", "--out", "b.png", "--json")
    assert json.loads(out)["flagged"] is True
    assert json.loads(settings_of("b.png")["Fields"]) == {"safety": "blur"}
    code, _, err = run(capfd, *paint, "--safety", "strict", "--flagged", "refuse", "--out", "r.png")
    assert code == 2
    assert "flagged the picture of seed 4" in err
    assert not Path("r.png").exists()
    code, _, err = run(capfd, "again", "b.png", "--model", model)
    assert code == 2
    assert "--safety FILE" in err
    assert run(capfd, "again", "b.png", "--model", model, "--safety", "strict", "--check")[0] == 0
    assert run(capfd, *paint, "--flagged", "blur")[0] == 2
