"""How time and memory grow with what is asked for: a curve each, its exponent, and what the mathematics says.

    python -m benchmarks.growth --write benchmarks                # about ten minutes on two cores
    python -m benchmarks.growth --curves pixels tokens --write benchmarks
    python -m benchmarks.growth --quick                           # the first two points of each: a rehearsal

The carried model paints. Each point is a process of its own, which makes everything ready at the curve's first value,
does the work once before the clock runs, then until a second has passed (three times at least; long ones once), and
tells the median and its peak memory. The exponent is the slope of the line of least squares through (log x, log y).
Fixed costs bend a curve down, so the slope between the last two points stands beside it: what the cost does from there
on, which is not to be above the bound. Let nothing else run. The [plots] extra draws.
"""

import argparse
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers.worker import peak

ROOT = Path(__file__).parents[1]
PROMPT = "a cat in a meadow"
LIMIT = 0.15  # what a slope may be above the bound: noise of the last two points


class Point(NamedTuple):
    """x, seconds, and GiB at most."""

    x: float
    seconds: float
    peak: float


@dataclass(frozen=True)
class Curve:
    """What grows: x's name, its values, the way to make the work for one, the bound on the slope, and why that."""

    x: str
    values: Sequence[int]
    work: Callable[[int, Path], Callable[[], object]]
    bound: float
    why: str


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the line of least squares through (log x, log y): the exponent p of y = c x^p."""
    logs = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True)]
    across, up = (statistics.fmean(column) for column in zip(*logs, strict=True))
    return sum((a - across) * (b - up) for a, b in logs) / sum((a - across) ** 2 for a, _ in logs)


def painting(**fixed: Any) -> Callable[..., Callable[[], object]]:
    """Work that paints with these wishes; the maker is given more of them."""

    def make(prompt: str = PROMPT, opened: Mapping[str, Any] | None = None, **wishes: Any) -> Callable[[], object]:
        import aquatint
        from aquatint.pipelines.generate import generate
        from aquatint.pipelines.request import Request

        bundle = aquatint.load(**(opened or {}))
        request = Request(prompt, **(fixed | wishes))
        return lambda: [progress.picture for progress in generate(bundle, request) if progress.picture]

    return make


few = painting(steps=2)


def loras(count: int, folder: Path) -> Callable[[], object]:
    """A picture with so many LoRAs of rank 8 on all attention layers of the U-Net."""
    import aquatint
    from aquatint.nets.adapters import LowRank
    from aquatint.nets.grown import grow
    from aquatint.pipelines.lora import Lora
    from aquatint.weights.lora_writer import save_lora

    bundle, paths = aquatint.load(), []
    for number in range(count):
        growth = grow(bundle.unet, rank=8, reach="attention", seed=number)
        found = {name: change.adapter(growth.scale) for name, change in growth.changes.items()}
        moved = {name: LowRank(one.down, one.up + 1e-4) for name, one in found.items()}  # type: ignore[attr-defined]
        paths.append(save_lora(folder / f"{count}-{number}.safetensors", {"unet": moved}, bundle.family))
    wanted = tuple(Lora(path.stem, 1 / count) for path in paths)
    return few(opened={"loras": paths}, loras=wanted)


def pictures(folder: Path, count: int) -> Path:
    """So many pictures of coloured clouds, no two alike, with captions."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC).save(folder / f"{number:06}.png")
        (folder / f"{number:06}.txt").write_text(f"clouds {number}")
    return folder


def preparing(count: int, folder: Path) -> Callable[[], object]:
    """Preparing so many pictures: looked at, compared with each other, written into shards."""
    from aquatint.training.data.examine import Settings
    from aquatint.training.data.prepare import prepare

    given = pictures(folder / f"in-{count}", count)
    turns = iter(range(1_000))
    return lambda: prepare([given], folder / f"set-{count}-{next(turns)}", Settings())


def rows(count: int, folder: Path) -> Callable[[], object]:
    """Opening a prepared set of so many samples and showing its first three batches: its index is that long."""
    import numpy as np

    from aquatint.base import config, files
    from aquatint.training.data.buckets import shapes
    from aquatint.training.data.examine import Settings
    from aquatint.training.data.loader import Loader
    from aquatint.training.data.prepare import prepare
    from aquatint.training.data.prepared import INDEX, REPORT, Prepared
    from aquatint.training.recipe import Moment

    out = folder / f"rows-{count}"
    prepare([pictures(folder / f"few-{count}", 64)], out, Settings())
    known = np.load(out / INDEX)
    np.save(out / INDEX, np.resize(known, count))  # the same samples again and again
    report = json.loads((out / REPORT).read_text()) | {"splits": {"train": count, "validation": 0}}
    manifest = {name: config.to_data(entry) for name, entry in files.read_manifest(out).items()}
    text = json.dumps(report)
    manifest[REPORT] = {"size": len(text.encode()), "sha256": files.write(out / REPORT, text)}
    files.write(out / files.MANIFEST, config.to_json(manifest, indent=1))

    def work() -> None:
        with Loader(Prepared(out), shapes(96 * 96, shortest=64, longest=128), batch=8) as loader:
            for step in range(3):
                loader.batch(Moment(step, 0.0))

    return work


CURVES = {
    "steps": Curve(
        "steps of one picture", (2, 4, 8, 16, 32, 64, 128), lambda n, _: painting()(steps=n), 1.0,
        "each step asks the same net once more; encoding and decoding are paid once",
    ),
    "batch": Curve(
        "pictures of one request, two steps each", (1, 2, 4, 8, 16), lambda n, _: few(seeds=(*range(n),)), 1.0,
        "each picture is painted alone, so that its bits do not depend on its company; text is encoded once",
    ),
    "pixels": Curve(
        "pixels of a picture, two steps", (256, 512, 1024, 1536, 2048), lambda n, _: few(width=n, height=n), 2.0,
        "convolutions and linear layers grow with the pixels (1), self-attention's products with their square (2)",
    ),
    "tokens": Curve(
        "tokens of the prompt, two steps", (75, 150, 300, 600, 1200, 2400), lambda n, _: few("a " * n), 1.0,
        "the text encoder reads chunks of 77, and every pixel looks at every token",
    ),
    "loras": Curve(
        "LoRAs on the U-Net, two steps", (1, 2, 4, 8, 16, 32), loras, 1.0,
        "each is read and added to the weights once; the steps do not know of them",
    ),
    "prepared": Curve(
        "pictures prepared for training", (100, 200, 400, 800, 1600), preparing, 1.0,
        "each is decoded and written once, and looked up among those before it by its hashes",
    ),
    "rows": Curve(
        "rows of a prepared set's index", (1_000, 10_000, 100_000, 1_000_000), rows, 1.0,
        "the index is mapped; every row's size is read once to find its bucket, and the order of samples is computed",
    ),
}  # fmt: skip
ABSENT = "Waiting jobs and history rows have no curve: there is no queue and no history yet."


def point(name: str, value: int) -> Point:
    """One point, in this process; x of "pixels" is the area."""
    curve, times = CURVES[name], list[float]()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as folder:
        curve.work(curve.values[0], Path(first))()
        work = curve.work(value, Path(folder))
        while not times or (len(times) < 3 and sum(times) < 20) or sum(times) < 1:
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
    return Point(value**2 if name == "pixels" else value, statistics.median(times), peak())


def measured(name: str, values: Sequence[int], threads: int) -> list[Point]:
    """A curve's points, each from its own process."""
    found = []
    for value in values:
        command = [sys.executable, "-m", "benchmarks.growth", "--point", name, str(value)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "AQUATINT_THREADS": str(threads)}
        done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found.append(Point(*json.loads(done.stdout.splitlines()[-1])))
        print(f"{name} {value}: {found[-1].seconds:.3f} s, {found[-1].peak:.3f} GiB", flush=True)
    return found


def row(curve: Curve, points: Sequence[Point]) -> str:
    """A curve's line of the table."""
    xs, ys = [p.x for p in points], [p.seconds for p in points]
    last = slope(xs[-2:], ys[-2:])
    memory = slope(xs[-2:], [p.peak for p in points[-2:]])
    verdict = "yes" if last <= curve.bound + LIMIT else "no"
    return (
        f"| {curve.x} | {xs[0]:,.0f} .. {xs[-1]:,.0f} | {ys[0]:.3g} .. {ys[-1]:.3g} | {slope(xs, ys):.2f} | {last:.2f} "
        f"| {curve.bound:g}: {curve.why} | {verdict} | {points[0].peak:.2f} .. {points[-1].peak:.2f} | {memory:.2f} |"
    )


def table(found: Mapping[str, Sequence[Point]]) -> str:
    """All curves, then all points."""
    lines = [
        "| x | from .. to | seconds | exponent | at the end | bound, and why | within it | GiB | at the end |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(CURVES[name], points) for name, points in found.items()),
        "",
        "Points (x: seconds, GiB):",
        "",
    ]
    for name, points in found.items():
        lines.append(f"- {name}: " + "; ".join(f"{p.x:,.0f}: {p.seconds:.3g}, {p.peak:.2f}" for p in points))
    return "\n".join([*lines, "", ABSENT])


def plot(found: Mapping[str, Sequence[Point]], path: Path) -> None:
    """A small log-log picture of each curve, with the bound's slope through its last point."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(4, len(found))
    figure, grid = pyplot.subplots(
        -(-len(found) // columns),
        columns,
        squeeze=False,
        figsize=(2.6 * columns, 2.2 * -(-len(found) // columns)),
        dpi=80,
    )
    for axes in grid.flat[len(found) :]:
        axes.axis("off")
    for axes, (name, points) in zip(grid.flat, found.items(), strict=False):
        xs, ys = [p.x for p in points], [p.seconds for p in points]
        axes.loglog(xs, ys, "o-", ms=3, lw=1)
        axes.loglog(xs, [ys[-1] * (x / xs[-1]) ** CURVES[name].bound for x in xs], "--", lw=0.8, color="grey")
        axes.set_ylim(min(ys) / 2, max(ys) * 2)
        axes.set_title(f"{name}, s", fontsize=8)
        axes.tick_params(which="both", labelsize=6)
    figure.tight_layout()
    figure.savefig(path, pil_kwargs={"optimize": True})
    pyplot.close(figure)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="the first two points of each")
    parser.add_argument("--write", type=Path, help="folder for DATE-growth-cpu.md and .png")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        print(json.dumps(point(given.point[0], int(given.point[1]))))
        return
    short = slice(0, 2) if given.quick else slice(None)
    found = {name: measured(name, CURVES[name].values[short], given.threads) for name in given.curves}
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    head = (
        f"# How cost grows\n\n{time.strftime('%Y-%m-%d')}, commit {commit}, {platform.machine()}, {given.threads} "
        f"threads, load {os.getloadavg()[0]:.1f} at the end; the carried model, float32 on the CPU.\n"
        f"Command: `python -m benchmarks.growth {shlex.join(sys.argv[1:])}`\n\n"
    )
    text = head + table(found) + "\n"
    print(text)
    if given.write:
        name = f"{time.strftime('%Y-%m-%d')}-growth-cpu"
        plot(found, given.write / f"{name}.png")
        (given.write / f"{name}.md").write_text(f"{text}\n![seconds by size]({name}.png)\n")


if __name__ == "__main__":
    main()
