"""A process of a run is killed or stopped: the other notices, says so and ends; the run ends as it would have."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.training.company import POINTS, digest, started, together, whole

from aquatint.base.errors import UserError
from aquatint.training.parallel import share
from aquatint.training.pulse import STATUS, silence

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("unharmed") / "run"
    whole("latents", folder)
    return digest(folder)


def suffer(folder: Path, harm: str, capfd: pytest.CaptureFixture[str]) -> float:
    """Two processes, one of which comes to harm; how many seconds the other then goes on for."""
    processes = started(2, whole, "latents", folder, harm)
    victim = int(harm.split(":")[2])
    other = processes[1 - victim]
    other.join(timeout=60)
    ended, code = time.time(), other.exitcode
    for process in processes:
        process.kill()
        process.join()
    err = capfd.readouterr().err
    assert code not in (None, 0), f"the other still waits, or ended well: {code}"
    assert "goes on from its last checkpoint" in err, err[-2000:]
    assert code == STATUS or harm.startswith("KILL"), "nothing else tells of a process that is stopped"
    return ended - float(folder.with_suffix(".struck").read_text())


@pytest.mark.parametrize("harm", ["KILL:sum:1:2", "STOP:sum:1:2"])
def test_the_other_notices_and_the_run_goes_on(
    harm: str, unharmed: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUATINT_SILENCE", "5")
    assert suffer(tmp_path / "run", harm, capfd) < 15.0
    whole("latents", tmp_path / "run")  # by one process now: the bits do not depend on their number
    assert digest(tmp_path / "run") == unharmed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["KILL", "STOP"])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("point", POINTS)
def test_at_any_point(
    name: str, rank: int, point: str, unharmed: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert suffer(tmp_path / "run", f"{name}:{point}:{rank}:2", capfd) < 15.0
    together(2, whole, "latents", tmp_path / "run")
    assert digest(tmp_path / "run") == unharmed


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["KILL:sum:1:2", "KILL:save:0:2", "STOP:sum:1:2"])
def test_torchrun_starts_lost_processes_again(harm: str, unharmed: str, tmp_path: Path) -> None:
    program = ["-m", "tests.training.company", "latents", str(tmp_path / "run")]
    done = torchrun("--nproc-per-node", "2", "--max-restarts", "1", *program, harm)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run.struck").exists()
    assert digest(tmp_path / "run") == unharmed


@pytest.mark.slow
def test_without_another_try_it_fails_and_another_number_of_processes_goes_on(unharmed: str, tmp_path: Path) -> None:
    program = ["-m", "tests.training.company", "latents", str(tmp_path / "run")]
    done = torchrun("--nproc-per-node", "2", *program, "KILL:sum:1:2")
    assert done.returncode != 0
    done = torchrun("--nproc-per-node", "1", *program)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "starts at step 2" in done.stderr
    assert digest(tmp_path / "run") == unharmed


def test_silence_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert silence() == 10.0
    monkeypatch.setenv("AQUATINT_SILENCE", "0")
    assert silence() == 0.0
    for text in ("soon", "-1", "nan"):
        monkeypatch.setenv("AQUATINT_SILENCE", text)
        with pytest.raises(UserError, match="AQUATINT_SILENCE"):
            silence()


def end_apart(folder: Path) -> None:
    """The first process goes on for some seconds after the other has ended well."""
    if share().rank == 0:
        time.sleep(4.0)
    (folder / str(share().rank)).touch()


def test_a_process_that_ends_well_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUATINT_SILENCE", "2")
    together(2, end_apart, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
