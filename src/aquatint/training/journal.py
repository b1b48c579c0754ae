"""What a run writes down of its steps: a line each in log.jsonl, a line on standard error, and TensorBoard's events."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from aquatint.base import growing
from aquatint.base.errors import UserError
from aquatint.training.recipe import Recipe

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

NAME = "log.jsonl"
MACHINE = ("minutes", "rate", "memory")  # of a line: what two equal runs may differ in


class Journal:
    """The log of a recipe's run in a folder, from a step on.

    length   bytes of the log that are kept: as long as it was when the checkpoint was made, so that what was written
             down after it is not said twice

    Where the recipe wants TensorBoard's events and it is not installed, or the log is no file of its own, a UserError.
    """

    def __init__(self, folder: Path, recipe: Recipe, step: int, length: int) -> None:
        self.folder, self.size, self.path = folder, recipe.batch_size, folder / NAME
        self.length, self.left = length, b""
        if os.path.lexists(self.path):
            self.length = min(length, self.path.lstat().st_size)
            growing.extend(self.path, self.length, b"")
        self.board = board(folder, step) if recipe.tensorboard else None
        self.began, self.step = time.monotonic(), step

    def note(self, step: int, spent: float, progress: float, logs: Mapping[str, float]) -> str:
        """Write a line down (those of before too, where the disk would not have them); returns it for people.

        spent   seconds of training so far; beside the logs stand the samples a second since the last line of another
                step, and the most memory so far, in GiB
        """
        now = time.monotonic()
        rate = (step - self.step) * self.size / max(now - self.began, 1e-9)
        line: dict[str, Any] = {"step": step, "progress": progress, **logs, "minutes": round(spent / 60, 2)}
        line |= {"memory": round(memory(), 2)} | ({"rate": float(f"{rate:.4g}")} if step > self.step else {})
        if step > self.step:
            self.began, self.step = now, step
        self.left += json.dumps(line).encode() + b"\n"
        if self.board is not None:
            for name, value in line.items():
                if name not in ("step", "progress"):
                    self.board.add_scalar(name, value, step)
            self.board.flush()
        left = spent * (1 - progress) / progress / 60 if progress else 0.0
        said = "  ".join(f"{name} {value:.4g}" for name, value in logs.items())
        self.flush()
        return f"{step:7d} {spent / 60:6.1f} min {rate:.3g}/s {left:.1f} min left  {said}"

    def skip(self, step: int, player: str, first: int, last: int) -> None:
        """Note a step that a player did not take, with the first and the last of its samples; written with the next."""
        line = {"step": step, f"{player}/skipped": 1.0, "first sample": first, "last sample": last}
        self.left += json.dumps(line).encode() + b"\n"

    def flush(self) -> int:
        """Have all lines in the file, and its length in bytes; UserError where the disk will not have them."""
        if self.left:
            growing.extend(self.path, self.length, self.left)
            self.length, self.left = self.length + len(self.left), b""
        return self.length

    def sync(self) -> None:
        """Have the disk hold what is in the file."""
        if self.length:
            growing.sync(self.path)


def memory() -> float:
    """The most memory that this process has held, in GiB: the GPU's where there is one, else the machine's."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated() / 2**30)
    if resource is None:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def board(folder: Path, step: int) -> Any:
    """TensorBoard's writer in the run's folder, which drops what an earlier run wrote after this step."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "TensorBoard is not installed.", "The package tensorboard.", "pip install 'aquatint[train]'"
        ) from None
    if (folder / "tensorboard").is_symlink():
        raise UserError(f'"{folder / "tensorboard"}" is a symbolic link.', "A folder.", "Remove it.")
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
