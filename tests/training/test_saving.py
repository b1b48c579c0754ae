"""States are written while steps go on: the same bits as without, and what goes wrong is heard of."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.crash.course import STEPS, carry_out, recipe, results
from tests.training.company import together
from tests.training.test_loop import tiny

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.training import loop, parallel, state
from aquatint.training.journal import Journal
from aquatint.training.loop import Run, train
from aquatint.training.spread import pieces
from aquatint.training.state import NotFinite, checkpoints


def all_states(folder: Path) -> dict[str, str]:
    return {path.name: state.digest_of("", state.read(path)[1]) for path in state.checkpoints(folder)}


def test_states_written_late_are_those_of_their_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, write = Run.save, loop.write_state
    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", lambda run, wait=True: save(run))
        carry_out(tmp_path / "waited for", keep=9)
    here, ahead = [0], []

    def late(folder: Path, facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], keep: int) -> None:
        deadline = time.monotonic() + 10
        while here[0] <= facts["step"] < STEPS - 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        ahead.append(here[0] - facts["step"])
        write(folder, facts, tensors, keep)

    monkeypatch.setattr(loop, "write_state", late)
    train(recipe(keep=9), tmp_path / "late", lambda run, logs: here.__setitem__(0, run.step))
    assert min(ahead[:2]) >= 1, "a step was done while a state was in hand"
    assert results(tmp_path / "late") == results(tmp_path / "waited for")
    assert all_states(tmp_path / "late") == all_states(tmp_path / "waited for")
    assert len(set(all_states(tmp_path / "late").values())) == 4, "the control: each step's state is another"


def failing(monkeypatch: pytest.MonkeyPatch, steps: tuple[int, ...]) -> None:
    write = loop.write_state

    def careful(folder: Path, facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], keep: int) -> None:
        if facts["step"] in steps:
            raise UserError("No room.")
        write(folder, facts, tensors, keep)

    monkeypatch.setattr(loop, "write_state", careful)


def test_a_state_that_cannot_be_written_is_told_of_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, (2, 4))
    carry_out(tmp_path)
    assert capsys.readouterr().err.count("was not saved, the next may be: No room.") == 2
    assert list(all_states(tmp_path)) == ["step-00000006.safetensors", "step-00000007.safetensors"]


def test_the_last_state_must_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, (STEPS,))
    with pytest.raises(UserError, match="No room"):
        carry_out(tmp_path / "end")
    assert list(all_states(tmp_path / "end"))[-1] == "step-00000006.safetensors"

    failing(monkeypatch, (3,))
    with pytest.raises(UserError, match="No room"):  # told to stop after its third step
        train(recipe(), tmp_path / "stop", stop_at(3, monkeypatch))


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> loop.Tell:
    wanted = [False]
    monkeypatch.setattr(loop.Stop, "now", property(lambda stop: wanted[0]))
    return lambda run, logs: wanted.__setitem__(0, run.step >= step)


def test_a_stop_waits_for_the_state_in_hand_and_saves_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), tmp_path, stop_at(3, monkeypatch))
    assert list(all_states(tmp_path)) == ["step-00000002.safetensors", "step-00000003.safetensors"]


def test_a_run_that_breaks_off_first_lets_its_state_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, held = loop.write_state, threading.Event()

    def late(folder: Path, facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], keep: int) -> None:
        held.wait(10)
        time.sleep(0.05)
        write(folder, facts, tensors, keep)

    def tell(run: Run, logs: Mapping[str, float]) -> None:
        if run.step == 3:
            held.set()
            raise RuntimeError("something else")

    monkeypatch.setattr(loop, "write_state", late)
    with pytest.raises(RuntimeError, match="something else"):
        train(recipe(), tmp_path, tell)
    assert list(all_states(tmp_path)) == ["step-00000002.safetensors"]


@pytest.mark.parametrize("where", ["weights", "average/0.9", "optimiser/0/exp_avg"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_saved(where: str, value: float, tmp_path: Path) -> None:
    def tell(run: Run, logs: Mapping[str, float]) -> None:
        while run.step == 5 and run.saver.busy:
            time.sleep(0.001)
        if run.step != 4:
            return
        net = run.players["net"]
        tensors = {
            "weights": net.weight,
            "average/0.9": run.averages["net"][1].shadow["weight"],
            "optimiser/0/exp_avg": run.optimisers["net"].state[net.weight]["exp_avg"],
        }
        with torch.no_grad():
            tensors[where][1, 2] = value

    with pytest.raises(NotFinite, match=f"net/{where}.* holds a number that is not finite, after step 4"):
        train(recipe(keep=1), tmp_path, tell)
    assert list(all_states(tmp_path)) == ["step-00000002.safetensors"]
    carry_out(tmp_path, keep=1)
    carry_out(tmp_path / "whole", keep=1)
    assert results(tmp_path) == results(tmp_path / "whole")


def troubled(folder: Path) -> None:
    """Two processes that share the weights; once the first cannot write its log, and once the second its piece."""
    flush, write = Journal.flush, files.write
    for spread in (False, True):
        trouble = [1]

        def failing(*arguments: Any, real: Any, word: str, trouble: list[int] = trouble) -> Any:
            if trouble[0] and word in str(arguments[0]):
                trouble[0] -= 1
                raise UserError("No room.")
            return real(*arguments)

        Journal.flush = lambda journal: failing("log", journal, real=lambda _, own: flush(own), word="log")  # type: ignore[method-assign]
        if spread and parallel.share().rank == 1:
            files.write = partial(failing, real=write, word="piece")
        settings = {"sharding": "full", "spread": spread, "log_steps": 10, "save_steps": 2, "keep": 9}
        loop.train(replace(tiny(6), **settings), folder / str(spread))
    files.write, Journal.flush = write, flush  # type: ignore[method-assign]


@pytest.mark.slow
def test_trouble_of_one_process_is_that_of_all(tmp_path: Path) -> None:
    together(2, troubled, tmp_path)
    assert [path.stem[-1] for path in checkpoints(tmp_path / "False")] == ["4", "6"]
    assert [path.stem[-1] for path in pieces(tmp_path / "True")] == ["6"]
