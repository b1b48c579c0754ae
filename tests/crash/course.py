"""A run so small that it can be repeated hundreds of times, with checkpoints, a log, snapshots and sheets."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aquatint.base import files
from aquatint.base.noise import Noise
from aquatint.training import journal, state
from aquatint.training.loop import train
from aquatint.training.recipe import Batch, Length, Loss, Moment, Optim, Recipe

STEPS = 7


class Line:
    """A linear net that learns what another one says."""

    def __init__(self, seed: int) -> None:
        net = nn.Linear(5, 3)
        with torch.no_grad():
            for index, weight in enumerate(net.parameters()):
                weight.copy_(Noise([seed], [index]).normal(tuple(weight.shape))[0])
        self.players: Mapping[str, nn.Module] = {"net": net}
        self.wanted = Noise([seed], [9]).normal((5, 3))[0]

    def losses(self, batch: Batch, moment: Moment, noise: Noise) -> Iterator[Loss]:
        given = noise.normal((5,), draw=1)
        loss = (self.players["net"](given) - given @ self.wanted).square().mean()
        yield Loss("net", loss, {"loss": loss.item()})


def watch(moment: Moment, players: Mapping[str, nn.Module], folder: Path) -> Mapping[str, float]:
    """A sheet of the average's numbers."""
    total = float(sum(weight.detach().sum() for weight in players["net"].parameters()))
    files.write(folder / f"sheet-{moment.step}.txt", f"{total!r}")
    return {"sum": total}


def recipe(seed: int = 3, steps: int = STEPS, **changes: Any) -> Recipe:
    """Seven steps, a checkpoint after every second one."""
    plain: dict[str, Any] = {
        "batch_size": 4, "averages": (0.5, 0.9), "log_steps": 1, "save_steps": 2, "watch_steps": 3, "watch": watch,
        "snapshot_steps": 3, "facts": {"kind": "line"},
    }  # fmt: skip
    optim = {"net": Optim(lr=0.05, warmup=2)}
    return Recipe("line", seed, Line(seed), lambda m, s: {}, Length(steps=steps), optim, **(plain | changes))


def carry_out(folder: Path, seed: int = 3, **changes: Any) -> None:
    """The run, or the rest of it."""
    train(recipe(seed, **changes), folder, lambda run, logs: None)


def results(folder: Path, steps: int = STEPS) -> dict[str, str]:
    """The sums of all that a run leaves: its state without what the clock says, its log without the machine's words."""
    (*_, last) = state.checkpoints(folder)
    facts, tensors = state.read(last)
    assert facts["step"] == steps
    lines = [json.loads(line) for line in (folder / journal.NAME).read_text().splitlines()]
    said = [{key: value for key, value in line.items() if key not in journal.MACHINE} for line in lines]
    found = {"state": state.digest_of("", tensors), "log": hashlib.sha256(json.dumps(said).encode()).hexdigest()}
    for path in sorted([*folder.glob("sheet-*"), *folder.glob("averages-*")]):
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def whole(folder: Path) -> list[int]:
    """The steps of the checkpoints that are whole."""
    found = []
    for path in state.checkpoints(folder):
        try:
            found.append(state.read(path)[0]["step"])
        except state.Damaged:
            continue
    return found
