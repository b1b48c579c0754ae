"""A run that is told to stop: it saves after its step, and ends soon."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.training.test_loop import tiny

from aquatint.training.loop import train
from aquatint.training.state import checkpoints, read

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from tests.training.test_loop import tiny
from aquatint.training.loop import train
train(tiny(100_000, log_steps=1), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_saves_and_ends(number: signal.Signals, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run")], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        log, deadline = tmp_path / "run" / "log.jsonl", time.monotonic() + 120
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        began = time.monotonic()
        run.send_signal(number)
        _, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert time.monotonic() - began < 30  # five seconds where nothing else runs
    assert run.returncode not in (0, None)
    assert "stopped after step" in err
    (path,) = checkpoints(tmp_path / "run")
    facts, _ = read(path)
    assert f"stopped after step {facts['step']};" in err


def test_handlers_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    train(tiny(1), tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
