"""Several processes that train one thing: how tests start them, what they train, and how they come to harm.

`together(2, stint, "pairs", folder, 4)` in a test; or `torchrun ... -m tests.training.company pairs FOLDER 4`, where
`--harm KILL:sum:1:3` sends that signal to rank 1 at step 3 when it reaches that point.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.training.test_alignment import recipe as pairs
from tests.training.test_loop import tiny
from tests.training.test_reconstruction import pictures

from aquatint.training import parallel, state
from aquatint.training.loop import Run
from aquatint.training.recipe import Recipe

MAKERS: dict[str, Callable[[int], Recipe]] = {"latents": tiny, "pairs": pairs, "pictures": pictures}


def recipe(name: str, steps: int, **changes: Any) -> Recipe:
    return replace(MAKERS[name](steps), **changes)


def stint(name: str, folder: Path, until: int, steps: int = 6, **changes: Any) -> None:
    """Go on with a run to a step, and save."""
    torch.set_num_threads(1)
    run = Run(recipe(name, steps, **changes), folder)
    folder.mkdir(parents=True, exist_ok=True)
    while run.step < until:
        run.take_step(run.moment)
    run.save()


def digest(folder: Path) -> str:
    """sha256 of a run's last state, without the facts, which tell the time."""
    _, tensors = state.read(state.checkpoints(folder)[-1])
    return state.digest_of("", tensors)


def together(world: int, function: Callable[..., None], *arguments: Any, **named: Any) -> None:
    """Call a function in `world` processes that know of one another."""
    if world == 1:
        function(*arguments, **named)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.company"])
    processes = [
        context.Process(target=_one, args=(rank, world, port, function, arguments, named)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * world, codes


def _one(
    rank: int, world: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    parallel.join()
    function(*arguments, **named)
