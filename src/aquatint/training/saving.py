"""States are written while steps go on, one at a time, on a thread of their own."""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

RANK = 16  # of 19: between how much steps that use all cores slow down and how long a state takes (docs/log.md)


class Saver:
    """`step` is that of the last state that was written; -1 before the first."""

    def __init__(self) -> None:
        self.step = -1
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a state is being written at this moment."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, step: int, write: Callable[[], object], *, behind: bool) -> None:
        """Start to write a state; what became of the one before must have been heard.

        behind   on a machine that is full, steps go first
        """
        assert self._thread is None, "two states at once"
        self._thread = threading.Thread(target=self._carry_out, args=(step, write, behind), name="saver")
        self._thread.start()

    def outcome(self, *, wait: bool) -> BaseException | None:
        """The error of a state that was not written, told once; None if all is well, or as long as it is written."""
        if self._thread is None or (self.busy and not wait):
            return None
        self._thread.join()
        error, self._thread, self._error = self._error, None, None
        return error

    def _carry_out(self, step: int, write: Callable[[], object], behind: bool) -> None:
        if behind and sys.platform == "linux":  # where a thread has a rank of its own
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), RANK)
        try:
            write()
            self.step = step
        except BaseException as error:
            self._error = error
