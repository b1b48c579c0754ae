"""The measures against closed forms and slow, separate arithmetic."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from aquatint.evaluation.metrics import (
    clip_scores,
    frechet,
    kernel,
    nearest,
    psnr,
    r_precision,
    ssim,
    wilson,
)


def pictures(seed: int, n: int = 2, side: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_gives_the_published_bounds(hits, n, low, high):
    share = wilson(hits, n)
    assert share.value == hits / n
    assert (share.low, share.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_nothing_knows_nothing():
    share = wilson(0, 0)
    assert math.isnan(share.value)
    assert (share.low, share.high) == (0.0, 1.0)


def test_psnr_of_a_constant_difference():
    a = np.full((2, 8, 8, 3), 100, np.uint8)
    b = a.copy()
    b[0] += 5
    assert psnr(a, b).tolist() == pytest.approx([20 * math.log10(255 / 5), math.inf])


def test_ssim_equals_the_definition_summed_by_hand():
    a, b = pictures(1), pictures(2)
    b[1] = (a[1] * 0.8 + 20).astype(np.uint8)
    window = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(window, window) / window.sum() ** 2
    wanted = []
    for x, y in zip(a.astype(float), b.astype(float), strict=True):
        values = []
        for row in range(24 - 10):
            for column in range(24 - 10):
                for channel in range(3):
                    p = x[row : row + 11, column : column + 11, channel]
                    q = y[row : row + 11, column : column + 11, channel]
                    mp, mq = (window * p).sum(), (window * q).sum()
                    vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                    cov = (window * (p - mp) * (q - mq)).sum()
                    c1, c2 = 2.55**2, 7.65**2
                    values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
        wanted.append(np.mean(values))
    assert ssim(a, b).tolist() == pytest.approx(wanted, abs=1e-10)
    assert ssim(a, a).tolist() == pytest.approx([1.0, 1.0])


def test_frechet_of_gaussians_has_its_closed_form():
    generator = torch.Generator().manual_seed(0)
    cloud = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    cloud = cloud - cloud.mean(0)
    cloud = cloud @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(cloud.T))).T  # covariance exactly one
    scales, shift = torch.tensor([1.0, 2.0, 3.0, 0.5, 0.0, 1.5], dtype=torch.float64), torch.arange(6.0).double()
    wanted = float(shift.square().sum() + (1 - scales).square().sum())
    assert frechet(cloud.float(), (cloud * scales + shift).float()) == pytest.approx(wanted, rel=1e-4)
    assert frechet(cloud.float(), cloud.float()) == pytest.approx(0.0, abs=1e-6)


def test_frechet_equals_the_matrix_root_of_skewed_covariances():
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(300, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    b = torch.randn(300, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 1.0
    product = torch.cov(a.double().T) @ torch.cov(b.double().T)
    root = torch.linalg.eigvals(product).sqrt().sum().real
    mean = (a.double().mean(0) - b.double().mean(0)).square().sum()
    wanted = mean + torch.cov(a.double().T).trace() + torch.cov(b.double().T).trace() - 2 * root
    assert frechet(a, b) == pytest.approx(float(wanted), rel=1e-9)


def cloud(seed: int, n: int, d: int, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, scale, (n, d)))


@pytest.mark.parametrize(("n", "m"), [(20, 30), (40, 12), (200, 300)])
def test_frechet_equals_scipys_matrix_root_for_few_and_many_pictures(n, m):
    a, b = cloud(0, n, 40).numpy(), cloud(1, m, 40, 0.3, 1.4).numpy()
    covariances = np.cov(a.T), np.cov(b.T)
    if min(n, m) > 40:
        root = np.trace(scipy.linalg.sqrtm(covariances[0] @ covariances[1])).real
    else:  # the product has no root that can be found so: its eigenvalues have
        root = np.sqrt(np.clip(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0, None)).sum()
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root
    assert frechet(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(wanted, rel=1e-4)


def test_kernel_distance_equals_the_sums_by_hand():
    a, b = cloud(0, 5, 3), cloud(1, 7, 3, 0.5)

    def k(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    wanted = (
        sum(k(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
        + sum(k(b[i], b[j]) for i in range(7) for j in range(7) if i != j) / 42
        - 2 * sum(k(x, y) for x in a for y in b) / 35
    )
    assert kernel(a, b) == pytest.approx(wanted, rel=1e-12)


def test_kernel_distance_has_no_bias_and_frechet_has():
    pairs = [(cloud(2 * i, 12, 4), cloud(2 * i + 1, 12, 4)) for i in range(2000)]
    values = torch.tensor([kernel(a, b) for a, b in pairs])
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean())) < 3 * error
    assert error < 0.02
    assert np.mean([frechet(a, b) for a, b in pairs[:100]]) > 0.5
    a, b = cloud(7, 300, 4), cloud(8, 300, 4, 1.0)
    # E k over normals in closed form: x.y of d = 4 has the moments (0, 4, 0) about one mean, shifted ones by hand
    assert kernel(a, b) == pytest.approx(moments(1.0, 1.0) + moments(0.0, 0.0) - 2 * moments(0.0, 1.0), abs=0.7)


def moments(p: float, q: float, d: int = 4) -> float:
    """E (x.y / d + 1)^3 for x ~ N(p, 1), y ~ N(q, 1) in each of d dimensions, from the moments of one product xy."""
    one = p * q
    two = (1 + p * p) * (1 + q * q)
    three = (p**3 + 3 * p) * (q**3 + 3 * q)
    m1 = d * one
    m2 = d * two + d * (d - 1) * one**2
    m3 = d * three + 3 * d * (d - 1) * two * one + d * (d - 1) * (d - 2) * one**3
    return m3 / d**3 + 3 * m2 / d**2 + 3 * m1 / d + 1


def test_clip_score_is_a_scaled_cosine_without_negatives():
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    pictures = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [0.0, 0.5]])
    assert clip_scores(texts, pictures).tolist() == pytest.approx([2.5, 0.0, 2.0])


def test_r_precision_of_known_orders():
    axes = torch.eye(5)
    words = ["a", "b", "c", "d", "a"]
    exact = r_precision(axes, axes + 0.01, words)
    assert (exact.first.tolist(), exact.candidates) == ([True] * 5, 4)  # the second "a" is no rival of the first
    rolled = r_precision(axes, axes.roll(1, 0), words)
    assert not rolled.first.any()
    assert not r_precision(torch.ones(3, 2), torch.ones(3, 2), ["a", "b", "c"]).first.any()  # draws


def test_r_precision_of_strangers_is_chance():
    texts, pictures = cloud(0, 400, 16), cloud(1, 400, 16)
    found = r_precision(texts, pictures, [str(index) for index in range(400)], candidates=10)
    assert found.candidates == 10
    assert 0.05 < float(found.first.double().mean()) < 0.15  # 0.1 -+ 3.3 standard errors
    assert torch.equal(found.first, r_precision(texts, pictures, [str(i) for i in range(400)], candidates=10).first)


def test_nearest_references_are_those_that_a_loop_finds():
    a, b = cloud(0, 30, 5), cloud(1, 40, 5)
    found = nearest(a, b)
    for i, x in enumerate(a):
        distances = [float((x - y).norm()) for y in b]
        assert int(found.which[i]) == int(np.argmin(distances))
        assert float(found.distance[i]) == pytest.approx(min(distances), rel=1e-5)
