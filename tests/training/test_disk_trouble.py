"""A full or failing disk under a run: it goes on or ends with a typed error, no good checkpoint is lost, and when the
disk has recovered the run ends as if nothing had been.

By default every twenty-fifth operation, from an offset that changes with the date; every one of them with `-m slow`.
"""

import datetime
import json
from pathlib import Path

import pytest
from tests.crash.harness import compiled, run

MODES = ("enospc", "eio", "eintr", "short")
LASTS = (1, 25, 10**6)  # operations that fail: once, for a while (some checkpoints), and for good
PROGRAM = """
import contextlib, io, json, shutil, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from aquatint.base.errors import UserError
from aquatint.training import loop
from tests.crash.course import carry_out, results, whole

place, every, offset = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
write, good = loop.write_state, []

def noting(folder, facts, tensors, keep):
    write(folder, facts, tensors, keep)
    good.append(facts["step"])

loop.write_state = noting

def attempt(folder, mode, at, lasts):
    "How a run fares; what it says, and what it has for sure."
    good.clear()
    said = io.StringIO()
    arm(folder, "", mode, at, lasts)
    try:
        with contextlib.redirect_stderr(said):
            carry_out(folder, keep=1)
        return "ended", said.getvalue()
    except UserError as error:
        return "refused", str(error)
    finally:
        arm("")

assert attempt(place / "whole", "count", -1, 1)[0] == "ended"
wanted = results(place / "whole")
arm(place / "count")
carry_out(place / "count", keep=1)
count = operations()
arm("")
found = {}
for mode in MODES:
    for lasts in LASTS:
        for at in range(offset, count, every):
            folder = place / "run"
            outcome, said = attempt(folder, mode, at, min(lasts, 30) if mode == "eintr" else lasts)
            assert max(whole(folder), default=0) >= max(good, default=0), (mode, lasts, at, said)
            assert outcome == "refused" or results(folder) == wanted, (mode, lasts, at, said)
            key = f"{mode} {outcome}" + (" after a word" if outcome == "ended" and "not saved" in said else "")
            found[key] = found.get(key, 0) + 1
            with contextlib.redirect_stderr(io.StringIO()):
                carry_out(folder, keep=1)
            assert results(folder) == wanted, (mode, lasts, at)
            assert not list(folder.glob("*.tmp")), (mode, lasts, at)
            shutil.rmtree(folder)
print(json.dumps([count, found]))
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("shim"))


def endured(shim: Path, place: Path, every: int, modes: tuple[str, ...] = MODES) -> dict[str, int]:
    """How many runs fared in which way."""
    offset = datetime.date.today().toordinal() % every
    program = PROGRAM.replace("MODES", repr(modes)).replace("LASTS", repr(LASTS))
    done = run(shim, program, place, every, offset)
    assert done.returncode == 0, done.stderr[-3000:]
    count, found = json.loads(done.stdout)
    print(f"operations {offset}, {offset + every}, ... of {count}: {found}")
    assert sum(found.values()) == len(modes) * len(LASTS) * len(range(offset, count, every))
    assert set(found) <= {f"{mode} {how}" for mode in MODES for how in ("ended", "ended after a word", "refused")}
    assert "short refused" not in found, "a short write is no error: the rest is written next"
    return found


def test_some_operations(shim: Path, tmp_path: Path) -> None:
    endured(shim, tmp_path, 25)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_operation(mode: str, shim: Path, tmp_path: Path) -> None:
    found = endured(shim, tmp_path, 1, (mode,))
    if mode in ("enospc", "eio"):
        assert all(found[f"{mode} {how}"] for how in ("refused", "ended after a word"))
