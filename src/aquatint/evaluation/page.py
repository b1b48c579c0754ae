"""The report: one HTML file with everything in it. No script, nothing fetched, every text escaped."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from aquatint.base import config, files
from aquatint.evaluation.painted import Painted
from aquatint.evaluation.plots import has_matplotlib, plots
from aquatint.evaluation.prompts import FACTS
from aquatint.evaluation.results import SHARES, Figure, Results, meaning, number
from aquatint.evaluation.runs import Row, Table
from aquatint.evaluation.sets import Asked

REPORT = "report.html"
MOST, CELL = 84, 160  # pictures on the sheet, px of each
GROUPS = {
    "What the prompts say, by the detector": ("right", "fact/"),
    "Pictures and prompts in CLIP's space": ("clip_score", "r_precision"),
    "Distances to the references": ("fd_", "kd_", "fid", "kid"),
    "The autoencoder": ("psnr", "ssim", "rf"),
    "Copies of training pictures": ("nearest_", "copies_"),
}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0.2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 0.5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 0.25rem 0.6rem; text-align: left; vertical-align: top; }
td:first-child { min-width: 15rem; } summary { margin: 0.6rem 0; cursor: pointer; }
th { font-weight: 600; border-bottom: 1px solid #8888; } tr + tr td { border-top: 1px solid #8883; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.dim { opacity: 0.7; font-size: 0.87em; } .scroll { overflow-x: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
.plots figure { margin: 0; background: #fff; color: #222; border-radius: 4px; padding: 0.5rem; }
.plots img { width: 100%; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 0.8rem; }
.side { grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
.side figure div { display: flex; gap: 0.2rem; } .side img { flex: 1; min-width: 0; }
.sheet figure { margin: 0; } .sheet img { width: 100%; border-radius: 3px; display: block; }
figcaption { font-size: 0.8em; overflow-wrap: anywhere; } .no { color: #c0392b; } .yes { color: #1f7a4d; }
""".strip()
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write(folder: Path, results: Results, painted: Painted) -> Path:
    """Write the report into the run's folder; returns its path."""
    path = folder / REPORT
    files.write(path, html(results, painted))
    return path


def html(results: Results, painted: Painted) -> str:
    """The whole page."""
    settings = results.settings
    body = [
        f"<h1>{escape(settings.model.name)} on {escape(settings.prompts.name)}</h1>",
        f'<p class="dim">{escape(_subtitle(results))}</p>',
        *(_group(title, starts, results) for title, starts in GROUPS.items()),
        *(f"<p>{escape(note)}</p>" for note in results.notes),
        _plots(results),
        _sheet(results, painted),
        _scores(results.scores),
        _facts(results),
    ]
    return document(f"Evaluation of {settings.model.name}", body)


def document(title: str, body: Iterable[str]) -> str:
    """A page of these parts."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    inner = "\n".join(part for part in body if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{inner}\n</body></html>\n'


def rows(head: Sequence[str], lines: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of plain texts, which are escaped here; columns in `numbers` stand to the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        made = (
            f'<{tag} class="n">{escape(cell)}</{tag}>' if place in numbers else f"<{tag}>{escape(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    inner = "\n".join([line(head, "th"), *(line(cells, "td") for cells in lines)])
    return f'<div class="scroll"><table>\n{inner}\n</table></div>'


def picture(image: Image.Image, side: int = CELL) -> str:
    """A picture as a small JPEG within the page."""
    small = image.copy()
    small.thumbnail((2 * side, 2 * side), Image.Resampling.LANCZOS)  # for screens of two pixels a point
    out = io.BytesIO()
    small.save(out, "JPEG", quality=82)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}">'


def of_sheet(asked: Asked) -> list[int]:
    """Which pictures stand on a sheet: of every category as many, from the first on."""
    kinds = {name: [i for i, kind in enumerate(asked.categories) if kind == name] for name in asked.categories}
    share = max(1, MOST // len(kinds))
    return sorted(number for numbers in kinds.values() for number in numbers[:share])[:MOST]


def _subtitle(results: Results) -> str:
    settings, request = results.settings, results.settings.request
    parts = [
        f"{settings.prompts.count} pictures of {request.width} x {request.height} px",
        f"{request.sampler}, {request.steps} steps, guidance {request.guidance:g}",
        f"seeds from {request.seeds[0]}",
    ]
    if results.references is not None:
        parts.append(f"references: {results.references.count} ({results.references.name})")
    return "; ".join(parts)


def _group(title: str, starts: tuple[str, ...], results: Results) -> str:
    chosen = [one for one in results.figures if one.name.startswith(starts)]
    if not chosen:
        return ""
    told = [meaning(one.name).about for one in chosen]
    told = [text if index == told.index(text) else "" for index, text in enumerate(told)]  # said once
    lines = [
        (meaning(one.name).words, *_cells(one), str(one.n), one.how, text)
        for one, text in zip(chosen, told, strict=True)
    ]
    head = ("figure", "value", "95 % interval", "n", "by", "what it is")
    return f"<h2>{escape(title)}</h2>\n{rows(head, lines, (1, 2, 3))}"


def _cells(one: Figure) -> tuple[str, str]:
    """A figure's value and interval."""
    share = one.name.startswith(SHARES)
    if one.value is None:
        return "none", ""
    value = number(one.value, share) + (" %" if share else "")
    if one.low is None or one.high is None:
        return value, "too few"
    return value, f"{number(one.low, share)} to {number(one.high, share)}"


def _plots(results: Results) -> str:
    if not has_matplotlib():
        return "<p>Without matplotlib there are no drawings: pip install aquatint[plots], and evaluate again.</p>"
    made = [
        f'<figure><img alt="" src="data:image/svg+xml;base64,{base64.b64encode(plot.svg).decode()}">'
        f"<figcaption>{escape(plot.about)}</figcaption></figure>"
        for plot in plots(results)
    ]
    return f'<h2>Drawings</h2>\n<div class="plots">{"".join(made)}</div>' if made else ""


def _scores(table: Table | None) -> str:
    """The detector's table, with its controls."""
    if table is None:
        return ""
    facts = [fact for fact in FACTS if any(fact in row.scores for row in table.rows)]
    head = ("pictures", "category", "n", *facts, "all of it, %")

    def lines(some: Sequence[Row]) -> str:
        return rows(head, [_row(row, facts) for row in some], range(2, len(head)))

    return (
        f"<h2>The detector and its controls, in per cent</h2>\n{lines(table.total().rows)}\n"
        f"<details><summary>By category</summary>{lines(table.rows)}</details>"
    )


def _row(row: Row, facts: Sequence[str]) -> tuple[str, ...]:
    """A row of the detector's table as texts."""
    whole = row.share("all")
    shares = (f"{100 * row.share(fact).value:.1f}" if fact in row.scores else "" for fact in facts)
    said = f"{100 * whole.value:.1f} ({100 * whole.low:.1f} to {100 * whole.high:.1f})"
    return row.source, row.category, str(row.scores["all"][1]), *shares, said


def _sheet(results: Results, painted: Painted) -> str:
    """Some of the pictures, with what was asked and whether the detector found it."""
    asked, made = painted.asked, []
    for index in of_sheet(asked):
        told = f"{asked.prompts[index]} ({results.settings.request.seeds[0] + index})"
        verdict = ""
        if results.wrong:
            lacks = results.wrong[index]
            verdict = f' <b class="no">not right: {escape(lacks)}</b>' if lacks else ' <b class="yes">right</b>'
        made.append(f"<figure>{picture(painted[index])}<figcaption>{escape(told)}{verdict}</figcaption></figure>")
    title = f"<h2>Pictures ({len(made)} of {len(painted)}; seed in brackets)</h2>"
    return f'{title}\n<div class="sheet">\n{"".join(made)}\n</div>'


def _facts(results: Results) -> str:
    """Settings and cost."""
    settings, count = results.settings, max(1, results.settings.prompts.count)
    plain = {name: value for name, value in config.to_data(settings.request).items() if value not in (None, "", [])}
    lines = [
        ("model", f"{settings.model.name} ({settings.model.family}), sha256 {settings.model.digest}"),
        ("set", f"{settings.prompts.name}, {settings.prompts.count} prompts, sha256 {settings.prompts.digest}"),
        *((f"file: {one.kind}", f"{one.name}, sha256 {one.sha256}") for one in settings.files),
        *(
            (name, f"{one.name}, {one.count} pictures, sha256 {one.digest}")
            for name, one in (("references", results.references), ("training", results.training))
            if one is not None
        ),
        *((f"space: {one.name}", f"sha256 {one.digest}" if one.digest else "arithmetic") for one in results.spaces),
        *((name, str(value)) for name, value in plain.items() if name != "prompt"),
        ("computed by", ", ".join(f"{name} {value}" for name, value in config.to_data(settings.key).items())),
        ("aquatint", results.aquatint),
        ("painting", f"{results.seconds['painting']:.1f} s, {results.seconds['painting'] / count:.2f} s a picture"),
        ("measuring", f"{results.seconds['measuring']:.1f} s"),
    ]
    return f"<h2>Settings and cost</h2>\n{rows(('', ''), lines)}"
