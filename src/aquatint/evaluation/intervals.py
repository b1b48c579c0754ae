"""How far figures can be trusted: 95 % intervals by resampling, by halves and by blocks, all from keyed numbers.

An interval tells how the figure would vary with other pictures of the same painter, at this number of pictures. What
the number itself does to it (the Fréchet distance falls as pictures are added) no interval tells.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aquatint.base.noise import RESAMPLE, Noise
from aquatint.evaluation.metrics import Z95, Share, frechet, kernel

RESAMPLES = 2_000  # of means and medians
HALVES = 100  # of distances; a quarter of that in spaces wider than WIDE
WIDE = 512
BLOCKS = 10
T95 = 2.2621571628540993  # 97.5 % quantile of Student's t with BLOCKS - 1 degrees of freedom
Statistic = Callable[[Tensor], Tensor]  # [r, n] -> [r]


class Estimate(NamedTuple):
    """A figure with the bounds of its 95 % interval (nan where too few pictures tell none), and how they were found."""

    value: float
    low: float
    high: float
    how: str


def of_share(share: Share) -> Estimate:
    """A share with Wilson's interval."""
    return Estimate(*share, "wilson")


def of_mean(values: Float[Tensor, " n"], seed: int = 0) -> Estimate:
    """The mean, by the percentiles of its bootstrap."""
    return of_statistic(_mean, (values,), seed)


def of_statistic(statistic: Statistic, groups: tuple[Float[Tensor, " _"], ...], seed: int = 0) -> Estimate:
    """A statistic of one group, or the quotient of that of the first by that of the second, each drawn anew by itself.

    Percentiles of the bootstrap (Efron 1979), RESAMPLES of them.
    """
    values = [statistic(group[None].double()) for group in groups]
    drawn = [
        torch.cat([statistic(group.double()[rows]) for rows in resamples(len(group), RESAMPLES, seed + number)])
        for number, group in enumerate(groups)
    ]
    value, spread = (parts[0] if len(parts) == 1 else parts[0] / parts[1] for parts in (values, drawn))
    if min(map(len, groups)) < 2:
        return Estimate(float(value), math.nan, math.nan, "none")
    return Estimate(float(value), *_percentiles(spread), "bootstrap")


def median(values: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
    """The lower median of each row."""
    return values.median(dim=1).values


def of_frechet(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], seed: int = 0, *, paired: bool = False) -> Estimate:
    """The Fréchet distance, -+ 1.96 standard deviations of it among half-samples of both clouds, not below 0.

    Halves are drawn without repetition (the delete-d jackknife of Shao and Wu 1989, whose variance is that of the
    whole when d is half). A bootstrap repeats pictures, which makes clouds look poorer: its distances lie far too high
    where pictures are fewer than dimensions, and vary more than twice as much as fresh pictures' do. The halves' vary
    less than twice as much: too wide there, never too narrow (both in tests/evaluation/test_intervals.py).
    `paired`: row i of both belongs together (a picture and its reconstruction), and halves take the same rows.
    """
    value = frechet(a, b)
    if min(len(a), len(b)) < 4:
        return Estimate(value, math.nan, math.nan, "none")
    rows = zip(_halves(len(a), a, seed), _halves(len(b), a, seed if paired else seed + 1), strict=True)
    halves = [frechet(a[i], b[j]) for i, j in rows]
    reach = Z95 * float(torch.tensor(halves, dtype=torch.float64).std())
    return Estimate(value, max(0.0, value - reach), value + reach, "halves")


def of_kernel(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Estimate:
    """The kernel distance: the mean over BLOCKS blocks of both clouds, -+ t standard errors of it.

    The blocks have no picture in common, so that they are independent and the error is what it says.
    """
    values = kernel_blocks(a, b)
    if len(values) < BLOCKS:
        return Estimate(kernel(a, b) if min(len(a), len(b)) > 1 else math.nan, math.nan, math.nan, "none")
    value, reach = float(values.mean()), T95 * float(values.std()) / math.sqrt(BLOCKS)
    return Estimate(value, value - reach, value + reach, "blocks")


def kernel_blocks(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, " k"]:
    """The kernel distance of each block: every tenth picture, from the first, the second ...; none of too few."""
    if min(len(a), len(b)) < 2 * BLOCKS:
        return torch.zeros(0, dtype=torch.float64)
    parts = [kernel(a[k::BLOCKS], b[k::BLOCKS]) for k in range(BLOCKS)]
    return torch.tensor(parts, dtype=torch.float64)


def of_mean_change(before: Float[Tensor, " n"], after: Float[Tensor, " n"], seed: int = 0) -> Estimate:
    """after - before in the mean, where picture i of both answers to one prompt and seed: the pairs are resampled."""
    return of_mean(after.double() - before.double(), seed)


def of_frechet_change(
    before: Float[Tensor, "n d"], after: Float[Tensor, "n d"], references: Float[Tensor, "m d"], seed: int = 0
) -> Estimate:
    """How the Fréchet distance to the same references changes, by half-samples that take the same pictures of both."""
    value = frechet(after, references) - frechet(before, references)
    if min(len(before), len(references)) < 4:
        return Estimate(value, math.nan, math.nan, "none")
    rows = zip(_halves(len(before), before, seed), _halves(len(references), before, seed + 1), strict=True)
    halves = [frechet(after[i], references[j]) - frechet(before[i], references[j]) for i, j in rows]
    reach = Z95 * float(torch.tensor(halves, dtype=torch.float64).std())
    return Estimate(value, value - reach, value + reach, "paired halves")


def of_kernel_change(
    before: Float[Tensor, "n d"], after: Float[Tensor, "n d"], references: Float[Tensor, "m d"]
) -> Estimate:
    """How the kernel distance to the same references changes, block by block."""
    values = kernel_blocks(after, references) - kernel_blocks(before, references)
    if len(values) < BLOCKS:
        value = kernel(after, references) - kernel(before, references) if len(after) > 1 else math.nan
        return Estimate(value, math.nan, math.nan, "none")
    value, reach = float(values.mean()), T95 * float(values.std()) / math.sqrt(BLOCKS)
    return Estimate(value, value - reach, value + reach, "paired blocks")


def resamples(n: int, count: int, seed: int) -> list[Int[Tensor, "r n"]]:
    """`count` times n numbers from 0 to n - 1, each as likely, in pieces of bounded size."""
    size = max(1, 2_000_000 // max(n, 1))
    starts = range(0, count, size)
    return [
        Noise([seed] * len(rows), rows).integers((n,), n, draw=RESAMPLE)
        for rows in (range(start, min(start + size, count)) for start in starts)
    ]


def _halves(n: int, features: Float[Tensor, "_ d"], seed: int) -> list[Int[Tensor, " half"]]:
    count = HALVES if features.shape[1] <= WIDE else HALVES // 4
    order = Noise([seed] * count, range(count)).uniform((n,), draw=RESAMPLE).argsort(dim=1)
    return [*order[:, : n // 2]]


def _mean(values: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
    return values.mean(dim=1)


def _percentiles(values: Float[Tensor, " r"]) -> tuple[float, float]:
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high
