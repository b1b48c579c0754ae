"""kill -9 at any time, of one process or of two that train together: the run ends with the same bits.

By default three kills, at places that change with the date; thirty with `-m slow`.
"""

import datetime
import random
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tests.crash.course import recipe, results, whole
from tests.training.company import started

from aquatint.training.loop import Run, train

STEPS, EVERY = 300, 10


def slow_run(folder: Path, pause: float = 0.003) -> None:
    """Three hundred steps that take a little time each; a byte beside the folder counts them."""
    torch.set_num_threads(1)

    def tell(run: Run, logs: Mapping[str, float]) -> None:
        with folder.with_suffix(".steps").open("ab") as steps:
            steps.write(b".")
        time.sleep(pause)

    settings = {"parts": 2, "save_steps": EVERY, "watch": None, "snapshot_steps": 100}
    train(recipe(steps=STEPS, **settings), folder, tell)


def survived(world: int, kills: int, folder: Path) -> None:
    slow_run(folder / "whole", 0.0)
    seed = datetime.date.today().toordinal()
    print(f"{world} processes, {kills} kills, seed {seed}")
    chance, run, begin = random.Random(seed), folder / "run", 0
    steps = run.with_suffix(".steps")
    for left in range(kills, 0, -1):
        most = max(1, (STEPS - begin - 2 * EVERY) // left)  # so that all find something to interrupt
        until = chance.randint(1, most)
        steps.write_bytes(b"")
        processes, deadline = started(world, slow_run, run), time.monotonic() + 60
        while steps.stat().st_size < until and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.005)
        for process in chance.sample(processes, world):
            process.kill()
        for process in processes:
            process.join()
        assert processes[0].exitcode == -9, "it was killed at work"
        assert steps.stat().st_size >= until
        saved = max(whole(run), default=0)
        assert saved >= begin
        assert begin + steps.stat().st_size - saved <= 2 * EVERY, "redone: at most from the last state but one"
        begin = saved
    processes = started(world, slow_run, run, 0.0)
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * world
    assert results(run, STEPS) == results(folder / "whole", STEPS)
    assert not list(run.glob("*.tmp"))


def test_three_kills_of_two_processes(tmp_path: Path) -> None:
    survived(2, 3, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_thirty_kills(world: int, tmp_path: Path) -> None:
    survived(world, 30, tmp_path)
