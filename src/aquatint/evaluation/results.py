"""What an evaluation found: figures with their intervals, and what they are of; a table, and a file to compare."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from aquatint.base import config, files
from aquatint.base.errors import UserError
from aquatint.evaluation.intervals import Estimate
from aquatint.evaluation.painted import Settings
from aquatint.evaluation.runs import Table
from aquatint.evaluation.sets import Facts

RESULTS, FEATURES = "results.json", "features.safetensors"
VERSION = 1
LARGEST, LARGEST_FEATURES = 256 * 2**20, 8 * 2**30


@dataclass(frozen=True)
class Figure:
    """One figure. value, low, high: None where there is none; n: pictures that it is of; how: the interval's kind."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    how: str


@dataclass(frozen=True)
class Looked:
    """A feature space that was measured in, and the sha256 of what looked."""

    name: str
    digest: str


@dataclass(frozen=True)
class Results:
    """An evaluation.

    values   of each painted picture, by its number: what figures are means of; behind "/true", of each reference
    scores   the detector's table, with its controls
    notes    what was not measured, and why
    seconds  what painting and measuring took
    prompts, categories   of each picture;  wrong: the facts that it lacks ("number, position"), where a detector looked
    """

    version: int
    aquatint: str
    settings: Settings
    spaces: tuple[Looked, ...]
    references: Facts | None
    training: Facts | None
    figures: tuple[Figure, ...]
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    scores: Table | None = None
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    def figure(self, name: str) -> Figure | None:
        """The figure of that name, if there is one."""
        return next((one for one in self.figures if one.name == name), None)

    def markdown(self) -> str:
        """The figures as a table."""
        return table(((word_of(one.name), said(one), str(one.n), one.how) for one in self.figures), _HEAD)


def figure(name: str, found: Estimate, n: int) -> Figure:
    """An estimate as a figure."""
    value, low, high = (number if math.isfinite(number) else None for number in found[:3])
    return Figure(name, value, low, high, n, found.how)


def keep(folder: Path, results: Results, features: Mapping[str, Tensor]) -> None:
    """Write the results, and the features that comparisons resample."""
    files.write(folder / FEATURES, save({name: rows.contiguous() for name, rows in features.items()}))
    files.write(folder / RESULTS, config.to_json(results, indent=1))


def read(folder: Path) -> Results:
    """The results of a run's folder; UserError for what is none, or from another version."""
    path = folder / RESULTS
    try:
        data = config.parse(files.read_text(path, limit=LARGEST), most=50_000_000)
        version = data.get("version") if isinstance(data, dict) else None
        if version != VERSION:
            raise UserError(f"its version is {str(version)[:40]}.", f"Version {VERSION}.")
        return config.from_data(Results, data)
    except UserError as error:
        raise UserError(
            f'"{folder}" holds no results that can be read: {error.got}',
            error.takes or "A folder of aquatint evaluate.",
            "Evaluate into it again: painted pictures are kept.",
        ) from None


def features_of(folder: Path) -> dict[str, Tensor]:
    """The features of a run's folder: "painted/<space>" and "references/<space>"."""
    path = folder / FEATURES
    try:
        return load(files.read(path, limit=LARGEST_FEATURES))
    except SafetensorError as error:
        raise UserError(f'"{path}" is damaged: {str(error)[:80]}.', "What aquatint evaluate wrote.") from None


class Meaning(NamedTuple):
    """What a figure is called, whether more of it is better (1), less (-1) or neither (0), and what it tells."""

    words: str
    better: int
    about: str


def meaning(name: str) -> Meaning:
    """What a figure means; those of one kind differ by what stands in place of X."""
    if name in MEANINGS:
        return MEANINGS[name]
    for pattern, found in MEANINGS.items():
        start, star, end = pattern.partition("*")
        inner = name.removeprefix(start).removesuffix(end)
        if star and f"{start}{inner}{end}" == name and inner:
            return found._replace(words=found.words.replace("*", inner))
    return Meaning(name, 0, "")


def word_of(name: str) -> str:
    """What a figure is called in tables."""
    return meaning(name).words


def said(one: Figure) -> str:
    """ "91.7 % (84.1 - 95.9)", "0.0123 (0.0100 - 0.0146)"; shares are in per cent."""
    share = one.name.startswith(SHARES)
    if one.value is None:
        return "none"
    if one.low is None or one.high is None:
        return number(one.value, share) + (" %" if share else "")
    bounds = f"{number(one.low, share)} to {number(one.high, share)}"
    return f"{number(one.value, share)}{' %' if share else ''} ({bounds})"


def number(value: float, share: bool = False) -> str:
    """A number with three digits that count; a share in per cent."""
    if share:
        return f"{100 * value:.1f}"
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-6:
        return f"{value:.2e}"
    places = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 1 else 4
    return f"{value:.{places}f}"


def table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...]) -> str:
    """Rows in columns of even width, that Markdown takes for a table too."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *shown[1:]])


_HEAD = ("figure", "value (95 % interval)", "n", "interval by")
SHARES = ("right", "fact/", "r_precision", "copies_")
MEANINGS = {
    "right": Meaning("all of the prompt is there", 1, "Pictures in which the detector finds all that the prompt says."),
    "right/*": Meaning("all is there: *", 1, "The same, of one category of prompts."),
    "fact/*": Meaning("* is right", 1, "Pictures that are right in this, of those whose prompt says something of it."),
    "clip_score": Meaning("CLIP score", 1, "2.5 max(cosine, 0) of picture and prompt in CLIP's space."),
    "clip_score_wrong": Meaning("CLIP score, wrong captions", 0, "The same against another prompt: the floor."),
    "clip_score_references": Meaning("CLIP score, references", 0, "The same of the reference pictures and theirs."),
    "r_precision": Meaning("R-precision", 1, "Pictures that are nearer to their own prompt than to up to 99 others."),
    "fid": Meaning("FID", -1, "Fréchet distance to the references in the Inception of 2015; biased upwards for few."),
    "kid": Meaning("KID", -1, "Kernel distance to the references in the Inception of 2015; unbiased."),
    "fid_floor": Meaning("FID, true renders", 0, "Of the prompts' own renders: what a perfect painter would have."),
    "kid_floor": Meaning("KID, true renders", 0, "Of the prompts' own renders: what a perfect painter would have."),
    "fd_*_floor": Meaning(
        "Fréchet distance, *, true renders", 0, "Of the prompts' own renders: what a perfect painter would have."
    ),
    "kd_*_floor": Meaning(
        "kernel distance, *, true renders", 0, "Of the prompts' own renders: what a perfect painter would have."
    ),
    "fd_*": Meaning("Fréchet distance, *", -1, "To the references; biased upwards for few pictures."),
    "kd_*": Meaning("kernel distance, *", -1, "To the references; unbiased, 0 in the mean for true pictures."),
    "psnr": Meaning("autoencoder: PSNR, dB", 1, "Of true pictures and their reconstructions."),
    "ssim": Meaning("autoencoder: SSIM", 1, "Of true pictures and their reconstructions."),
    "rfd_*": Meaning("autoencoder: Fréchet distance, *", -1, "Between true pictures and their reconstructions (rFD)."),
    "rfid": Meaning("autoencoder: rFID", -1, "FID between true pictures and their reconstructions."),
    "nearest_*": Meaning(
        "nearest training picture, *",
        0,
        "Its distance in the median, over the same of true pictures that are not in training: 1 for no copying.",
    ),
    "copies_*": Meaning(
        "nearer to training than any true one, *",
        -1,
        "Pictures nearer to a training picture than the nearest of m true ones: 1 / (m + 1) for no copying.",
    ),
}
