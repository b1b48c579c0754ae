"""How the command starts: quickly, without torch, and with the exit codes that shells expect. In new processes."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.fixtures import tiny_bundle

import aquatint


def python(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["again", "--help"], ["--version"]])
def test_help_needs_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from aquatint.apps.cli import main; code = main(sys.argv[1:]);"
        "print(sorted({'torch', 'numpy', 'PIL', 'tokenizers'} & set(sys.modules)), code)"
    )
    done = python("-c", code, *arguments)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stdout + done.stderr


def test_importing_the_package_needs_no_torch() -> None:
    code = "import sys, aquatint; print('torch' in sys.modules, aquatint.UserError.__name__, sorted(dir(aquatint))[:2])"
    assert python("-c", code).stdout == "False UserError ['Bundle', 'Control']\n"


def test_help_takes_less_than_a_second() -> None:
    """In the processor's seconds, the best of three: other work on the machine must not decide."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python("-m", "aquatint", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 1.0


def test_public_names() -> None:
    for name in aquatint.__all__:
        assert getattr(aquatint, name) is not None
    with pytest.raises(AttributeError, match="paint"):
        aquatint.paint  # noqa: B018


def test_exit_codes() -> None:
    assert python("-m", "aquatint").returncode == 0
    assert python("-m", "aquatint", "--version").stdout.strip() == f"aquatint {aquatint.__version__}"
    done = python("-m", "aquatint", "generate")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_closed_pipe_is_no_fault() -> None:
    done = subprocess.run(
        f'"{sys.executable}" -m aquatint samplers | true; exit "${{PIPESTATUS[0]}}"',
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr


def test_interrupt(tmp_path: Path) -> None:
    model = aquatint.save(tiny_bundle(), tmp_path / "tiny")
    command = [sys.executable, "-m", "aquatint", "generate", "a cat", "--model", str(model), "--out", f"{tmp_path}/o"]
    environment = {**os.environ, "AQUATINT_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--steps", "900", "--preview"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("o/*.preview.png")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "aquatint: Stopped.\n")
    assert not (tmp_path / "o").exists()
