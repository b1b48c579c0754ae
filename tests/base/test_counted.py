"""Digests that are counted aside: once, waited for, and left alone when the program ends."""

import subprocess
import sys
import threading

import pytest

from aquatint.base.counted import Counted, GoOn


def test_it_is_counted_once_and_aside() -> None:
    calls: list[tuple[bool, str]] = []
    go = threading.Event()

    def count(go_on: GoOn | None) -> str:
        assert go.wait(10)
        calls.append((go_on is None, threading.current_thread().name))
        return "ab"

    counted = Counted(count=count)
    counted.begin()
    counted.begin()
    assert not calls
    go.set()
    assert [counted.value, counted.value] == ["ab", "ab"]
    assert calls == [(False, "digest")]


def test_unless_it_has_begun_whoever_asks_counts() -> None:
    calls: list[bool] = []
    counted = Counted(count=lambda go_on: str(calls.append(go_on is None)))
    assert counted.value == "None"
    counted.begin()
    assert counted.value == "None"
    assert calls == [True]
    assert Counted("cd").value == "cd"


def test_an_error_is_raised_where_it_is_asked_for() -> None:
    def count(go_on: GoOn | None) -> str:
        raise OSError("gone")

    counted = Counted(count=count)
    counted.begin()
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            _ = counted.value


def test_a_program_ends_without_waiting_for_it() -> None:
    program = """
import time
from aquatint.base.counted import Counted
def count(go_on):
    began = time.monotonic()
    while time.monotonic() < began + 60:
        time.sleep(0.01)
        go_on()
    return ""
Counted(count=count).begin()
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=30, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
