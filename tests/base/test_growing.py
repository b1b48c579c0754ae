"""Files that grow, and what killed writers leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aquatint.base import files, growing
from aquatint.base.errors import UserError


def test_a_file_is_its_first_bytes_and_then_more(tmp_path: Path) -> None:
    path = tmp_path / "log"
    growing.extend(path, 0, b"one\n")
    growing.extend(path, 4, b"two\nthr")
    growing.extend(path, 8, b"three\n")
    growing.sync(path)
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    growing.extend(path, 4, b"")
    assert path.read_bytes() == b"one\n"


def test_on_an_error_the_first_bytes_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "log", os.write
    growing.extend(path, 0, b"one\n")

    def fails(descriptor: int, data: memoryview) -> int:
        if len(data) < 4:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:2])

    monkeypatch.setattr(os, "write", fails)
    with pytest.raises(UserError, match="The disk is full"):
        growing.extend(path, 4, b"two\n")
    assert path.read_bytes() == b"one\n"


def test_links_and_pipes_are_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "."):
        with pytest.raises(UserError), growing.holding(tmp_path / name):
            pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_what_killed_writers_left_is_swept_and_what_others_have_in_hand_stays(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".aquatint-{dead.pid}-0.tmp").write_text("half")
    (tmp_path / f".aquatint-{dead.pid}-1.tmp").mkdir()
    (tmp_path / f".aquatint-{dead.pid}-1.tmp" / "inside").write_text("half")
    (tmp_path / f".aquatint-{os.getpid()}-999999.tmp").write_text("of one that had our number")
    (tmp_path / f".aquatint-{os.getppid()}-0.tmp").write_text("in hand")
    (tmp_path / ".aquatint-x-0.tmp").write_text("not ours")
    (tmp_path / "kept").write_text("kept")
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f".aquatint-{os.getppid()}-0.tmp", ".aquatint-x-0.tmp", "kept"
    }  # fmt: skip


def test_removing_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    files.remove(tmp_path / "link")
    assert (tmp_path / "folder" / "file").exists()
    files.remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="cannot be removed"):
        files.remove(tmp_path / "folder")
