"""An evaluation's figures as drawings (SVG), where matplotlib is installed (`pip install aquatint[plots]`)."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

from aquatint.evaluation.results import Figure, Results, word_of
from aquatint.evaluation.runs import Row

OURS, TRUE, WRONG = "#1f6f78", "#8a8a8a", "#c46a3f"


class Plot(NamedTuple):
    """A drawing, and what it shows, in a sentence."""

    svg: bytes
    about: str


def has_matplotlib() -> bool:
    """Whether drawings can be made here."""
    return find_spec("matplotlib") is not None


def plots(results: Results) -> list[Plot]:
    """The drawings that these results have figures for; none without matplotlib."""
    if not has_matplotlib():
        return []
    return [plot for plot in (_prompts(results), _distances(results), *_histograms(results)) if plot is not None]


def _prompts(results: Results) -> Plot | None:
    """The detector's shares by category, with the floor and the ceiling."""
    if results.scores is None:
        return None
    names = list(dict.fromkeys(row.category for row in results.scores.rows if row.source == "painted"))
    sources = {"true renders": TRUE, "painted, wrong caption": WRONG, "painted": OURS}
    with drawing(7.2, 0.7 + 0.42 * len(names)) as (figure, made):
        axes = figure.subplots()
        for shift, (source, colour) in enumerate(sources.items()):
            rows = {row.category: row for row in results.scores.rows if row.source == source}
            _points(axes, [rows.get(name) for name in names], 0.22 * (1 - shift), colour, source)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("pictures that show all of their prompt, %")
        axes.invert_yaxis()
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    return Plot(made.getvalue(), "By category, with 95 % intervals: what is painted, true renders, wrong captions.")


def _points(axes: Any, rows: list[Row | None], shift: float, colour: str, label: str) -> None:
    """A source's shares as points with their intervals."""
    found = [(place, row.share("all")) for place, row in enumerate(rows) if row is not None]
    x = [100 * share.value for _, share in found]
    reach = [[100 * (s.value - s.low) for _, s in found], [100 * (s.high - s.value) for _, s in found]]
    places = [place + shift for place, _ in found]
    axes.errorbar(x, places, xerr=reach, fmt="o", color=colour, label=label, markersize=4, linewidth=1.2)


def _distances(results: Results) -> Plot | None:
    """Every distance with its interval, beside that of true renders where there is one."""
    own = [one for one in results.figures if _is_distance(one.name) and one.low is not None]
    if not own:
        return None
    with drawing(7.2, 0.5 + 0.75 * len(own)) as (figure, made):
        every = figure.subplots(len(own), squeeze=False)[:, 0]
        for axes, one in zip(every, own, strict=True):
            floor = results.figure(f"{one.name}_floor")
            shown = [("painted", one, OURS)] + ([("true", floor, TRUE)] if floor is not None else [])
            for place, (_, found, colour) in enumerate(shown):
                _span(axes, found, place, colour)
            axes.set_yticks(range(len(shown)), [name for name, _, _ in shown])
            axes.set_ylim(len(shown) - 0.5, -0.5)
            axes.axvline(0.0, color="#cccccc", linewidth=0.8, zorder=0)
            axes.set_title(word_of(one.name), loc="left", fontsize=8)
    return Plot(made.getvalue(), "Distances to the references, with 95 % intervals; each on a scale of its own.")


def _span(axes: Any, one: Figure, place: int, colour: str) -> None:
    """A figure as a point with its interval."""
    if one.value is None:
        return
    low, high = (one.value if bound is None else bound for bound in (one.low, one.high))
    axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
    axes.plot([one.value], [place], "o", color=colour, markersize=5)


def _histograms(results: Results) -> Iterator[Plot | None]:
    """How values of single pictures are spread; where true pictures have them too, both."""
    for name, values in results.values.items():
        if not name.startswith(("clip_score", "nearest_")) or name.endswith("/true"):
            continue
        true = results.values.get(f"{name}/true", ())
        words = f"distance ({name.removeprefix('nearest_')})" if name.startswith("nearest_") else word_of(name)
        every = [*values, *true]
        low, high = min(every), max(every)
        with drawing(7.2, 2.2) as (figure, made):
            axes = figure.subplots()
            kinds = (("true pictures", true, TRUE), ("painted", values, OURS))
            for label, some, colour in kinds:
                if some:
                    weights = [100 / len(some)] * len(some)
                    axes.hist(some, 24, range=(low, high), weights=weights, color=colour, alpha=0.6, label=label)
            axes.set_xlabel(words)
            axes.set_ylabel("pictures, %")
            figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)
        about = "To the nearest training picture: a copyist's pictures lie far to the left of the true ones."
        yield Plot(made.getvalue(), about if true else "Of each picture.")


def _is_distance(name: str) -> bool:
    return name in ("fid", "kid") or (name.startswith(("fd_", "kd_")) and not name.endswith("_floor"))


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Any, io.BytesIO]]:
    """A matplotlib figure (inches), and where it is when the context is left. Words are drawn as they stand."""
    import matplotlib
    from matplotlib.figure import Figure as Drawing

    made = io.BytesIO()
    plain: Any = {"text.parse_math": False, "svg.fonttype": "path", "svg.hashsalt": "aquatint", "font.size": 9}
    plain |= {"axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(plain):
        figure = Drawing(figsize=(width, height), layout="constrained")
        yield figure, made
        figure.savefig(made, format="svg", metadata={"Date": None})
