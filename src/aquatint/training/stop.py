"""Being stopped: a run saves after the step that it is at, and ends."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from aquatint.training import parallel

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """A context in which SIGTERM and Ctrl-C are noted; the second of them does what it always did.

    All processes of a run agree on the step after which they stop: the first process's word counts.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @property
    def now(self) -> bool:
        """Whether to stop after this step."""
        return bool(parallel.agreed(float(self.wanted)))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
