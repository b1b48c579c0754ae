"""The kernels' library is made once, read back only whole, and its absence is told and never raised.

The compiler is a script that "links" by copying the library that this machine's real one made.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.engines.kernels import build
from aquatint.engines.kernels.library import library

HERE = build.found()
pytestmark = pytest.mark.skipif(HERE.library is None, reason=HERE.reason)
SCRIPT = """#!/bin/sh
if [ "$1" = --version ]; then echo "pretender 1.0"; exit 0; fi
echo "$@" >> {log}
{trouble}
while [ $# -gt 0 ]; do [ "$1" = -o ] && cp {real} "$2"; shift; done
"""


def pretender(folder: Path, trouble: str = "") -> Path:
    """A compiler that writes down what it is asked for; `trouble` is run before it does it."""
    path, log = folder / "pretender", folder / "log"
    assert HERE.library is not None
    path.write_text(SCRIPT.format(log=log, trouble=trouble, real=HERE.library._name))
    path.chmod(0o755)
    return path


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pretender, set in CXX; gives its log."""
    monkeypatch.setenv("CXX", str(pretender(tmp_path)))
    return tmp_path / "log"


def test_it_is_compiled_once_into_a_folder_of_ones_own(tmp_path: Path, compiler: Path) -> None:
    folder = tmp_path / "a" / "kernels"
    first = build.load(folder)
    assert first.library is not None
    assert first.library.aquatint_isa() >= 0
    asked = compiler.read_text().splitlines()
    assert len(asked) == len(build.units()) + 1
    assert folder.stat().st_mode & 0o777 == 0o700
    assert build.load(folder).library is not None
    assert compiler.read_text().splitlines() == asked
    (place,) = folder.iterdir()  # and nothing else is left
    assert set(files.verify(place)) == {build.LIBRARY}


def test_a_damaged_one_is_made_again_and_not_loaded(tmp_path: Path, compiler: Path) -> None:
    build.load(tmp_path / "kernels")
    (place,) = (tmp_path / "kernels").iterdir()
    for damage in (b"\x7fELF and no more", b""):
        (place / build.LIBRARY).unlink()  # it is mapped: to write into it would be the end of this process
        (place / build.LIBRARY).write_bytes(damage)
        assert build.load(tmp_path / "kernels").library is not None
        files.verify(place)
    (place / files.MANIFEST).unlink()
    assert build.load(tmp_path / "kernels").library is not None
    assert len(compiler.read_text().splitlines()) == 4 * (len(build.units()) + 1)


def test_another_compiler_makes_another_library(
    tmp_path: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.load(tmp_path / "kernels")
    monkeypatch.setenv("CXX", f"{pretender(tmp_path)} -march=native")
    assert build.load(tmp_path / "kernels").library is not None
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O2"))
    assert build.load(tmp_path / "kernels").library is not None
    assert len(list((tmp_path / "kernels").iterdir())) == 3


def test_two_at_once(tmp_path: Path, compiler: Path) -> None:
    """Of this process one waits for the other; of two processes the second finds its place taken, and uses that."""
    results: list[build.Found] = []
    threads = [threading.Thread(target=lambda: results.append(build.load(tmp_path / "kernels"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result.library for result in results)
    assert len(compiler.read_text().splitlines()) == len(build.units()) + 1
    (place,) = (tmp_path / "kernels").iterdir()
    build._build([os.environ["CXX"]], place)
    files.verify(place)


def test_why_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kernels"

    def reason() -> str:
        found = build.load(folder)
        assert found.library is None
        return found.reason

    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build, "CARRIED", tmp_path / "not carried")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "no C++ compiler" in reason()
    monkeypatch.setenv("PATH", os.defpath)
    for command in ("false", str(tmp_path / "missing"), str(tmp_path)):
        monkeypatch.setenv("CXX", command)
        assert "cannot be made" in reason()
    monkeypatch.setenv("CXX", str(pretender(tmp_path, "echo 'what is this?' >&2; exit 1")))
    assert "what is this?" in reason()
    monkeypatch.setenv("CXX", str(pretender(tmp_path, f"echo no > {tmp_path}/no; set -- -o /dev/null")))
    assert reason()  # it says that it did, and did not
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_folder_that_others_may_write_to_or_that_cannot_be_made(
    tmp_path: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kernels"
    folder.mkdir()
    folder.chmod(0o777)
    assert "yours alone" in build.load(folder).reason
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert "yours alone" in build.load(link).reason
    (tmp_path / "file").write_text("")
    assert build.load(tmp_path / "file" / "kernels").library is None
    assert "yours alone" in build.load(tmp_path / "file").reason
    folder.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "yours alone" in build.load(folder).reason
    assert not compiler.exists()


def test_who_needs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aquatint.engines.kernels.library.found", lambda: build.Found(None, "It rains."))
    with pytest.raises(UserError, match="It rains"):
        library()


def test_without_an_openmp_runtime_threads_are_started_for_each_call(tmp_path: Path) -> None:
    """In a process without torch, whose OpenMP runtime the teams borrow: the same bits from one thread and three."""
    script = f"""
import ctypes, sys
sys.path.insert(0, {str(Path(build.__file__).parents[3])!r})
lib = ctypes.CDLL({HERE.library._name!r})
assert not hasattr(ctypes.CDLL(None), "GOMP_parallel")
size = 40 * 50 * 24
numbers = (ctypes.c_float * size)(*((i * 37 % 101) / 50 - 1 for i in range(size)))
class Norm(ctypes.Structure):
    _fields_ = [(n, ctypes.c_long) for n in "count pixels channels groups silu".split()]
    _fields_ += [("eps", ctypes.c_double)] + [(n, ctypes.c_void_p) for n in "x weight bias y workspace".split()]
got = []
for threads in (1, 3):
    y = (ctypes.c_float * size)()
    norm = Norm(2, 1000, 24, 3, 1, 1e-5, ctypes.addressof(numbers), None, None, ctypes.addressof(y))
    lib.aquatint_norm_workspace.restype = ctypes.c_long
    work = (ctypes.c_double * (lib.aquatint_norm_workspace(0, ctypes.byref(norm)) // 2 + 8))()
    norm.workspace = ctypes.addressof(work) + -ctypes.addressof(work) % 64
    lib.aquatint_norm(0, ctypes.byref(norm), threads)
    got.append(bytes(y))
assert got[0] == got[1] and any(got[0])
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_what_a_package_carries_is_taken_if_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "CARRIED", tmp_path / "built")
    monkeypatch.setenv("CXX", str(pretender(tmp_path)))  # which an installation asks, once
    made = build.carry()
    (carried,) = (tmp_path / "built").iterdir()
    assert made.library is not None
    assert made.library._name == str(carried / build.LIBRARY)
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(build, "COMPILERS", (str(pretender(tmp_path)),))
    again = build.load(tmp_path / "kernels").library
    assert again is not None
    assert again._name == made.library._name
    assert not (tmp_path / "kernels").exists()
    (carried / build.LIBRARY).unlink()  # it is mapped: to write into it would be the end of this process
    (carried / build.LIBRARY).write_bytes(b"damaged")
    other = build.load(tmp_path / "kernels")
    assert other.library is not None
    assert other.library._name.startswith(str(tmp_path / "kernels"))
    assert carried.exists()
