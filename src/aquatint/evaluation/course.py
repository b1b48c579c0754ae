"""The page of a training run: its curves, its sheets, its settings and what it cost, in one HTML file."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from aquatint.base import config, files, images
from aquatint.base.errors import UserError
from aquatint.evaluation import page
from aquatint.evaluation.plots import OURS, drawing, has_matplotlib
from aquatint.training import account, journal

HELD = "held, t "  # what errors by time are logged as (training/validation.py)
SHEETS, WIDE = 12, 720  # pictures on the page, px of each
LARGEST_LOG = 2**28  # bytes
PLAIN = ("step", "progress", "minutes")  # of a line: no curves of their own


class Course(NamedTuple):
    """What a run's folder tells: the lines of its log, what it was made with, and its pictures, oldest first."""

    lines: Sequence[Mapping[str, float]]
    made: Mapping[str, Any]
    pictures: Sequence[Path]


def read(folder: Path) -> Course:
    """A run's folder; UserError where it is none, or its log is not what a run writes."""
    path = folder / journal.NAME
    with files.telling(path, "read"):
        if not path.is_file():
            raise UserError(f'"{folder}" holds no {journal.NAME}.', "The folder of a training run.")
    text = files.read_text(path, limit=LARGEST_LOG)
    lines = [_line(line, f'"{path}", line {number}') for number, line in enumerate(text.splitlines(), 1)]
    made = files.read_json(folder / account.NAME) if (folder / account.NAME).is_file() else {}
    if not isinstance(made, dict):
        raise UserError(f'"{folder / account.NAME}" is not what a run writes.', "An object.")
    found = [*sorted((folder / "sheets").glob("*.jpg")), *(folder / name for name in ("sheet.png", "sheet.jpg"))]
    return Course(lines, made, [path for path in found if path.is_file()])


def write(folder: Path) -> Path:
    """Write report.html into a run's folder; returns its path."""
    path = folder / page.REPORT
    files.write(path, html(folder.resolve().name, read(folder)))
    return path


def html(name: str, course: Course) -> str:
    """The whole page."""
    body = [f"<h1>{escape(name)}</h1>", f'<p class="dim">{escape(summary(course))}</p>', _curves(course)]
    return page.document(f"Training: {name}", [*body, _sheets(course), _last(course), _made(course)])


def summary(course: Course) -> str:
    """A sentence: how far it is, how long it took, how fast it was."""
    if not course.lines:
        return "Nothing is logged yet."
    last, size = course.lines[-1], course.made.get("batch_size")
    parts = [f"{last['step']:,.0f} steps, {100 * last['progress']:.0f} % of the run"]
    if isinstance(size, int):
        parts.append(f"{last['step'] * size:,.0f} samples")
    parts.append(f"{_newest(course, 'minutes'):.1f} minutes")
    rates = sorted(line["rate"] for line in course.lines if "rate" in line)
    if rates:
        parts.append(f"{rates[len(rates) // 2]:.3g} samples a second (median)")
    peak = _newest(course, "memory")
    return "; ".join(parts if math.isnan(peak) else [*parts, f"at most {peak:.2f} GiB"])


def _line(text: str, where: str) -> dict[str, float]:
    try:
        found = config.parse(text)
    except UserError:
        found = None
    if not isinstance(found, dict) or not {"step", "progress"} <= found.keys():
        raise UserError(f"{where} is no line of a run's log.", '{"step": 5, "progress": 0.1, ...}.')
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def _newest(course: Course, name: str) -> float:
    return next((line[name] for line in reversed(course.lines) if name in line), math.nan)


def _curves(course: Course) -> str:
    """Every number of the log by steps; errors by time together."""
    if not has_matplotlib():
        return "<p>Without matplotlib there are no drawings: pip install aquatint[plots], then aquatint report.</p>"
    names = dict.fromkeys(name for line in course.lines for name in line)
    alone = [name for name in names if name not in PLAIN and not name.startswith(HELD)]
    times = [name for name in names if name.startswith(HELD)]
    drawn = [_curve(course, name, [name]) for name in alone] + (
        [_curve(course, "held, by time", times)] if times else []
    )
    return f'<h2>Curves</h2>\n<div class="plots">{"".join(drawn)}</div>' if drawn else ""


def _curve(course: Course, title: str, names: Sequence[str]) -> str:
    """One drawing: a line for each name; alone, its running median too, where there are enough points."""
    with drawing(4.6, 2.5) as (figure, made):
        axes = figure.subplots()
        for place, name in enumerate(names):
            points = [(line["step"], line[name]) for line in course.lines if name in line]
            steps, values = [step for step, _ in points], [value for _, value in points]
            several = len(names) > 1
            colour = (0.12, 0.75 - 0.6 * place / len(names), 0.3 + 0.6 * place / len(names)) if several else OURS
            smooth = not several and len(values) >= 30
            mark = "o" if len(values) < 12 else ""
            axes.plot(steps, values, mark + "-", color=colour, linewidth=1.0, markersize=3, alpha=0.3 if smooth else 1,
                      label=name.removeprefix(HELD) if several else None)  # fmt: skip
            if smooth:
                axes.plot(steps, _medians(values, len(values) // 15), color=colour, linewidth=1.6)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel("steps", fontsize=8)
        if len(names) > 1:
            axes.legend(fontsize=6, ncols=2, frameon=False, title="time", title_fontsize=6)
    data = base64.b64encode(made.getvalue()).decode()
    return f'<figure><img alt="{escape(title)}" src="data:image/svg+xml;base64,{data}"></figure>'


def _medians(values: Sequence[float], reach: int) -> list[float]:
    """The median of each value and of its neighbours up to `reach` on either side."""
    windows = [sorted(values[max(0, at - reach) : at + reach + 1]) for at in range(len(values))]
    return [window[len(window) // 2] for window in windows]


def _sheets(course: Course) -> str:
    """The last pictures that were painted on the way."""
    made = []
    for path in course.pictures[-SHEETS:]:
        picture = images.rgb(images.decode(files.read(path, limit=images.LARGEST_FILE)))
        made.append(f"<figure>{page.picture(picture, WIDE // 2)}<figcaption>{escape(path.stem)}</figcaption></figure>")
    return f'<h2>Pictures</h2>\n<div class="plots">{"".join(made)}</div>' if made else ""


def _last(course: Course) -> str:
    """The newest of every number."""
    names = dict.fromkeys(name for line in course.lines for name in line)
    lines = [(name, f"{_newest(course, name):.5g}") for name in names]
    return f"<h2>Last</h2>\n{page.rows(('number', 'value'), lines, (1,))}" if lines else ""


def _made(course: Course) -> str:
    """Settings and versions, flat."""
    lines = list(_flat(course.made))
    return f"<h2>Settings</h2>\n{page.rows(('setting', 'value'), lines)}" if lines else ""


def _flat(data: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in data.items():
        if isinstance(value, dict):
            found += _flat(value, f"{before}{name}.")
        else:
            found.append((before + name, "" if value is None else str(value)))
    return found
