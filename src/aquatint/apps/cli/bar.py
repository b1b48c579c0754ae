"""How far a run is, on the terminal."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aquatint.training.loop import Run


class Bar:
    """Progress on standard error, if that is a terminal: step, loss, samples a second, time left.

    Elsewhere `tell` is None, and the loop writes its lines.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task("learning", total=1.0, said="")
        self.tell = self._tell if sys.stderr.isatty() else None

    def __enter__(self) -> "Bar":
        if self.tell is not None:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def _tell(self, run: "Run", logs: Mapping[str, float]) -> None:
        loss = next((value for name, value in logs.items() if name.endswith("/loss")), float("nan"))
        rate = run.step * run.recipe.batch_size / max(run.spent, 1e-9)
        said = f"step {run.step}  loss {loss:.3f}  {rate:.3g} samples/s"
        length = run.recipe.length  # run.moment would ask all processes, and only the first one is here
        done = run.step / length.steps if length.steps else run.spent / (60.0 * length.minutes)
        self.progress.update(self.task, completed=done, said=said)
