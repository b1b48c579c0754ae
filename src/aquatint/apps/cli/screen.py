"""The progress of painting on a terminal: picture, step, rate, time left, and a preview made of half blocks."""

import sys
from collections.abc import Callable
from types import TracebackType

from PIL import Image
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.style import Style
from rich.text import Text

WIDEST = 48  # columns of a preview


class Rate(ProgressColumn):
    """Steps a second, or seconds a step where that is the larger number."""

    def render(self, task: Task) -> RenderableType:
        """The rate over the last steps, as far as it is known."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("", style="progress.data.speed")
        return Text(f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step", style="progress.data.speed")


class Screen:
    """Shows a request's progress on standard error, if that is a terminal; else it is silent.

    A context: leaving it takes the bar away, however it is left.
    """

    def __init__(self, steps: int, count: int) -> None:
        self.shown = sys.stderr.isatty()
        self.console = Console(stderr=True)
        self._picture: RenderableType | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("step {task.fields[step]}"),
            Rate(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._bar.add_task("reading the prompt", total=steps * count, step=f"0/{steps}")
        # results go to standard output: only where that is the same terminal must the bar make room for them
        self._live = Live(
            get_renderable=self._render,
            console=self.console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            refresh_per_second=8,
        )

    def __enter__(self) -> "Screen":
        if self.shown:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.shown:
            self._live.stop()

    def step(self, index: int, total: int, number: int, count: int, seed: int) -> None:
        """Step `index` of `total` is done, in picture `number` (from 0) of `count`."""
        what = f"picture {number + 1} of {count}, seed {seed}" if count > 1 else f"seed {seed}"
        if index == total:
            what += ", decoding"
        self._bar.update(
            self._task, completed=number * total + index, step=f"{min(index + 1, total)}/{total}", description=what
        )

    def show(self, make: Callable[[], Image.Image]) -> None:
        """Show a preview under the bar."""
        if self.shown:
            self._picture = half_blocks(make(), min(WIDEST, self.console.width))

    def _render(self) -> RenderableType:
        return self._bar if self._picture is None else Group(self._bar, self._picture)


def half_blocks(picture: Image.Image, columns: int) -> Text:
    """A picture as text: one sign is two pixels, the upper in the sign's colour, the lower in its background's."""
    width = min(columns, picture.width)
    height = max(2, round(picture.height * width / picture.width / 2) * 2)
    small = picture.convert("RGB").resize((width, height), Image.Resampling.BOX)
    pixels, text = small.tobytes().hex(), Text(no_wrap=True)
    for y in range(0, height, 2):
        for x in range(width):
            upper, lower = (f"#{pixels[6 * at : 6 * at + 6]}" for at in (y * width + x, (y + 1) * width + x))
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n")
    return text
