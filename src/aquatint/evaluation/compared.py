"""Evaluations side by side: the same prompts, references and eyes, or a refusal that says what is not the same."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from aquatint.base import config, files
from aquatint.base.errors import UserError
from aquatint.evaluation import page, results
from aquatint.evaluation.intervals import Estimate, of_frechet_change, of_kernel_change, of_mean_change
from aquatint.evaluation.metrics import wilson
from aquatint.evaluation.painted import Painted, flat, read_settings
from aquatint.evaluation.results import SHARES, Figure, Results, meaning, number, said, table
from aquatint.evaluation.sets import Asked

OF_REFERENCES = ("_floor", "_references")  # figures that no model changes
CHANCE = "An interval of 95 % leaves 0 out by chance once in twenty figures: what several figures say alike counts."


@dataclass(frozen=True)
class Change:
    """What a figure does from the first run to another, with its interval; sure: whether that leaves out 0."""

    value: float
    low: float | None
    high: float | None
    how: str
    sure: bool
    verdict: str


@dataclass(frozen=True)
class Line:
    """One figure in all runs, and its change from the first to each other."""

    name: str
    figures: tuple[Figure, ...]
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Compared:
    """Runs side by side; the first is what the others are held against."""

    runs: tuple[str, ...]
    lines: tuple[Line, ...]
    differ: tuple[str, ...]
    paired: bool

    def rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Head and rows of the table."""
        others = [part for name in self.runs[1:] for part in (f"{name} - {self.runs[0]}", "")]
        head = ("figure", *self.runs, *others)
        made = []
        for line in self.lines:
            share = line.name.startswith(SHARES)
            changes = [part for one in line.changes for part in (_told(one, share), one.verdict)]
            made.append((meaning(line.name).words, *map(said, line.figures), *changes))
        return head, made

    def markdown(self) -> str:
        """The table, what the runs differ in, and how the changes were found."""
        head, made = self.rows()
        return "\n\n".join([table(made, head), *self.notes()])

    def notes(self) -> list[str]:
        """What the runs differ in, and how far the table can be trusted."""
        how = "Pictures of one prompt and seed are taken in pairs." if self.paired else "The seeds differ: no pairs."
        return [*(f"They differ in {text}." for text in self.differ), how, CHANCE]


def compared(folders: Sequence[Path]) -> Compared:
    """Two runs or more side by side; UserError for runs that are not comparable, with what they differ in."""
    if not 2 <= len(folders) <= 8:
        raise UserError(f"{len(folders)} evaluation{'s' * (len(folders) != 1)} to compare.", "2 to 8 folders.")
    every = [results.read(folder) for folder in folders]
    for folder, one in zip(folders[1:], every[1:], strict=True):
        if wrong := unlike(every[0], one):
            raise UserError(
                f'"{folders[0]}" and "{folder}" cannot be compared: {"; ".join(wrong)}.',
                "Evaluations of the same prompts against the same references, looked at by the same eyes.",
                "Evaluate both alike.",
            )
    first = every[0]
    paired = all(one.settings.request.seeds == first.settings.request.seeds for one in every)
    features = [results.features_of(folder) for folder in folders]
    shown = (one.name for one in first.figures if not one.name.endswith(OF_REFERENCES))
    names = [name for name in shown if all(other.figure(name) for other in every)]
    lines = []
    for name in names:
        found = tuple(figure for one in every if (figure := one.figure(name)) is not None)
        changes = (_change(name, every, features, other, paired=paired) for other in range(1, len(every)))
        lines.append(Line(name, found, tuple(changes)))
    return Compared(_names(folders), tuple(lines), _differ(every), paired)


def unlike(one: Results, other: Results) -> list[str]:
    """What keeps two evaluations from being comparable; empty if nothing does.

    Where one has no training pictures, or looked in fewer spaces, what both have figures of is compared.
    """
    facts = {
        "the prompts": (one.settings.prompts.digest, other.settings.prompts.digest),
        "the references": tuple(found.digest if found else "none" for found in (one.references, other.references)),
    }
    if one.training is not None and other.training is not None:
        facts["the training pictures"] = one.training.digest, other.training.digest
    eyes = [{space.name: space.digest for space in found.spaces} for found in (one, other)]
    for name in eyes[0].keys() & eyes[1].keys():
        facts[f"what looks in the space {name}"] = eyes[0][name], eyes[1][name]
    return [f"{name} differ ({a[:10]}, {b[:10]})" for name, (a, b) in facts.items() if a != b]


def write(folder: Path, found: Compared, folders: Sequence[Path]) -> Path:
    """changes.json and report.html of a comparison, with the pictures side by side; returns the page's path."""
    files.make_folder(folder)
    head, made = found.rows()
    body = [
        f"<h1>{escape(' and '.join(found.runs))}</h1>",
        page.rows(head, made, range(1, len(head))),
        *(f"<p>{escape(note)}</p>" for note in found.notes()),
        _sheet(found, folders),
    ]
    files.write(folder / "changes.json", config.to_json(found, indent=1))
    files.write(folder / page.REPORT, page.document("Evaluations side by side", body))
    return folder / page.REPORT


def _change(
    name: str, every: Sequence[Results], features: Sequence[Mapping[str, Tensor]], other: int, *, paired: bool
) -> Change:
    """The change of one figure from the first run to another, in pairs where there are pairs."""
    estimate = _paired(name, every, features, other) if paired else None
    if estimate is None:
        before, after = every[0].figure(name), every[other].figure(name)
        assert before is not None, "in all runs"
        assert after is not None, "in all runs"
        estimate = apart(before, after)
    low, high = (bound if math.isfinite(bound) else None for bound in estimate[1:3])
    sure = low is not None and high is not None and not low <= 0 <= high
    better = meaning(name).better * estimate.value
    verdict = ("better" if better > 0 else "worse" if better < 0 else "other") if sure else "not sure"
    return Change(estimate.value if math.isfinite(estimate.value) else 0.0, low, high, estimate.how, sure, verdict)


def _paired(
    name: str, every: Sequence[Results], features: Sequence[Mapping[str, Tensor]], other: int
) -> Estimate | None:
    """The change by pairs; None where the figure has none."""
    before, after = (_values(name, one) for one in (every[0], every[other]))
    if before is not None and after is not None and len(before) == len(after) > 1:
        if name.startswith(SHARES):
            return of_share_change(before, after)
        return of_mean_change(torch.tensor(before), torch.tensor(after))
    for space in every[0].spaces:
        clouds = [one.get(f"painted/{space.name}") for one in (features[0], features[other])]
        references = features[0].get(f"references/{space.name}")
        if clouds[0] is None or clouds[1] is None or references is None or len(clouds[0]) != len(clouds[1]):
            continue
        if name in (f"fd_{space.name}", "fid" if space.name == "inception" else ""):
            return of_frechet_change(clouds[0], clouds[1], references)
        if name in (f"kd_{space.name}", "kid" if space.name == "inception" else ""):
            return of_kernel_change(clouds[0], clouds[1], references)
    return None


def _values(name: str, one: Results) -> tuple[float, ...] | None:
    """The values that a figure is the mean of, one a picture; None for other figures."""
    kind, _, category = name.partition("/")
    if kind == "right" and category:
        values = one.values.get("right", ())
        return tuple(value for value, own in zip(values, one.categories, strict=True) if own == category)
    if name in ("psnr", "ssim"):
        return one.values.get(f"{name}/true")
    return None if name.startswith("nearest_") else one.values.get(name)


def apart(before: Figure, after: Figure) -> Estimate:
    """after - before of two figures that share no pictures, from their intervals: the distances from each value to its
    bounds add as squares (Newcombe 1998, method 10; Zou and Donner 2008 for other figures than shares)."""
    if before.value is None or after.value is None:
        return Estimate(math.nan, math.nan, math.nan, "none")
    value = after.value - before.value
    if None in (before.low, before.high, after.low, after.high):
        return Estimate(value, math.nan, math.nan, "none")
    a, b = _bounds(before), _bounds(after)
    low = value - math.hypot(after.value - b[0], a[1] - before.value)
    high = value + math.hypot(b[1] - after.value, before.value - a[0])
    return Estimate(value, low, high, "apart")


def of_share_change(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """after - before of two shares of the same pictures, 0 or 1 each (Newcombe 1998, paired data, method 10).

    Wilson's bounds of both, joined as in `apart`, less what the correlation of the pairs explains. Where all pairs are
    alike, a bootstrap would give an interval of no width.
    """
    n, (x, y) = len(before), (torch.tensor(values, dtype=torch.float64) for values in (after, before))
    both, first, second = (float(part.sum()) for part in (x * y, x * (1 - y), y * (1 - x)))
    neither = n - both - first - second
    product = both * neither - first * second
    product = max(product - n / 2, 0.0) if product > 0 else product  # his correction for continuity
    sides = (both + first) * (second + neither) * (both + second) * (first + neither)
    phi = product / math.sqrt(sides) if sides else 0.0
    a, b = wilson(int(both + first), n), wilson(int(both + second), n)

    def reach(p: float, q: float) -> float:
        return math.sqrt(max(0.0, p * p - 2 * phi * p * q + q * q))

    value = a.value - b.value
    low, high = reach(a.value - a.low, b.high - b.value), reach(b.value - b.low, a.high - a.value)
    return Estimate(value, value - low, value + high, "pairs")


def _bounds(one: Figure) -> tuple[float, float]:
    assert one.low is not None, "asked before"
    assert one.high is not None, "asked before"
    return one.low, one.high


def _told(one: Change, share: bool) -> str:
    sign = "+" if one.value >= 0 else ""
    value = f"{sign}{number(one.value, share)}"
    if one.low is None or one.high is None:
        return value
    return f"{value} ({number(one.low, share)} to {number(one.high, share)})"


def _names(folders: Sequence[Path]) -> tuple[str, ...]:
    """The folders' names, or their paths where two have one name."""
    names = [folder.resolve().name for folder in folders]
    return tuple(names if len(set(names)) == len(names) else map(str, folders))


def _differ(every: Sequence[Results]) -> tuple[str, ...]:
    """What the runs were painted with that is not the same in all."""
    plain = [flat(config.to_data(one.settings)) for one in every]
    names = dict.fromkeys(name for one in plain for name in one)
    found = []
    for name in names:
        values = [str(one.get(name, "nothing"))[:40] for one in plain]
        if len(set(values)) > 1 and name not in ("model.digest", "model.file"):
            found.append(f"{name} ({', '.join(values)})")
    if len({one.settings.model.digest for one in every}) > 1:
        found.insert(0, "the weights")
    return tuple(found)


def _sheet(found: Compared, folders: Sequence[Path]) -> str:
    """The pictures of each prompt side by side, a prompt a row."""
    first = results.read(folders[0])
    asked = Asked(first.settings.prompts, first.prompts, first.categories)
    runs = [Painted(folder, read_settings(folder), asked) for folder in folders]
    made = []
    for index in page.of_sheet(asked):
        shown = "".join(page.picture(run[index]) for run in runs)
        made.append(f"<figure><div>{shown}</div><figcaption>{escape(first.prompts[index])}</figcaption></figure>")
    title = f"<h2>Pictures: {escape(', '.join(found.runs))}, from the left</h2>"
    return f'{title}\n<div class="sheet side">\n{"".join(made)}\n</div>'
