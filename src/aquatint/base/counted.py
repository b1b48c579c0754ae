"""A digest that takes seconds to count: counted while other work goes on, or when it is first asked for."""

import atexit
import threading
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakSet

GoOn = Callable[[], None]  # called every few megabytes; raises Ended when the program ends


class Ended(Exception):
    """The program ends, and nobody waits for the digest any more."""


class Counted:
    """A digest, in hexadecimal: known, or counted once by `count`.

    count   is given what to call every few megabytes where it counts aside, and None where somebody waits for it
    """

    def __init__(self, value: str = "", count: Callable[[GoOn | None], str] | None = None) -> None:
        self._value, self._count = value, count
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Count in a thread of its own from now on, unless that has begun or there is nothing to count."""
        if self._count is not None and self._thread is None:
            self._thread = threading.Thread(target=self._aside, name="digest", daemon=True)
            _running.add(self._thread)
            self._thread.start()

    @property
    def value(self) -> str:
        """The digest; whoever asks waits for it. What goes wrong in counting is raised here."""
        if self._thread is not None:
            self._thread.join()
        return self._counted(None)

    def _counted(self, go_on: GoOn | None) -> str:
        with self._lock:
            if self._count is not None:
                self._value, self._count = self._count(go_on), None
            return self._value

    def _aside(self) -> None:
        with suppress(Exception):  # whoever asks for the value will be told, since it is counted anew then
            self._counted(_go_on)


_running: WeakSet[threading.Thread] = WeakSet()
_ending = threading.Event()


def _go_on() -> None:
    if _ending.is_set():
        raise Ended


@atexit.register
def _end() -> None:
    """A thread that was still at work when the interpreter goes would end the process with an error."""
    _ending.set()
    for thread in list(_running):
        thread.join()
