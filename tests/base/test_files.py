"""Durable writing: whole or not at all, whatever the disk does; and reading that trusts nothing."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aquatint.base import files
from aquatint.base.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_write_and_read(tmp_path: Path) -> None:
    digest = files.write(tmp_path / "a", b"abc")
    assert files.read(tmp_path / "a", limit=3) == b"abc"
    assert files.measure(tmp_path / "a") == (3, digest)
    assert names(tmp_path) == ["a"]


def test_an_error_of_the_writer_leaves_the_old_file(tmp_path: Path) -> None:
    files.write(tmp_path / "a", "old")

    def stumble() -> None:
        with files.writing(tmp_path / "a") as out:
            out.write(b"ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stumble()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_never_replaces_when_told_so(tmp_path: Path) -> None:
    files.write(tmp_path / "a", "old", replace=False)
    with pytest.raises(files.Taken):
        files.write(tmp_path / "a", "new", replace=False)

    def meet() -> None:
        with files.writing(tmp_path / "b", replace=False) as out:
            (tmp_path / "b").write_text("came meanwhile")
            out.write(b"new")

    with pytest.raises(files.Taken):
        meet()
    assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "b").read_text() == "came meanwhile"
    assert names(tmp_path) == ["a", "b"]


OPERATIONS = ("open", "fsync", "replace", "link", "unlink", "rename", "mkdir")


class Disk:
    """Counts the operations on the disk, and refuses the one numbered `at` (or all from there on)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int | None, number: int, forever: bool) -> None:
        self.at, self.number, self.forever, self.count = at, number, forever, 0
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self.wrap(name, getattr(os, name)))

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            due = self.at is not None and (self.count > self.at if self.forever else self.count == self.at + 1)
            making = name != "open" or args[1] & os.O_CREAT
            if due and making and name != "unlink":  # taking away always works, or nothing could ever be tidied
                raise OSError(self.number, os.strerror(self.number))
            return real(*args, **kwargs)

        return call


def make_file(root: Path) -> None:
    files.write(root / "a", "new")


def make_folder(root: Path) -> None:
    with files.building(root / "b") as build:
        build.write("one", "1")
        build.write("in/two", "22")


def outcome(make: Callable[[Path], None], root: Path) -> UserError | None:
    try:
        make(root)
    except UserError as error:
        return error
    return None


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("make", [make_file, make_folder])
def test_every_operation_may_fail(tmp_path: Path, make: Callable[[Path], None], number: int, forever: bool) -> None:
    def start(root: Path) -> None:
        root.mkdir()
        (root / "a").write_text("old")

    start(tmp_path / "count")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, None, number, forever)
        make(tmp_path / "count")
    assert disk.count >= 4
    for at in range(disk.count):
        root = tmp_path / str(at)
        start(root)
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, at, number, forever)
            error = outcome(make, root)
        text = (root / "a").read_text()
        assert text in ("old", "new")
        assert error is None or error.takes
        assert error or text == "new" or (root / "b").exists()
        if (root / "b").exists():
            assert set(files.verify(root / "b")) == {"one", "in/two"}
        assert not [name for name in names(root) if name.endswith(".tmp")], at


def test_a_full_disk_is_told_in_three_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError) as caught:
        files.write(tmp_path / "a", "x")
    assert "cannot be written" in caught.value.got
    assert caught.value.takes == "The disk is full."
    assert "room" in caught.value.remedy
    assert names(tmp_path) == []


def test_a_short_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with files.writing(tmp_path / "a") as out:
        for piece in (b"x" * 100_000, bytearray(b"y"), memoryview(b"z" * 9)):
            out.write(piece)
    assert out.size == 100_010
    assert files.measure(tmp_path / "a") == (out.size, out.sha256)


@pytest.mark.parametrize("harm", ["flip", "cut", "lose", "no manifest", "outside"])
def test_verify_finds_damage(tmp_path: Path, harm: str) -> None:
    make_folder(tmp_path)
    inside = tmp_path / "b" / "in" / "two"
    assert files.verify(tmp_path / "b")["in/two"].size == 2
    if harm == "flip":
        inside.write_bytes(b"23")
    elif harm == "cut":
        inside.write_bytes(b"2")
    elif harm == "lose":
        inside.unlink()
    elif harm == "no manifest":
        (tmp_path / "b" / files.MANIFEST).unlink()
    else:
        text = (tmp_path / "b" / files.MANIFEST).read_text()
        (tmp_path / "b" / files.MANIFEST).write_text(text.replace("in/two", "../two"))
    with pytest.raises(UserError):
        files.verify(tmp_path / "b")


def test_a_folder_is_never_built_over_another(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    make_folder(tmp_path)  # an empty one may be filled
    with pytest.raises(files.Taken):
        make_folder(tmp_path)
    assert names(tmp_path) == ["b", "in", files.MANIFEST, "one", "two"]


def test_readers_take_regular_files_of_bounded_size_only(tmp_path: Path) -> None:
    files.write(tmp_path / "a", b"abcd")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    assert files.read(tmp_path / "link", limit=4) == b"abcd"
    cases: dict[str, Callable[[], object]] = {
        "4 bytes": lambda: files.read(tmp_path / "a", limit=3),
        "symbolic": lambda: files.read(tmp_path / "link", limit=4, follow=False),
        "pipe": lambda: files.read(tmp_path / "pipe", limit=4),
        "folder": lambda: files.read(tmp_path, limit=4),
        "device": lambda: files.read("/dev/zero", limit=4),
        "not there": lambda: files.read(tmp_path / "none", limit=4),
        "null": lambda: files.read("a\0b", limit=4),
        "a file, not a folder": lambda: files.read(tmp_path / "a" / "b", limit=4),
        "too long": lambda: files.read(tmp_path / ("x" * 300), limit=4),
    }
    for says, read in cases.items():
        with pytest.raises(UserError, match=says):
            read()


def test_a_file_that_shrinks_while_read_is_refused(tmp_path: Path) -> None:
    files.write(tmp_path / "a", b"abcd")
    real = os.fstat

    def lie(descriptor: int) -> os.stat_result:
        facts = list(real(descriptor))
        facts[6] = 9
        return os.stat_result(facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fstat", lie)
        with pytest.raises(UserError, match="changed while"):
            files.read(tmp_path / "a", limit=10)


def test_check_writable(tmp_path: Path) -> None:
    files.check_writable(tmp_path)
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "none", Path("/proc")):
        with pytest.raises(UserError, match="cannot be written to"):
            files.check_writable(place)


def test_json_text(tmp_path: Path) -> None:
    files.write(tmp_path / "a", '{"a": 1}')
    files.write(tmp_path / "b", b"\xff")
    files.write(tmp_path / "c", '{"a": 1, "a": 2}')
    assert files.read_json(tmp_path / "a") == {"a": 1}
    for name in "bc":
        with pytest.raises(UserError, match=name):
            files.read_json(tmp_path / name)


def test_a_folder_below_a_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file, not a folder"), files.building(tmp_path / "file" / "model"):
        pass
    with pytest.raises(UserError, match="file, not a folder"), files.building(tmp_path / "file" / "a" / "model"):
        pass


def test_a_loop_of_links_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")

    def found() -> None:
        with files.telling(tmp_path / "a", "read"):
            (tmp_path / "a").resolve()
            raise OSError(errno.ELOOP, "as Python 3.13 finds when it is opened")

    with pytest.raises(UserError, match="loop"):
        found()
