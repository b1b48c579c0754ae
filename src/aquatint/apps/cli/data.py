"""`aquatint data`: pictures made ready for training, looked at, and checked."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from aquatint.base.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from aquatint.training.data.prepared import Prepared

app = App(name="data", help="Prepare, look at and check data sets for training.")
BARS, WIDE = 12, 40  # rows of a histogram, and signs of its longest


@app.command
def prepare(
    *sources: Annotated[
        str,
        Parameter(help="Folders, .tar (WebDataset, img2dataset) or .parquet files; also http(s)://...[#sha256=HEX]."),
    ],
    out: Annotated[Path, Parameter(help="The folder that is written; one that was begun is gone on with.")],
    missing: Annotated[str, Parameter(help="Pictures without a caption: fail, drop or empty.")] = "fail",
    near: Annotated[int, Parameter(help="Bits by which perceptual hashes of duplicates differ; -1: equal bytes.")] = 4,
    min_side: Annotated[int, Parameter(help="Pixels that the shorter side has at least.")] = 1,
    max_ratio: Annotated[float, Parameter(help="Longer side to shorter at most; 0 for any.")] = 0.0,
    validation: Annotated[float, Parameter(help="Share that is held back for validation.")] = 0.0,
    shard_size: Annotated[int, Parameter(help="Megabytes of a shard at most.")] = 256,
    shard_count: Annotated[int, Parameter(help="Pictures of a shard at most.")] = 10_000,
    columns: Annotated[str, Parameter(help="A Parquet table's columns: picture,caption,key.")] = "image,caption,key",
    workers: Annotated[int, Parameter(help="Threads that read and decode.")] = 2,
    largest: Annotated[float, Parameter(help="Gigabytes that a fetched file has at most.")] = 64.0,
    deadline: Annotated[float, Parameter(help="Minutes within which a fetched file must be here.")] = 360.0,
) -> None:
    """Write pictures and captions as shards with an index and a manifest; say what was left out, and why."""
    from aquatint.base import config
    from aquatint.training.data.addresses import Address, given
    from aquatint.training.data.examine import Settings
    from aquatint.training.data.fetched import Limits
    from aquatint.training.data.prepare import prepare as run

    names = [name.strip() for name in columns.split(",")]
    if len(names) != 3 or not all(names):
        raise UserError(f'--columns "{columns}".', "Three names: image,caption,key.")
    if not 0 <= workers <= 256:
        raise UserError(f"--workers {workers}.", "0 to 256.")
    if not 0 < largest <= 2**20 or not 0 < deadline <= 2**20:
        raise UserError(f"--largest {largest} --deadline {deadline}.", "More than 0, and at most 1,048,576.")
    said = {
        "missing": missing,
        "near": near,
        "min_side": min_side,
        "max_ratio": max_ratio,
        "validation": validation,
        "shard_bytes": shard_size * 2**20,
        "shard_count": shard_count,
        "columns": dict(zip(("image", "caption", "key"), names, strict=True)),
    }
    settings = config.from_data(Settings, said)
    asked = [given(source) for source in sources]
    found = [source if isinstance(source, Address) else source.expanduser() for source in asked]
    limits = Limits(largest=int(largest * 1e9), deadline=deadline * 60)
    with spoken("preparing") as say:
        tell, fetching = counted("preparing", say), fetched(say)
        report = run(found, out, settings, workers=workers, tell=tell, limits=limits, fetching=fetching)
    for line in told(report):
        print(line)
    if not (out / "manifest.parquet").is_file():
        print("note: no manifest.parquet, for pyarrow is not there (pip install aquatint[train])", file=sys.stderr)
    print(out)


@app.command
def show(
    folder: Annotated[Path, Parameter(help="A prepared folder.")],
    /,
    *,
    count: Annotated[int, Parameter(help="Pictures on the sheet.")] = 48,
    cell: Annotated[int, Parameter(help="Pixels of a picture's longer side.")] = 160,
    seed: Annotated[int, Parameter(help="Which pictures are drawn.")] = 0,
    out: Annotated[
        Path | None, Parameter(help="The sheet's file; sheet.jpg in the current folder if not given.")
    ] = None,
) -> None:
    """Draw a contact sheet of some pictures, and print how sizes, ratios and captions are distributed, by split."""
    from aquatint.apps.cli.sheet import encode
    from aquatint.base import files
    from aquatint.pipelines.contact import MOST, contact, printed
    from aquatint.training.data.order import Order

    if not 1 <= count <= MOST or not 32 <= cell <= 1024:
        raise UserError(f"--count {count} --cell {cell}.", f"1 to {MOST} pictures, 32 to 1024 pixels.")
    splits = opened(folder)
    for data in splits:
        print(f"{data.split}: {len(data):,} pictures")
        for title, values, spelled in columns_of(data):
            print(f"\n  {title}")
            print("\n".join(f"  {line}" for line in histogram(values, spelled)))
        print()
    first = splits[0]
    chosen = Order(seed, len(first)).numbers(range(min(count, len(first))))
    prints = [printed(first.picture(number), first.read(number).caption, cell) for number in chosen]
    path = out or Path("sheet.jpg")
    files.write(path, encode(contact(prints), "jpeg"))
    print(path)


@app.command
def check(folder: Annotated[Path, Parameter(help="A prepared folder.")], /) -> int:
    """Read every byte and compare it with its digest; name every damaged sample, and fail if there is one."""
    from aquatint.base import files

    bad = 0
    with progress("checking") as tell:
        number = 0
        for data in opened(folder):
            for row in range(len(data)):
                number += 1
                try:
                    data.read(row)
                except UserError as damage:
                    bad += 1
                    print(damage)
                tell(number, number - bad)
    for name, entry in files.read_manifest(folder).items():
        if not name.endswith(".tar") and files.measure(folder / name) != (entry.size, entry.sha256):
            bad += 1
            print(f'"{folder / name}" is not what was written.')
    print(f"{number:,} samples read, {bad:,} damaged" if bad else f"{number:,} samples read, all are what was written")
    return int(bad > 0)


def opened(folder: Path) -> "list[Prepared]":
    """The splits of a prepared folder that hold anything."""
    from aquatint.training.data.prepared import Prepared
    from aquatint.training.data.shards import SPLITS

    return [data for split in SPLITS if len(data := Prepared(folder, split))]


def told(report: dict[str, Any]) -> Iterator[str]:
    """A report in lines."""
    yield f"{report['read']:,} read, {report['kept']:,} kept, {report['read'] - report['kept']:,} dropped"
    for reason, count in report["dropped"].items():
        yield f"  {count:,} {reason}"
    splits = ", ".join(f"{count:,} {split}" for split, count in report["splits"].items() if count)
    yield f"{splits}; {report['shards']:,} shards, {report['bytes'] / 1e6:,.1f} MB"


def columns_of(data: "Prepared") -> "Iterator[tuple[str, np.ndarray, Callable[[float], str]]]":
    """(title, values, how one is spelled) of what the histograms show."""
    import numpy as np

    def whole(value: float) -> str:
        return f"{value:,.0f}"

    sizes = data.sizes().astype(np.int64)
    yield "width, pixels", sizes[:, 0], whole
    yield "height, pixels", sizes[:, 1], whole
    yield "width : height", np.log2(sizes[:, 0] / sizes[:, 1]), lambda value: f"{2**value:.2f}"
    own = data.rows[data.first : data.first + data.count]
    yield "caption, bytes", np.asarray(own["caption"]), whole


def histogram(values: "np.ndarray", spelled: Callable[[float], str]) -> list[str]:
    """Lines "from ... to  ####  count"; one line where all values are equal."""
    import numpy as np

    if values.min() == values.max():
        return [f"all {spelled(float(values.min()))}"]
    counts, edges = np.histogram(values, bins=BARS)
    ends = [(spelled(float(low)), spelled(float(high))) for low, high in pairwise(edges)]
    wide = max(len(end) for pair in ends for end in pair)
    bars = ["#" * -(-WIDE * int(count) // int(counts.max())) for count in counts]
    return [
        f"{low:>{wide}} to {high:>{wide}}  {bar:<{WIDE}}  {count:,}"
        for (low, high), bar, count in zip(ends, bars, counts.tolist(), strict=True)
    ]


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A line on standard error that counts, if that is a terminal."""
    with spoken(what) as say:
        yield counted(what, say)


def counted(what: str, say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Says how many items were read, how many of them are sound, and how quickly it goes."""
    began = 0.0

    def tell(seen: int, kept: int) -> None:
        nonlocal began
        began = began or time.monotonic()
        rate = seen / max(time.monotonic() - began, 0.1)
        say(f"{what}  {seen:,} read  {kept:,} sound  {rate:,.0f}/s")

    return tell


def fetched(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Says how much of a file is here."""
    return lambda have, total: say(f"fetching  {have / 1e6:,.1f} of {total / 1e6:,.1f} MB")


@contextmanager
def spoken(what: str) -> Iterator[Callable[[str], None]]:
    """A line on standard error that says what it is told to, and for how long, if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda text: bar.update(task, description=text)
