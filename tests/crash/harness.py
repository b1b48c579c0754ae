"""How tests use the shim: a program's journal, the folders of all its crash points, and real kills and faults.

`recorded(program, root)` runs a program once; `crashes(...)` gives what every crash would have left, each folder once.
A program may arm the shim again by itself, so that one start of Python serves many faults: `SHIM` is that in Python.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.crash.disk import DISKS, Disk, Operation, Tree, journal

ROOT = Path(__file__).parents[2]
SHIM = """
import ctypes
_shim = ctypes.CDLL(None)
_shim.shim_count.restype = ctypes.c_long
def arm(root, log="", mode="count", at=-1, lasts=1):
    "Have the shim watch a folder from now on, counting from 0; root '': nothing."
    text = [str(word).encode() for word in (root, log, mode)]
    _shim.shim_arm(*text, ctypes.c_long(at), ctypes.c_long(lasts))
def operations():
    return int(_shim.shim_count())
"""


class Crash(NamedTuple):
    """A folder that some crashes leave: the first of them, how many operations had been carried out at the last of
    them, and how many they are."""

    done: int
    disk: str
    tree: Tree
    latest: int
    many: int


def compiled(folder: Path) -> Path:
    """The shim, built; the test is skipped where that cannot be."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the shim is for Linux, and needs a C compiler")
    library = folder / "shim.so"
    source = Path(__file__).parent / "shim.c"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-lpthread"], check=True)
    return library


def run(shim: Path, program: str, *arguments: object, **settings: object) -> "subprocess.CompletedProcess[str]":
    """A Python program under the shim; settings: root, log, mode, at, FOR (as SHIM_ROOT ...)."""
    said = {f"SHIM_{name.upper()}": str(value) for name, value in settings.items()}
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | said | {"LD_PRELOAD": str(shim), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SHIM + program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)


def recorded(shim: Path, program: str, root: Path) -> list[Operation]:
    """What a program does below the folder `root` (its argument), which is made empty."""
    root.mkdir(parents=True)
    log = root.with_suffix(".operations")
    done = run(shim, program, root, root=root, log=log)
    assert done.returncode == 0, done.stderr[-3000:]
    return journal(log)


def crashes(operations: list[Operation], root: Path) -> Iterator[Crash]:
    """What is left by a crash after 0, 1, 2 ... operations on each of the disks, equal ones put together."""
    found: dict[tuple[tuple[str, bytes | None], ...], Crash] = {}
    disk = Disk(root)
    for done in range(len(operations) + 1):
        if done:
            disk.carry_out(operations[done - 1])
        for way in DISKS:
            tree = disk.left(way)
            key = tuple(tree.items())
            first = found.get(key, Crash(done, way, tree, done, 0))
            found[key] = first._replace(latest=done, many=first.many + 1)
    return iter(found.values())
