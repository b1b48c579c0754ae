"""The kernels' library: compiled once for a machine's compiler, kept in the user's cache, checked, loaded.

An installed package carries it where a compiler was at hand (hatch_build.py). Else it lies in a folder that only its
owner may enter. Either way it is under the sha256 of all that it was made of, with its own sha256 beside it. Nothing
here raises because a machine is as it is: `found` says why there is no library.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

from aquatint.base import files
from aquatint.base.errors import UserError

SOURCES = Path(__file__).parent
CARRIED = SOURCES / "built"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-w",
)  # fmt: skip
UNITS = {"face": ("face.cpp", ()), "team": ("team.cpp", ()), "portable": ("isa.cpp", ("-DISA=portable",))}
X86_UNITS = {
    "avx2": ("isa.cpp", ("-DISA=avx2", "-mavx2", "-mfma")),
    "avx512": ("isa.cpp", ("-DISA=avx512", "-mavx2", "-mfma", "-mavx512f", "-mavx512dq")),
}
LINK = ("-shared", "-pthread", "-ldl") if sys.platform == "linux" else ("-shared", "-pthread")
LIBRARY = "kernels.so"
PATIENCE = 300.0  # seconds that a compiler may take
_one_at_a_time = threading.Lock()


class Found(NamedTuple):
    """The library, or None and why there is none."""

    library: ctypes.CDLL | None
    reason: str


@cache
def found() -> Found:
    """The library of this machine: looked for, and compiled if need be, at the first call of the process."""
    return load(cache_folder())


def cache_folder() -> Path:
    """Where libraries are kept: aquatint/kernels in XDG_CACHE_HOME, which is ~/.cache if it is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "aquatint" / "kernels"


def load(folder: Path) -> Found:
    """The library that the package carries, or one from a folder, compiled into it if it is not there or is damaged.

    A compiler named in CXX is always asked.
    """
    try:
        if sys.platform not in ("linux", "darwin"):
            return Found(None, f"The kernels are not made for {sys.platform}.")
        carried = CARRIED / _digest(b"")
        if not os.environ.get("CXX") and _verified(carried):
            return Found(ctypes.CDLL(str(carried / LIBRARY)), "")
        compiler = _compiler()
        if not compiler:
            return Found(None, f"There is no C++ compiler: none of {', '.join(COMPILERS)} is on the PATH.")
        _make_private(folder)
        place = folder / _key(compiler)
        with _one_at_a_time:
            if not _whole(place):
                _build(compiler, place)
        return Found(ctypes.CDLL(str(place / LIBRARY)), "")
    except UserError as error:
        return Found(None, str(error))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home to expand ~ to
        return Found(None, f"The kernels cannot be made or loaded: {error}")


def carry() -> Found:
    """Compile a library for the package to carry, in place of those that it has carried before; the reason if not."""
    try:
        compiler = _compiler()
        if sys.platform not in ("linux", "darwin") or not compiler:
            return Found(None, f"No C++ compiler, or not for {sys.platform}.")
        if CARRIED.exists():
            shutil.rmtree(CARRIED)
        CARRIED.mkdir()
        place = CARRIED / _digest(b"")
        _build(compiler, place)
        return Found(ctypes.CDLL(str(place / LIBRARY)), "")
    except (UserError, OSError, subprocess.SubprocessError) as error:
        return Found(None, str(error))


def units() -> dict[str, tuple[str, tuple[str, ...]]]:
    """What is compiled on this machine: name -> source and its own flags."""
    return UNITS | X86_UNITS if platform.machine() in ("x86_64", "AMD64") else UNITS


def _compiler() -> list[str]:
    """The words that call the compiler: CXX if it is set, else the first that is there."""
    if words := shlex.split(os.environ.get("CXX", "")):
        return words
    return next(([path] for name in COMPILERS if (path := shutil.which(name))), [])


def _key(compiler: list[str]) -> str:
    """sha256 of the compiler and its version, and of all else that a library is made of."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, timeout=PATIENCE, check=True).stdout
    return _digest(version, *compiler)


def _digest(version: bytes, *compiler: str) -> str:
    """sha256 of the sources, the flags and the machine, and of what is given."""
    digest = hashlib.sha256()
    facts = [*compiler, *FLAGS, *LINK, repr(units()), platform.machine(), sys.platform]
    parts = [version, *(fact.encode() for fact in facts)]
    for path in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        parts += [path.name.encode(), path.read_bytes()]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _make_private(folder: Path) -> None:
    """Make the folder, for its owner alone; refuse one that others own or may write to: they could put code there."""
    files.make_folder(folder.parent)
    with files.telling(folder, "made"):
        if not folder.is_symlink() and not folder.exists():
            os.makedirs(folder, 0o700, exist_ok=True)
        facts = os.lstat(folder)
    wrong = not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022
    if wrong:
        raise UserError(
            f'"{folder}" is not a folder of yours alone.',
            "A folder that you own and nobody else may write to.",
            f"Remove it, or: chmod 700 {folder}",
        )


def _whole(place: Path) -> bool:
    """Whether a library is there and is what its manifest says; one that is not is removed."""
    whole = _verified(place)
    if not whole and place.exists():
        files.remove(place)
    return whole


def _verified(place: Path) -> bool:
    """Whether a library is there and is what its manifest says."""
    try:
        return place.exists() and LIBRARY in files.verify(place)
    except UserError:
        return False


def _build(compiler: list[str], place: Path) -> None:
    """Compile, and put the library in its place, unless somebody else was quicker."""
    files.sweep(place.parent)
    prefix = f".aquatint-{os.getpid()}-"  # what `sweep` removes, should we be killed
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=prefix, suffix=".tmp") as scratch:
        data = compiled(compiler, Path(scratch))
    try:
        with files.building(place) as build:
            build.write(LIBRARY, data)
    except UserError:
        if not _whole(place):
            raise


def compiled(compiler: list[str], scratch: Path) -> bytes:
    """The library, compiled in a folder for scratch."""

    def one(unit: tuple[str, tuple[str, tuple[str, ...]]]) -> str:
        name, (source, flags) = unit
        made = str(scratch / f"{name}.o")
        _run([*compiler, *FLAGS, *flags, "-c", str(SOURCES / source), "-o", made])
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(one, units().items()))
    _run([*compiler, *objects, *LINK, "-o", str(scratch / LIBRARY)])
    return (scratch / LIBRARY).read_bytes()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[0]
        raise UserError(f"The kernels do not compile with {command[0]}: {said[:300]}", "", "")
