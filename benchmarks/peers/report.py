"""From rounds to the table and the plot. Ratios are theirs / ours, taken round by round: above 1 ours is the better."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.peers.sides import FIRST, PEAK, READY, Pair

BEST = "the best"
# Ratios to be reached (shared figures of the project's speed goals, which were set on two Zen 3 cores with AVX2).
GOALS: Mapping[tuple[str, int], Mapping[str, float]] = {
    ("guided step", 512): {"OpenVINO": 1.45, "diffusers": 1.7, "stable-diffusion.cpp": 2.3},
    ("guided step", 256): {BEST: 1.4},
    ("decode", 512): {BEST: 2.5},
    ("encode", 512): {BEST: 2.5},
}
MOST_READY, ABOVE_WEIGHTS = 4.0, 1.5 * 1e9 / 2**30  # seconds; GiB besides the weights
ORDER = ("picture", "guided step", "decode", "encode", "text", READY, FIRST, PEAK)


@dataclass(frozen=True)
class Measured:
    """A run, or several that were put together.

    pairs    every round                               flop     by "piece size"
    rate     FLOP/s of a large product                 weights  GiB of the single file
    failed   why a peer is not there, or not whole     off      how far each one's numbers are from ours
    same     what must not differ between runs that are put together     commands   that measured all this
    """

    pairs: Sequence[Pair]
    flop: Mapping[str, float]
    rate: float
    weights: float
    failed: Mapping[str, str] = field(default_factory=dict)
    off: Mapping[str, float] = field(default_factory=dict)
    same: Mapping[str, object] = field(default_factory=dict)
    commands: Sequence[str] = ()

    def after(self, before: "Measured") -> "Measured":
        """This run, and of the one before it what this one did not measure again."""
        again = {(pair.peer, pair.size, pair.piece) for pair in self.pairs}
        kept = [pair for pair in before.pairs if (pair.peer, pair.size, pair.piece) not in again]
        there = {pair.peer for pair in self.pairs}
        return replace(
            self,
            pairs=[*kept, *self.pairs],
            flop={**before.flop, **self.flop},
            rate=max(before.rate, self.rate),
            failed={peer: why for peer, why in before.failed.items() if peer not in there} | dict(self.failed),
            off={**before.off, **self.off},
            commands=[*before.commands, *self.commands],
        )

    def save(self, path: Path) -> None:
        """Write all of it, as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> "Measured":
        """What `save` wrote."""
        told = json.loads(path.read_text())
        return cls(**{**told, "pairs": [Pair(**pair) for pair in told["pairs"]]})


@dataclass(frozen=True)
class Ratio:
    """One piece at one size against one peer: medians of both, and the ratios' median, least and most."""

    peer: str
    ours: float
    theirs: float
    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.least:.2f} .. {self.most:.2f})"


def ratio(pairs: Sequence[Pair]) -> Ratio:
    """Of the rounds of one piece, size and peer."""
    ratios = [pair.theirs / pair.ours for pair in pairs]
    ours, theirs = (statistics.median(column) for column in zip(*((p.ours, p.theirs) for p in pairs), strict=True))
    return Ratio(pairs[0].peer, ours, theirs, statistics.median(ratios), min(ratios), max(ratios))


def ratios(pairs: Sequence[Pair]) -> dict[tuple[str, int], dict[str, Ratio]]:
    """By (piece, size) in the table's order, then by peer."""
    keys = sorted({(pair.piece, pair.size) for pair in pairs}, key=lambda key: (ORDER.index(key[0]), -key[1]))
    found: dict[tuple[str, int], dict[str, Ratio]] = {}
    for piece, size in keys:
        rows = [pair for pair in pairs if (pair.piece, pair.size) == (piece, size)]
        peers = dict.fromkeys(pair.peer for pair in rows)
        found[piece, size] = {peer: ratio([pair for pair in rows if pair.peer == peer]) for peer in peers}
    return found


def best(row: Mapping[str, Ratio]) -> Ratio:
    """Of the peer that does best against ours."""
    return min(row.values(), key=lambda one: one.middle)


def goal(key: tuple[str, int], row: Mapping[str, Ratio], weights: float) -> tuple[str, str]:
    """What is aimed at, and "yes" or "no"; empty where there is no goal, or nobody to hold against it."""
    piece, size = key
    if piece in (READY, PEAK):
        most = MOST_READY if piece == READY else weights + ABOVE_WEIGHTS
        where = "" if piece == READY else ", in the low-memory choice"
        return f"<= {most:.1f} {unit(piece)}{where}", "yes" if best(row).ours <= most else "no"
    wanted = GOALS.get((piece, size), {})
    said = ", ".join(f"{times:g} x {peer}" for peer, times in wanted.items())
    met = [
        (best(row) if peer == BEST else row[peer]).middle >= times
        for peer, times in wanted.items()
        if peer == BEST or peer in row
    ]
    return said, "" if not met else "yes" if all(met) else "no"


def unit(piece: str) -> str:
    """Of a row's figures."""
    return "GiB" if piece == PEAK else "s"


def tables(measured: Measured) -> str:
    """What is aimed at and what is reached; then every peer; then what went wrong."""
    rows = ratios(measured.pairs)
    lines = [
        "| piece | pixels | goal | ours | best peer | theirs | theirs / ours (min .. max) | met | floor, s | share |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (piece, size), row in rows.items():
        top, (aim, met) = best(row), goal((piece, size), row, measured.weights)
        work = measured.flop.get(f"{piece} {size}")
        floor = ("", "") if work is None else _floor(work / measured.rate, top.ours)
        figures = f"{top.ours:.3g} {unit(piece)} | {top.peer} | {top.theirs:.3g} {unit(piece)} | {top}"
        lines.append(f"| {piece} | {size} | {aim} | {figures} | {met} | {floor[0]} | {floor[1]} |")
    peers = list(dict.fromkeys(pair.peer for pair in measured.pairs))
    lines += ["", f"| theirs, and theirs / ours (min .. max) | {' | '.join(peers)} |", "|---|" + "---|" * len(peers)]
    for (piece, size), row in rows.items():
        cells = [f"{row[peer].theirs:.3g} {unit(piece)}, {row[peer]}" if peer in row else "" for peer in peers]
        lines.append(f"| {piece}, {size} | {' | '.join(cells)} |")
    notes = [f"- {peer} failed: {why}" for peer, why in measured.failed.items()]
    notes += [f"- {peer} is {value:.1e} (rms, relative) from our numbers." for peer, value in measured.off.items()]
    return "\n".join([*lines, "", *notes])


def _floor(floor: float, ours: float) -> tuple[str, str]:
    return f"{floor:.3g}", f"{100 * floor / ours:.0f} %"


def plot(measured: Measured, path: Path) -> None:
    """Bars of the ratios by piece and peer, with their ranges; a line where both are equal."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = ratios(measured.pairs)
    peers = list(dict.fromkeys(pair.peer for pair in measured.pairs))
    figure, axes = pyplot.subplots(figsize=(7.5, 0.8 + 0.5 * len(rows)), dpi=80)
    height = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        places = [(index, row[peer]) for index, row in enumerate(rows.values()) if peer in row]
        where, widths = [index + number * height for index, _ in places], [one.middle for _, one in places]
        spread = [[one.middle - one.least for _, one in places], [one.most - one.middle for _, one in places]]
        axes.barh(where, widths, height, xerr=spread, label=peer, error_kw={"lw": 0.8})
    axes.axvline(1.0, color="black", lw=0.8)
    axes.set_yticks([index + 0.4 - height / 2 for index in range(len(rows))], [f"{p}, {s}" for p, s in rows])
    axes.invert_yaxis()
    axes.set_xlabel("theirs / ours (above 1: ours takes less)")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, pil_kwargs={"optimize": True})
    pyplot.close(figure)
