"""A process of its own that sends hostile files through every entry and tells what came of each: see test_hostile.py.

It is started as installed (without the tests' type checks), listens to all that Python's audit hooks tell of, and
measures each run: seconds of computing, and the peak of its memory above what it had before.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aquatint
from aquatint.apps import cli
from aquatint.base.errors import UserError
from aquatint.pipelines.adapted import adapted
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.lora import Lora
from aquatint.pipelines.shelf import shelf
from aquatint.weights import inspect, open_model
from aquatint.weights.embeddings import fit_embedding, open_embedding
from aquatint.weights.loras import fit, open_lora

GOOD, REFUSED = "good", "refused"
# Events that no file may cause. Opening is looked at by where, and importing by whether it is the first time.
FORBIDDEN = (
    "exec", "compile", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile",
    "subprocess.Popen", "pty.spawn", "socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto",
    "urllib.Request", "webbrowser.open", "ctypes.dlopen", "pickle.find_class", "code.__new__", "marshal.loads",
    "os.chmod", "os.chown", "os.putenv", "os.unsetenv", "sys.addaudithook", "shutil.unpack_archive", "import",
)  # fmt: skip
CHANGING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")


class Watch:
    """What the process does besides computing, while it is listening: at `roots` it may read, at `out` also write."""

    def __init__(self, out: Path) -> None:
        self.roots, self.out, self.seen, self.live = list[str](), [str(out)], set[str](), False
        # What reading Python's own files needs: modules that are imported late, and what torch asks of the system.
        self.own = [sys.prefix, sys.base_prefix, *(path for path in sys.path if path), "/proc", "/sys", "/dev/null"]
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.live:
            return
        if event == "open":
            self._opened(*arguments[:3])
        elif event in FORBIDDEN:
            self.seen.add(f"{event} {arguments[0] if arguments else ''!s}"[:200])
        elif event in CHANGING:
            home = next((part for part in arguments[1:] if type(part) is int and part >= 0), None)
            home = "" if home is None or event == "os.mkdir" else os.readlink(f"/proc/self/fd/{home}")
            paths = [os.path.join(home, os.fsdecode(part)) for part in arguments[:2] if isinstance(part, str | bytes)]
            self.seen |= {f"{event} {path}"[:200] for path in paths if not self._below(path, self.out)}

    def _opened(self, path: Any, mode: Any, flags: Any) -> None:
        if isinstance(path, int):
            return  # a descriptor that was opened, and heard of, before
        flags = flags or 0
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        path = os.path.abspath(os.fsdecode(path))
        follows = not flags & getattr(os, "O_NOFOLLOW", 0)  # else a link at the end is refused by the system
        where = os.path.realpath(path) if follows else os.path.join(os.path.realpath(os.path.dirname(path)), "x")
        if not self._below(where, self.out if writes else [*self.roots, *self.out, *self.own]):
            self.seen.add(f"open{' for writing' if writes else ''} {path}"[:200])

    def _below(self, path: Any, roots: list[str]) -> bool:
        text = os.path.abspath(os.fsdecode(path))
        return any(text == root or text.startswith(root.rstrip("/") + "/") for root in roots)

    @contextlib.contextmanager
    def listening(self, *roots: Path) -> Iterator[set[str]]:
        self.seen, self.roots, self.live = set(), [str(root) for root in roots], True
        try:
            yield self.seen
        finally:
            self.live = False


def command(*words: object) -> str:
    """The command in this process: good, refused, or a fault as an exception."""
    heard = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(heard):
        code = cli.main([str(word) for word in words])
    if code in (0, 2):
        return GOOD if code == 0 else REFUSED
    raise AssertionError(f"exit code {code}: {heard.getvalue()[-300:]}")


def entries(tiny: Path, out: Path) -> dict[str, Callable[[Path], str | None]]:
    """Every way in which a file comes in; what returns without a word opened it."""
    bundle = aquatint.load(tiny, device="cpu", threads=1)
    family = bundle.family

    def painted(given: Bundle) -> None:
        given.paint("a cat", steps=1, width=16, height=16)

    def on_shelf(path: Path) -> None:
        there = shelf([path])
        adapted(replace(bundle, shelf=there), [Lora(name) for name in there.files])

    def in_folder(path: Path) -> None:
        fit(open_lora(shelf((), path.parent).find(path.stem)), family)

    paint = ("generate", "a cat", "--steps", 1, "--size", "16x16", "--threads", 1, "--out", out / "a.png")
    return {
        "open_model": lambda path: painted(aquatint.load(path, device="cpu", threads=1)),
        "weights.open_model": lambda path: open_model(path) and None,
        "inspect": lambda path: inspect(path) and None,
        "open_lora": lambda path: fit(open_lora(path), family) and None,
        "shelf": on_shelf,
        "folder": in_folder,
        "open_embedding": lambda path: fit_embedding(open_embedding(path), family) and None,
        "aquatint inspect": lambda path: command("inspect", path),
        "aquatint convert": lambda path: command("convert", path, out / "converted"),
        "aquatint generate --model": lambda path: command(*paint, "--model", path),
        "aquatint generate --lora": lambda path: command(*paint, "--model", tiny, "--lora", path),
        "aquatint generate --embedding": lambda path: command(*paint, "--model", tiny, "--embedding", path),
        "aquatint loras": lambda path: command("loras", path if path.is_dir() else path.parent),
    }


def canaries(out: Path) -> dict[str, Callable[[Path], str | None]]:
    """Entries that do what none may: each must be noticed."""
    import pickle

    import torch

    def slow(path: Path) -> None:
        until = time.process_time() + 2.2
        while time.process_time() < until:
            pass

    def greedy(path: Path) -> None:
        bytearray(os.urandom(2**20) * 300)

    def outside(path: Path) -> None:
        (out.parent / "outside").read_text()

    def writing(path: Path) -> None:
        (out.parent / "outside-too").write_text("x")

    def fault(path: Path) -> None:
        raise ValueError("not a user's error")

    def importing(path: Path) -> None:
        import this_is_no_module  # type: ignore[import-not-found]  # noqa: F401

    def starting(path: Path) -> None:
        os.system("true")

    return {
        "os.system": starting,
        "torch.load": lambda path: torch.load(path, weights_only=False) and None,
        "pickle.loads": lambda path: pickle.loads(b"cposix\nsystem\n(S'true'\ntR.") and None,
        "slow": slow,
        "greedy": greedy,
        "outside": outside,
        "writing": writing,
        "fault": fault,
        "importing": importing,
    }


def peak() -> int:
    """The most memory since the last `forget`, in KiB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


def forget() -> int:
    """Begin to measure anew; what there is now, in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def one(run: Callable[[Path], str | None], path: Path, watch: Watch, out: Path, *roots: Path) -> dict[str, Any]:
    """One file through one entry."""
    clean(out)
    before, began, fault = forget(), time.process_time(), ""
    with watch.listening(*roots) as seen:
        try:
            outcome = run(path) or GOOD
        except UserError as error:
            outcome = REFUSED if len(str(error)) < 3000 else "wordy"
        except Exception as error:
            outcome, place = "fault", traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__}: {str(error)[:200]} ({place.filename}:{place.lineno})"
    seconds = time.process_time() - began
    more = (peak() - before) / 1024
    return {"outcome": outcome, "seconds": seconds, "mebibytes": more, "seen": sorted(seen), "fault": fault}


def import_ours() -> None:
    """Import every module of ours, so that the cases find none to import. What an extra lacks here is left out."""
    for module in pkgutil.walk_packages(aquatint.__path__, "aquatint."):
        with contextlib.suppress(ImportError):
            importlib.import_module(module.name)


def poison() -> None:
    """Everything that unpickles, imports by a name or starts a program, replaced by what ends the run.

    The command line finds its commands by import_module: of modules that are there already it may go on to do so.
    """
    import pickle
    import subprocess

    import torch

    def hit(*_: Any, **__: Any) -> Any:
        raise AssertionError("a poisoned function was called")

    for home, names in (
        (torch, ("load",)),
        (pickle, ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads")),
        (os, ("system", "popen", "execv", "execve", "fork", "posix_spawn")),
        (subprocess, ("Popen", "run", "call", "check_output")),
        (torch.hub, ("load", "load_state_dict_from_url")),
        (torch.jit, ("load",)),
    ):
        for name in names:
            setattr(home, name, hit)
    found = importlib.import_module

    def known(name: str, package: str | None = None) -> Any:
        return found(name, package) if name in sys.modules else hit()

    importlib.import_module = known


def clean(out: Path) -> None:
    """Nothing is there any more but an empty folder for temporary files."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "tmp").mkdir(parents=True)
    tempfile.tempdir = str(out / "tmp")


def main() -> None:
    """`runner.py PLAN RESULTS`: run the plan's cases, each through its entries."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    root, tiny = Path(plan["root"]), Path(plan["tiny"])
    results = open(sys.argv[2], "w", encoding="utf-8")  # noqa: SIM115  one line a run, also of a run that is cut off
    out = root / "scratch/out"
    clean(out)
    (out.parent / "outside").write_text("secret")
    ways = entries(tiny, out)
    every = ways | canaries(out)
    import_ours()
    for good, takes in plan["warm"]:  # whatever is imported the first time
        for name in takes or ways:
            with contextlib.suppress(UserError):
                ways[name](Path(good))
            clean(out)
    for words in plan["words"]:
        command(*words)
        clean(out)
    if plan["poison"]:
        poison()
    gc.collect()
    gc.freeze()  # what torch is made of need not be looked through again for each case
    watch = Watch(out)
    for case in plan["cases"]:
        path, document = Path(case["path"]), case.get("document")
        before = document and Path(document).read_bytes()
        if document:  # one file of a model that many cases share, with another text, or another head on its tensors
            new = case["text"].encode()
            if case["head"]:
                new = len(new).to_bytes(8, "little") + new + before[8 + int.from_bytes(before[:8], "little") :]
            Path(document).write_bytes(new)
        gc.collect()
        words = case.get("words", ())
        every["words"] = lambda path: command(*words)  # noqa: B023
        for name in case["entries"]:
            roots = map(Path, case.get("roots", ()))
            row = one(every[name], path, watch, out, path if path.is_dir() else path.parent, tiny, *roots)
            print(json.dumps({"case": case["name"], "entry": name, **row}), file=results, flush=True)
        if document:
            Path(document).write_bytes(before)
    results.close()


if __name__ == "__main__":
    main()
