"""Measures of pictures against pictures and texts: PSNR, SSIM, Fréchet and kernel distances, CLIP score, R-precision,
nearest neighbours; and intervals of shares."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from aquatint.base.noise import RESAMPLE, Noise

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


class Share(NamedTuple):
    """hits of n, with the bounds of Wilson's 95 % interval, all as fractions."""

    value: float
    low: float
    high: float


def wilson(hits: int, n: int) -> Share:
    """(p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n) (Wilson 1927); n = 0 gives (nan, 0, 1)."""
    if n == 0:
        return Share(math.nan, 0.0, 1.0)
    p, z2 = hits / n, Z95**2
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = ((p + z2 / (2 * n) + side * half) / (1 + z2 / n) for side in (-1, 1))
    return Share(p, max(0.0, min(low, p)), min(1.0, max(high, p)))  # rounding puts a bound of 0 or 1 beside p


def psnr(a: UInt8[np.ndarray, "n h w 3"], b: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, " n"]:
    """10 log10(255^2 / mean squared difference) a pair, in dB, float64; inf for equal pictures."""
    error = (torch.from_numpy(a).double() - torch.from_numpy(b).double()).square().mean((1, 2, 3))
    return 10.0 * torch.log10(255.0**2 / error)


def ssim(a: UInt8[np.ndarray, "n h w 3"], b: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, " n"]:
    """Mean structural similarity a pair (Wang et al. 2004, eq. 13): Gaussian window 11 x 11 with sigma 1.5, full
    windows only, K1 = 0.01, K2 = 0.03, population moments, mean over the three channels; float64."""
    x, y = (torch.from_numpy(p).double().permute(0, 3, 1, 2).flatten(0, 1)[:, None] for p in (a, b))
    line = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5.0) ** 2) / (2 * 1.5**2))
    line = line / line.sum()

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, line[None, None, :, None]), line[None, None, None, :])

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    index = ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return index.mean((1, 2, 3)).unflatten(0, (len(a), 3)).mean(1)


def frechet(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)) of two clouds of features (Dowson & Landau 1982), in float64.

    The trace of the root is the sum of the roots of the eigenvalues of A^(1/2) B A^(1/2), which is symmetric: no
    complex numbers, no matrix iteration. Of fewer pictures than dimensions it is the sum of the singular values of
    X Y^T / sqrt((n - 1) (m - 1)), X and Y the clouds about their means, which is smaller. It is named after its feature
    space (`fd_detector`), never FID; it is biased upwards for few pictures, so compare only equal numbers of them.
    """
    a, b = a.double(), b.double()
    x, y = a - a.mean(0), b - b.mean(0)
    over = math.sqrt((len(a) - 1) * (len(b) - 1))
    if max(len(a), len(b)) < a.shape[1]:
        cross = torch.linalg.svdvals(x @ y.T).sum() / over
    else:
        values, vectors = torch.linalg.eigh(x.T @ x)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        cross = torch.linalg.eigvalsh(root @ (y.T @ y) @ root).clamp(min=0).sqrt().sum() / over
    spread = x.square().sum() / (len(a) - 1) + y.square().sum() / (len(b) - 1)
    return float((a.mean(0) - b.mean(0)).square().sum() + spread - 2.0 * cross)


def kernel(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """The squared maximum mean discrepancy of two clouds under k(x, y) = (x.y / d + 1)^3, unbiased, float64.

    mean of k(a_i, a_j) over i != j + the same of b - 2 mean of k(a_i, b_j) (Binkowski et al. 2018, section 2.1 and 4):
    what KID is in Inception's features. It may be negative, and is 0 in the mean for clouds of one distribution.
    """
    a, b = a.double(), b.double()

    def cubed(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1.0) ** 3

    def within(x: Tensor) -> Tensor:
        k = cubed(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2.0 * cubed(a, b).mean())


def clip_scores(texts: Float[Tensor, "n d"], pictures: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """2.5 max(cosine, 0) of each text and its picture in CLIP's space (Hessel et al. 2021, equation 1), float64."""
    return 2.5 * F.cosine_similarity(texts.double(), pictures.double()).clamp(min=0.0)


class Ranked(NamedTuple):
    """Whether each picture's own text came first, and of how many texts: chance is 1 / candidates."""

    first: Bool[Tensor, " n"]
    candidates: int


def r_precision(
    texts: Float[Tensor, "n d"], pictures: Float[Tensor, "n d"], words: Sequence[str], candidates: int = 100
) -> Ranked:
    """Whether each picture is nearer, by cosine, to its own text than to candidates - 1 others drawn from the set.

    R-precision with R = 1 (Xu et al. 2018, AttnGAN; CLIP's features as in Park et al. 2021). The others are texts that
    say something else, each once, chosen by the picture's number; a set with fewer takes all. A draw is not the first.
    """
    similar = F.normalize(pictures.double()) @ F.normalize(texts.double()).T
    different = {word: index for index, word in reversed([*enumerate(words)])}  # each word's first place
    places = torch.tensor(sorted(different.values()))
    others = min(candidates, len(places)) - 1
    first = torch.zeros(len(words), dtype=torch.bool)
    for index, word in enumerate(words):
        wrong = places[places != different[word]]
        order = Noise([0], [index]).uniform((len(wrong),), draw=RESAMPLE)[0].argsort()
        rivals = similar[index, wrong[order[:others]]]
        first[index] = bool((rivals < similar[index, index]).all())
    return Ranked(first, others + 1)


class Nearest(NamedTuple):
    """For each picture the distance to its nearest reference, and which it is."""

    distance: Float[Tensor, " n"]
    which: Int[Tensor, " n"]


def nearest(features: Float[Tensor, "n d"], references: Float[Tensor, "m d"]) -> Nearest:
    """Nearest references by the Euclidean distance of their features."""
    parts = [torch.cdist(part.double(), references.double()).min(1) for part in features.split(256)]
    return Nearest(torch.cat([best.values for best in parts]).float(), torch.cat([best.indices for best in parts]))


def thumbnails(pictures: UInt8[np.ndarray, "n h w 3"], side: int) -> Float[Tensor, "n 3 s s"]:
    """Pictures averaged down to side x side, 0 ... 255, float32."""
    return F.adaptive_avg_pool2d(torch.from_numpy(pictures).permute(0, 3, 1, 2).float(), side)
