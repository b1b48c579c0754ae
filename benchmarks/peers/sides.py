"""Two processes that stand ready, asked in turn."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.install import PEERS, ROOT, last_line, python_of, surroundings
from benchmarks.peers.worker import PIECES

OURS = "aquatint"
LONGEST = 3600.0  # seconds that an answer may take
READY, FIRST, PEAK = "start to ready", "start to ready, and a first step", "peak of a picture"


@dataclass(frozen=True)
class Plan:
    """What is measured, and where all lies; memory is what ours is told to keep to, if anything ("12GB")."""

    folder: Path
    models: Path
    peers: tuple[str, ...]
    sizes: tuple[int, ...]
    pieces: tuple[str, ...]
    rounds: int
    pictures: int
    steps: int
    threads: int
    memory: str = ""


@dataclass(frozen=True)
class Pair:
    """One round of one piece: seconds (GiB for memory) of ours and of a peer."""

    peer: str
    size: int
    piece: str
    ours: float
    theirs: float


class Broken(Exception):
    """A process that ended before it had answered."""


class Side:
    """One side's process; `ready` is the seconds that it took to stand ready."""

    def __init__(self, plan: Plan, name: str, size: int) -> None:
        peer = None if name == OURS else PEERS[name]
        python = sys.executable if peer is None else str(python_of(plan.folder))
        module = "with_aquatint" if peer is None else peer.module
        more = peer.more if peer else [plan.memory] if plan.memory else []
        words = [str(plan.models), str(size), str(plan.threads), str(plan.steps), *more]
        self.name, self.log = name, plan.folder / "logs" / f"{name} {size}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, "-m", f"benchmarks.peers.{module}", *words], cwd=ROOT, env=surroundings(plan.threads),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.peak = 0.0
        try:
            self.answer()
        except Broken:
            self.close()
            raise
        self.ready = time.perf_counter() - began

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        watch = threading.Timer(LONGEST, self.process.kill)
        watch.start()
        line = self.process.stdout.readline()
        watch.cancel()
        if not line:
            raise Broken(f"{self.name} ended with status {self.process.wait()}: {last_line(self.log)}")
        return line

    def ask(self, piece: str) -> dict[str, list[float]]:
        """What the process answers to the name of a piece."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the answer will be missing then
            print(piece, file=self.process.stdin, flush=True)
        return dict(json.loads(self.answer()))

    def seconds(self, piece: str) -> float:
        """One call of a piece."""
        told = self.ask(piece)
        self.peak = float(told["peak"])  # type: ignore[arg-type]
        return dict(told["seconds"])[piece]  # type: ignore[arg-type]

    def close(self) -> None:
        """End the process and wait until its memory is free."""
        self.process.kill()
        self.process.communicate()


def starts(plan: Plan, peer: str) -> Iterator[Pair]:
    """Both sides' starts in turn, each alone on the machine: until it stands ready, and that and a guided step.

    At the least size; a first round only brings the files into the system's cache.
    """
    size = min(plan.sizes)
    for number in range(plan.rounds + 1):
        found: dict[str, tuple[float, float]] = {}
        for name in (OURS, peer) if number % 2 else (peer, OURS):
            with Side(plan, name, size) as side:
                found[name] = side.ready, side.ready + side.seconds("guided step")
        if number:
            for index, piece in enumerate((READY, FIRST)):
                yield Pair(peer, size, piece, found[OURS][index], found[peer][index])


def rounds(plan: Plan, peer: str, size: int) -> Iterator[Pair]:
    """Both sides ready at once, every piece asked of one and then of the other, round by round.

    A picture is painted in the first `pictures` rounds; the peak after the first one, before anything is encoded, is
    that of painting.
    """
    pieces = [piece for piece in PIECES if piece in plan.pieces]
    with ExitStack() as stack:
        sides = {name: stack.enter_context(Side(plan, name, size)) for name in (OURS, peer)}
        for piece in ("guided step", "text", "decode"):
            for side in sides.values():
                side.seconds(piece)
        for number in range(plan.rounds):
            order = (OURS, peer) if number % 2 else (peer, OURS)
            for piece in pieces:
                if piece == "picture" and number >= plan.pictures:
                    continue
                if piece == "encode" and number == 0:
                    for side in sides.values():
                        side.seconds(piece)
                found = {name: sides[name].seconds(piece) for name in order}
                yield Pair(peer, size, piece, found[OURS], found[peer])
                if piece == "picture" and number == 0:
                    yield Pair(peer, size, PEAK, sides[OURS].peak, sides[peer].peak)


def difference(plan: Plan, peer: str) -> float:
    """How far the peer's numbers are from ours for the same inputs: root mean square, relative.

    The guided eps, decoded pixels, encoded latents and encoded text of the least size.
    """
    numbers: list[Sequence[float]] = []
    for name in (OURS, peer):
        with Side(plan, name, min(plan.sizes)) as side:
            numbers.append(side.ask("check")["numbers"])
    ours, theirs = numbers
    squares = [sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)), sum(a**2 for a in ours)]
    return float((squares[0] / squares[1]) ** 0.5)
