"""A run that is cut off at any of its operations on the disk, on any disk, goes on and ends as if it had not been.

By default every tenth crash, from an offset that changes with the date; all of them with `-m slow`.
"""

import datetime
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.crash.course import STEPS, carry_out, results, whole
from tests.crash.disk import Operation, build, seen
from tests.crash.harness import Crash, compiled, crashes, recorded

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.training import spread, state
from aquatint.training.recipe import Share

PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.crash.course import carry_out
from aquatint.base import files
BEFORE
carry_out(Path(sys.argv[1]) / "runs" / "one", keep=KEEP)
"""
RUN = "runs/one"


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("shim"))


def some(found: list[Crash], every: int) -> list[Crash]:
    """Every tenth of them, or all."""
    offset = datetime.date.today().toordinal() % every
    print(
        f"crashes {offset}, {offset + every}, ... of {len(found)} ({sum(crash.many for crash in found)} with doubles)"
    )
    return found[offset::every]


def promised(operations: list[Operation]) -> list[int]:
    """After each number of operations, the step of the newest checkpoint that must be there (0: none).

    It must from the sync of its folder on that followed its rename; and when an older one is taken away.
    """
    folder, last, named, found = -1, 0, 0, [0]
    for done in operations:
        checkpoint = "/step-" in done.path + done.other
        if done.name == "rename" and checkpoint:
            named = state.number(Path(done.other))
        elif done.name == "open" and done.path.endswith(RUN):
            folder = done.descriptor
        elif (done.name == "sync" and done.descriptor == folder) or (done.name == "unlink" and checkpoint):
            last, named = max(last, named), 0
        found.append(last)
    return found


def program(keep: int, before: str = "") -> str:
    return PROGRAM.replace("KEEP", str(keep)).replace("BEFORE", before)


def survived(shim: Path, tmp_path: Path, keep: int, every: int) -> int:
    """Go on from what crashes leave; how many folders that were."""
    carry_out(tmp_path / "whole", keep=keep)
    wanted = results(tmp_path / "whole")
    carry_out(tmp_path / "other", seed=4, keep=keep)  # the control: what must differ does
    assert all(results(tmp_path / "other")[name] != wanted[name] for name in wanted)
    operations = recorded(shim, program(keep), tmp_path / "root")
    assert results(tmp_path / "root" / RUN) == wanted
    assert len(state.checkpoints(tmp_path / "root" / RUN)) == keep
    least = promised(operations)
    assert sorted(set(least)) == [0, 2, 4, 6, STEPS]
    tried = some(list(crashes(operations, tmp_path / "root")), every)
    for crash in tried:
        folder = tmp_path / "crash"
        build(crash.tree, folder)
        assert max(whole(folder / RUN), default=0) >= least[crash.latest], (crash.done, crash.disk)
        carry_out(folder / RUN, keep=keep)
        assert results(folder / RUN) == wanted, (crash.done, crash.disk)
        assert not [name for name in seen(folder) if name.endswith(".tmp")]
        shutil.rmtree(folder)
    return len(tried)


def test_some_crashes(shim: Path, tmp_path: Path) -> None:
    assert survived(shim, tmp_path, 1, 10) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_every_crash(keep: int, shim: Path, tmp_path: Path) -> None:
    assert survived(shim, tmp_path, keep, 1) >= 60


CARELESS = {
    "bytes without a sync": "files.sync_descriptor = lambda descriptor: None",
    "names without a sync": "files.sync_folder = lambda folder: None",
    "the old one first": """
from aquatint.training import state
write = state.write_state
def careless(folder, facts, tensors, keep):
    for old in state.checkpoints(folder):
        old.unlink()
    write(folder, facts, tensors, keep)
from aquatint.training import loop
loop.write_state = careless""",
    "the log without a sync": "from aquatint.training import journal; journal.Journal.sync = lambda self: None",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CARELESS)
def test_a_careless_run_would_be_found_out(kind: str, shim: Path, tmp_path: Path) -> None:
    carry_out(tmp_path / "whole", keep=1)
    operations = recorded(shim, program(1, CARELESS[kind]), tmp_path / "root")
    assert results(tmp_path / "root" / RUN) == results(tmp_path / "whole")
    least, lost = promised(operations), 0
    for crash in crashes(operations, tmp_path / "root"):
        folder = tmp_path / "crash"
        build(crash.tree, folder)
        lost += max(whole(folder / RUN), default=0) < least[crash.latest]
        try:
            carry_out(folder / RUN, keep=1)
            lost += results(folder / RUN) != results(tmp_path / "whole")
        except (UserError, ValueError):
            lost += 1
        shutil.rmtree(folder)
    assert lost


def in_pieces(folder: Path, keep: int) -> None:
    """Three checkpoints in pieces, by one process."""
    for step in (1, 2, 3):
        weight = torch.full((300,), float(step))
        spread.save_pieces(folder, facts(step), [("weight", weight, weight)], Share(), keep)


def facts(step: int) -> dict[str, Any]:
    return {"recipe": "pieces", "step": step, "spent": 0.0}


PIECES = """
import sys
from pathlib import Path
from tests.training.test_crash import in_pieces
in_pieces(Path(sys.argv[1]), KEEP)
"""


@pytest.mark.parametrize("keep", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_crashes_of_checkpoints_in_pieces(keep: int, shim: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    operations = recorded(shim, PIECES.replace("KEEP", str(keep)), root)
    assert len(spread.pieces(root)) == keep
    least, named, found = 0, 0, [0]
    for done in operations:
        if done.name == "rename" and done.other.endswith(".pieces"):
            named = state.number(Path(done.other))
        elif done.name == "open" and done.path == str(root):
            folder = done.descriptor
        elif named and done.name == "sync" and done.descriptor == folder:
            least, named = named, 0
        found.append(least)
    assert sorted(set(found)) == [0, 1, 2, 3]
    for crash in crashes(operations, root):
        place = tmp_path / "crash"
        build(crash.tree, place)
        newest = spread.newest_pieces(place, lambda word: None, Share()) if spread.pieces(place) else None
        step = newest.facts["step"] if newest else 0
        assert step >= found[crash.latest], (crash.done, crash.disk)
        if newest:
            assert torch.equal(newest["weight"], torch.full((300,), float(step)))
        del newest
        files.sweep(place)
        in_pieces(place, keep)  # what is whole stays as it is, what is not is written again
        assert all(not spread._damage(path, Share()) for path in spread.pieces(place))
        assert spread.pieces(place)[-1].name == "step-00000003.pieces"
        shutil.rmtree(place)
