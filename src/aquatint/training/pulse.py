"""Noticing that another process of a run has stopped.

A process that dies closes its connections, and whoever waits for it is told at once. One that is stopped, or whose
machine is cut off, only falls silent, and a sum over all processes would wait for it for as long as the library lets
it. So each process says every second, from a thread of its own, that it is there, and looks whether the others do.
What takes long (a save, a sheet, a slow step) does not silence that thread, unless it holds Python's lock all the
while: safetensors' own `save` does, for 8 s a GiB on a busy machine; base/files.py's writes do not.
"""

import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from multiprocessing.util import Finalize

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from aquatint.base.errors import UserError

SILENCE = 10.0  # seconds after which a process counts as lost; AQUATINT_SILENCE says otherwise, 0: never
STATUS = 75  # what a process exits with that has lost another: "try again" in sysexits.h
GONE = "gone"  # said by a process that ends by itself


def silence() -> float:
    """After how many seconds a silent process counts as lost."""
    given = os.environ.get("AQUATINT_SILENCE", "")
    try:
        seconds = float(given) if given else SILENCE
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise UserError(f'AQUATINT_SILENCE is "{given[:20]}".', "Seconds, 0 to 86400.")
    return seconds


def board(world: int, *, keeper: bool) -> Store:
    """Where the processes of a run leave words for one another, at MASTER_ADDR:MASTER_PORT; a connection of its own.

    keeper   whether it is this process that keeps it, unless torchrun does

    Each try of torchrun, and each number of processes, has its own: torchrun (2.13) keeps one for all tries, and a
    process that is started again would find there the addresses of those that are gone.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    keeper = keeper and not by_torchrun()
    store = TCPStore(address, port, None, keeper, timedelta(minutes=2), wait_for_workers=False, multi_tenant=True)
    return PrefixStore(f"aquatint/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{world}", store)


def by_torchrun() -> bool:
    """Whether torchrun keeps the board, and not the first process."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


class Pulse:
    """Two threads: one tells the others that we are there and hears them, one ends this process if it hears too little.

    It ends it outright, with status 75 and a word on standard error: its main thread waits inside a library that cannot
    be called back.
    """

    def __init__(self, rank: int, world: int, seconds: float) -> None:
        self.rank, self.world, self.seconds, self.pause = rank, world, seconds, min(1.0, seconds / 5)
        self.store = PrefixStore("pulse", board(world, keeper=False))
        self.others = [other for other in range(world) if other != rank]
        self.store.set(str(rank), "0")
        self.store.wait([str(other) for other in self.others])
        self.heard = dict.fromkeys(self.others, time.monotonic())
        self.over = threading.Event()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._beat, self._watch)]
        Finalize(None, self._leave, exitpriority=10)  # atexit's, and that of processes which multiprocessing began
        for thread in self.threads:
            thread.start()

    def _beat(self) -> None:
        count, last = 0, dict.fromkeys(self.others, b"")
        while not self.over.is_set():
            count += 1
            try:
                self.store.set(str(self.rank), str(count))
                said = self.store.multi_get([str(other) for other in self.others])
            except RuntimeError:
                if by_torchrun() and not self.over.is_set():  # its agents wait for one another before they end
                    self._end("The machine that keeps the run's words is gone.")
                self.over.set()  # kept by the first process, which has ended: whoever still waits for it is told so
                return
            for other, beat in zip(self.others, said, strict=True):
                if beat != last[other] or beat == GONE.encode():
                    last[other], self.heard[other] = beat, time.monotonic()
            self.over.wait(self.pause)

    def _watch(self) -> None:
        while not self.over.is_set():
            before = time.monotonic()
            self.over.wait(self.pause)
            now = time.monotonic()
            if now - before > 2 * self.pause + 1:  # it is we who were stopped
                self.heard = dict.fromkeys(self.others, now)
            for other, when in self.heard.items():
                if now - when > self.seconds and not self.over.is_set():
                    what = f"Process {other} of {self.world} has not been heard of for {now - when:.0f} s"
                    self._end(f"{what}: it is stopped, or its machine is cut off.")

    def _end(self, why: str) -> None:
        advice = "Start the run again: it goes on from its last checkpoint."
        print(f"{why} Process {self.rank} ends. {advice}", file=sys.stderr, flush=True)
        os._exit(STATUS)

    def _leave(self) -> None:
        if not self.over.is_set():
            self.over.set()
            self.threads[0].join(timeout=5)  # its last word may not come after ours
            with suppress(RuntimeError):  # nobody may be there to be told
                self.store.set(str(self.rank), GONE)
