"""Several processes that train one thing: how tests start them, what they train, and how they come to harm.

`together(2, stint, "pairs", folder, 4)` in a test; `torchrun ... -m tests.training.company latents FOLDER KILL:sum:1:2`
from a shell, where rank 1 gets that signal at step 2 when it reaches that point.
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import torch
from tests.training.test_alignment import recipe as pairs
from tests.training.test_loop import tiny
from tests.training.test_reconstruction import pictures

from aquatint.training import loop, parallel, state
from aquatint.training.loop import Run
from aquatint.training.recipe import Moment, Recipe

MAKERS: dict[str, Callable[[int], Recipe]] = {"latents": tiny, "pairs": pairs, "pictures": pictures}


def recipe(name: str, steps: int, **changes: Any) -> Recipe:
    return replace(MAKERS[name](steps), **changes)


def stint(name: str, folder: Path, until: int, steps: int = 6, **changes: Any) -> None:
    """Go on with a run to a step, and save."""
    torch.set_num_threads(1)
    run = Run(recipe(name, steps, **changes), folder)
    folder.mkdir(parents=True, exist_ok=True)
    while run.step < until:
        logs = run.take_step(run.moment)
        if run.share.rank == 0:
            with (folder / "losses.txt").open("a") as file:
                file.write(f"{logs}\n")
    run.save()


def digest(folder: Path) -> str:
    """sha256 of a run's last state, without the facts, which tell the time."""
    _, tensors = state.read(state.checkpoints(folder)[-1])
    return state.digest_of("", tensors)


def whole(name: str, folder: Path, harm: str = "", steps: int = 4) -> None:
    """A run to its end, with a checkpoint after each step; `harm` as SIGNAL:POINT:RANK:STEP."""
    torch.set_num_threads(1)
    if harm and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        come_to_harm(folder, *harm.split(":"))
    loop.train(recipe(name, steps, parts=2, save_steps=1), folder)


POINTS = ("forward", "backward", "sum", "midst", "save", "saved", "barrier")


def come_to_harm(folder: Path, name: str, point: str, rank: str, step: str) -> None:
    """Have this process, if it has that rank, send itself a signal when it reaches a point of a step."""
    here = [-1]  # the step
    take = Run.take_step

    def take_step(run: Run, moment: Moment) -> dict[str, float]:
        here[0] = moment.step
        return take(run, moment)

    def strike() -> None:
        folder.with_suffix(".struck").write_text(str(time.time()))
        os.kill(os.getpid(), getattr(signal, f"SIG{name}"))

    def harmful(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            now = here[0] == int(step)
            if now and point == "midst":
                threading.Timer(0.0005, strike).start()
            elif now and point != "saved":
                strike()
            result = function(*arguments, **named)
            if now and point == "saved":
                strike()
            return result

        return call

    if parallel.share().rank == int(rank):
        homes: dict[str, tuple[Any, str]] = {
            "forward": (Run, "advance"), "backward": (Run, "differentiate"), "sum": (parallel, "sum_"),
            "midst": (parallel, "sum_"), "save": (Run, "save"), "saved": (Run, "save"), "barrier": (parallel, "agreed"),
        }  # fmt: skip
        home, attribute = homes[point]
        Run.take_step = take_step  # type: ignore[method-assign]
        setattr(home, attribute, harmful(getattr(home, attribute)))


def started(world: int, function: Callable[..., None], *arguments: Any, **named: Any) -> list[Any]:
    """`world` processes that know of one another, each to call a function; of this one's environment and errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.company"])
    processes = []
    for rank in range(world):
        who = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        given = (os.environ | who | where, DupFd(2), function, arguments, named)
        processes.append(context.Process(target=_one, args=given))
        processes[-1].start()
    return processes


def together(world: int, function: Callable[..., None], *arguments: Any, **named: Any) -> None:
    """Call a function in `world` processes, and wait until all have ended well."""
    if world == 1:
        function(*arguments, **named)
        return
    processes = started(world, function, *arguments, **named)
    for process in processes:
        process.join(timeout=120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * world, codes


def _one(
    environment: dict[str, str], errors: Any, function: Callable[..., None], arguments: Any, named: dict[str, Any]
) -> None:
    os.environ.clear()
    os.environ |= environment
    os.dup2(errors.detach(), 2)
    parallel.join()
    function(*arguments, **named)


if __name__ == "__main__":
    parallel.join()
    whole(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
