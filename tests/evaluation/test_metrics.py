"""The measures against closed forms and slow, separate arithmetic."""

import math

import numpy as np
import pytest
import torch

from aquatint.evaluation.metrics import frechet, nearest, psnr, ssim, wilson


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


def test_nearest_finds_the_copy_and_measures_the_rest():
    references = pictures(4, n=20, side=64)
    asked = references[[7, 3]].copy()
    asked[1] = np.clip(asked[1].astype(int) + 10, 0, 255)
    found = nearest(asked, references)
    assert found.which.tolist() == [7, 3]
    assert float(found.distance[0]) == pytest.approx(0.0, abs=0.05)
    assert 8 < float(found.distance[1]) <= 10
