"""The harness sees what it is for: careless writers lose data, careful ones do not; its folders are those of kills."""

import random
from pathlib import Path

import pytest
from tests.crash.disk import DISKS, Disk, File, journal, seen
from tests.crash.harness import compiled, crashes, recorded, run

OLD, NEW = b"old" * 1000, b"new" * 1000
WRITERS = {
    "in place": "open(path, 'wb').write(new)",
    "without a sync": "open(path + '.tmp', 'wb').write(new); os.rename(path + '.tmp', path); sync(folder)",
    "without the folder's": "put(path + '.tmp', new); os.rename(path + '.tmp', path)",
    "old one first": "os.unlink(path); put(path, new); sync(folder)",
    "careful": "put(path + '.tmp', new); os.rename(path + '.tmp', path); sync(folder)",
    "the house's": "files.write(path, new)",
}
PROGRAM = """
import os, sys
from aquatint.base import files
folder = sys.argv[1]
path, old, new = folder + "/file", b"old" * 1000, b"new" * 1000
def sync(folder):
    descriptor = os.open(folder, os.O_RDONLY); os.fsync(descriptor); os.close(descriptor)
def put(path, data):
    with open(path, "wb") as file:
        file.write(data); file.flush(); os.fsync(file.fileno())
put(path, old); sync(folder)
open(folder + "/begins", "wb").close()
WRITER
open(folder + "/ends", "wb").close()
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("shim"))


@pytest.mark.parametrize("writer", WRITERS)
def test_careless_writers_lose_data_and_careful_ones_do_not(writer: str, shim: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    operations = recorded(shim, PROGRAM.replace("WRITER", WRITERS[writer]), root)
    begins, ends = (
        next(at for at, done in enumerate(operations) if done.name == "open" and done.path.endswith(name))
        for name in ("begins", "ends")
    )
    during, after = set(), set()
    disk = Disk(root)
    for at, done in enumerate(operations):
        disk.carry_out(done)
        if at >= begins:
            (during if at < ends else after).update((way, disk.left(way).get("file")) for way in DISKS)
    lost = {way for way, data in during if data not in (OLD, NEW)}
    kept = after == {(way, NEW) for way in DISKS}
    assert (not lost and kept) == (writer in ("careful", "the house's")), (lost, after)
    if writer == "without a sync":
        assert "torn" in lost
        assert "all" not in lost
    if writer == "without the folder's":
        assert not lost
        assert ("lose", OLD) in after
    if writer == "old one first":
        assert {"all", "torn", "undone"} <= lost


STIR = """
import os, random, shutil, sys
root, chance = sys.argv[1], random.Random(5)
os.makedirs(root + "/a/b")
for turn in range(120):
    name = f"{root}/{chance.choice(['', 'a/', 'a/b/'])}{chance.randrange(4)}"
    kind = chance.randrange(7)
    if kind < 2:
        with open(name, chance.choice(["wb", "ab"]), buffering=0) as file:
            file.write(os.urandom(chance.randrange(2000)))
            if chance.randrange(2):
                os.fsync(file.fileno())
    elif kind == 2 and os.path.exists(name):
        os.replace(name, f"{root}/a/{chance.randrange(4)}")
    elif kind == 3 and os.path.exists(name):
        os.unlink(name)
    elif kind == 4 and os.path.exists(name):
        open(name, "r+b").truncate(chance.randrange(900))
    elif kind == 5 and os.path.exists(name) and not os.path.exists(name + "linked"):
        os.link(name, name + "linked")
    elif kind == 6:
        shutil.rmtree(root + "/a/b"); os.mkdir(root + "/a/b")
"""


def test_replayed_folders_are_those_of_real_kills(shim: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    operations = recorded(shim, STIR, whole)
    assert {done.name for done in operations} >= {"write", "rename", "unlink", "truncate", "link", "mkdir", "sync"}
    for at in (0, *random.Random(1).sample(range(len(operations)), 4), len(operations)):
        root, log = tmp_path / f"root{at}", tmp_path / f"log{at}"
        root.mkdir()
        done = run(shim, STIR, root, root=root, log=log, mode="kill", at=at)
        assert done.returncode == (-9 if at < len(operations) else 0), done.stderr
        found = journal(log)
        assert len(found) == at
        disk = Disk(root)
        for operation in found:
            disk.carry_out(operation)
        assert disk.left("all") == seen(root)


FAULTS = """
import errno, os, sys
folder = sys.argv[1]
def attempt(mode, function, lasts=1):
    arm(folder, "", mode, 0, lasts)
    try:
        return function()
    except OSError as error:
        return errno.errorcode[error.errno]
    finally:
        arm("")
file = os.open(folder + "/file", os.O_RDWR | os.O_CREAT)
def make():
    return os.open(folder + "/new", os.O_WRONLY | os.O_CREAT) >= 0
assert [attempt(mode, make) for mode in ("enospc", "eio", "eintr", "count")] == ["ENOSPC", "EIO", True, True]
arm(folder)
other = os.open(folder + "/other", os.O_WRONLY | os.O_CREAT)
import ctypes
def half():
    _shim.shim_arm(folder.encode(), b"", b"short", ctypes.c_long(1), ctypes.c_long(1))
    descriptor = os.open(folder + "/other", os.O_WRONLY)
    return os.write(descriptor, b"x" * 1000)
assert half() == 500
assert operations() == 2
for mode, name in (("enospc", "ENOSPC"), ("eio", "EIO")):
    assert attempt(mode, lambda: os.rename(folder + "/new", folder + "/newer")) == name
    assert attempt(mode, lambda: os.mkdir(folder + "/folder")) == name
assert attempt("enospc", lambda: os.unlink(folder + "/new")) is None
assert not os.path.exists(folder + "/newer") and not os.path.exists(folder + "/folder")
print("all")
"""


def test_faults_come_when_they_are_told_to(shim: Path, tmp_path: Path) -> None:
    done = run(shim, FAULTS, tmp_path)
    assert done.stdout == "all\n", done.stderr


def test_a_torn_file_keeps_some_sectors() -> None:
    file = File(bytearray(b"n" * 1600), b"o" * 700)
    assert file.left("all") == b"n" * 1600
    assert file.left("lose") == file.left("undone") == b"o" * 700
    assert file.left("torn") == b"n" * 512 + b"o" * 188 + bytes(324) + b"n" * 512
    assert File(bytearray(b"n" * 100)).left("torn") == b""


def test_equal_folders_are_given_once(shim: Path, tmp_path: Path) -> None:
    operations = recorded(shim, PROGRAM.replace("WRITER", WRITERS["careful"]), tmp_path / "root")
    found = list(crashes(operations, tmp_path / "root"))
    assert sum(crash.many for crash in found) == len(DISKS) * (len(operations) + 1)
    assert len({tuple(crash.tree.items()) for crash in found}) == len(found)
