"""`aquatint data`: prepare, show, check."""

import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from tests.apps.command import run
from tests.training.bad_server import Asked, serving
from tests.training.sets import pictures


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    made = pictures(Path("photos"), 12, ((64, 48), (48, 64), (96, 40)))
    (made / "twin.jpg").write_bytes((made / "003.jpg").read_bytes())
    (made / "twin.txt").write_text("again")
    (made / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return made


def test_from_a_folder_to_shards_a_sheet_and_a_verdict(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "data", "prepare", "photos", "--out", "set", "--validation", 0.3)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "14 read, 12 kept, 2 dropped"
    assert {line.strip() for line in lines[1:3]} == {"1 duplicate", "1 no sound picture"}
    assert lines[-1] == "set"
    assert json.loads(Path("set/report.json").read_text())["kept"] == 12
    code, out, err = run(capfd, "data", "show", "set", "--count", 4, "--cell", 64)
    assert code == 0, err
    assert out.startswith("train: ")
    assert "\nvalidation: " in out
    for title in ("width, pixels", "height, pixels", "width : height", "caption, bytes"):
        assert title in out
    assert "48 to " in out
    with Image.open("sheet.jpg") as sheet:
        assert sheet.size[0] > 128
    code, out, err = run(capfd, "data", "check", "set")
    assert (code, out) == (0, "12 samples read, all are what was written\n")
    code, out, err = run(capfd, "data", "prepare", "photos", "--out", "set")
    assert code == 2
    assert "exists already" in err


def test_an_archive_comes_from_a_server(capfd: pytest.CaptureFixture[str]) -> None:
    with tarfile.open("photos.tar", "w") as archive:
        archive.add("photos", ".")
    with serving(Path("photos.tar").read_bytes(), Asked.good) as server:
        code, out, err = run(capfd, "data", "prepare", server.url, "--out", "set", "--missing", "drop")
        assert code == 0, err
        assert out.splitlines()[0].startswith("14 read, 12 kept")
    assert json.loads(Path("set/report.json").read_text())["fetched"][0]["url"] == server.url


def test_damage_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    run(capfd, "data", "prepare", "photos", "--out", "set")
    shard = Path("set/train-00000.tar")
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    data[-1] ^= 1
    shard.write_bytes(data)
    Path("set/dropped.jsonl").write_text("")
    code, out, _ = run(capfd, "data", "check", "set")
    assert code == 1
    lines = out.splitlines()
    assert 'Shard "train-00000.tar" is damaged at byte 0, sample "000000000"' in lines[0]
    assert 'sample "000000011"' in lines[1]
    assert '"set/dropped.jsonl" is not what was written' in lines[2]
    assert lines[3] == "12 samples read, 3 damaged"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("prepare", "--out", "set"), "No sources"),
        (("prepare", "nowhere", "--out", "set"), "not there"),
        (("prepare", "photos", "--out", "photos/set"), "lies in what"),
        (("prepare", "photos", "--out", "."), 'holds "'),
        (("prepare", "photos", "--out", "set", "--missing", "guess"), "fail, drop, empty"),
        (("prepare", "photos", "--out", "set", "--near", 40), "near = 40"),
        (("prepare", "photos", "--out", "set", "--columns", "a,b"), "Three names"),
        (("prepare", "photos", "--out", "set", "--workers", -1), "--workers -1"),
        (("prepare", "photos", "--out", "set", "--deadline", 0), "--deadline 0"),
        (("prepare", "http://me:secret@127.0.0.1/a.tar", "--out", "set"), "a user's name or password"),
        (("prepare", "https://127.0.0.1/a.zip", "--out", "set"), "no data set by its name"),
        (("show", "photos"), "no prepared folder"),
        (("show", "photos", "--count", 0), "--count 0"),
        (("check", "photos"), "no prepared folder"),
    ],
)
def test_mistakes_are_told(arguments: tuple[object, ...], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, "data", *arguments)
    assert code == 2, err
    assert told in err
