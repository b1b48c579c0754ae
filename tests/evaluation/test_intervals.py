"""Intervals hold what they promise: the truth lies within 95 of 100 of them, within what the trials can tell."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from aquatint.evaluation import intervals
from aquatint.evaluation.intervals import (
    BLOCKS,
    T95,
    Estimate,
    median,
    of_frechet,
    of_frechet_change,
    of_kernel,
    of_kernel_change,
    of_mean,
    of_mean_change,
    of_share,
    of_statistic,
    resamples,
)
from aquatint.evaluation.metrics import frechet, kernel, wilson


def cloud(seed: int, n: int, d: int, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, scale, (n, d)))


def covered(estimates: list[Estimate], truth: float) -> float:
    return sum(found.low <= truth <= found.high for found in estimates) / len(estimates)


def test_students_quantile_is_scipys():
    assert pytest.approx(scipy.stats.t.ppf(0.975, BLOCKS - 1), rel=1e-9) == T95


def test_means_are_covered_and_equal_scipys_bootstrap():
    assert 0.9 <= covered([of_mean(cloud(i, 60, 1)[:, 0]) for i in range(150)], 0.0) <= 0.99
    values = np.random.default_rng(0).exponential(size=80)
    found = of_mean(torch.from_numpy(values))
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=1)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval, abs=0.03)
    assert found == of_mean(torch.from_numpy(values))
    assert found != of_mean(torch.from_numpy(values), seed=1)


def test_quotients_of_medians_are_covered():
    found = [of_statistic(median, (cloud(i, 60, 1, 4.0)[:, 0], cloud(999 + i, 50, 1, 2.0)[:, 0])) for i in range(100)]
    assert 0.88 <= covered(found, 2.0) <= 1.0
    assert math.isnan(of_mean(torch.ones(1)).low)


def test_frechet_intervals_cover_what_the_distance_is_at_this_number():
    pairs = [(cloud(2 * i, 60, 4), cloud(2 * i + 1, 60, 4, 0.4, 1.2)) for i in range(60)]
    expected = float(
        np.mean([frechet(cloud(10**6 + i, 60, 4), cloud(2 * 10**6 + i, 60, 4, 0.4, 1.2)) for i in range(800)])
    )
    found = [of_frechet(a, b) for a, b in pairs]
    assert 0.87 <= covered(found, expected) <= 1.0
    assert found[0].value == frechet(*pairs[0])
    same = of_frechet(pairs[0][0], pairs[0][0])
    assert same.value == pytest.approx(0.0, abs=1e-9)
    assert same.low == 0.0
    assert math.isnan(of_frechet(pairs[0][0][:3], pairs[0][1]).low)


def test_fewer_pictures_than_dimensions_halves_err_on_the_safe_side_and_a_bootstrap_errs():
    decay = torch.linspace(1.0, 0.05, 160)
    pairs = [(cloud(2 * i, 84, 160) * decay, cloud(2 * i + 1, 84, 160, 0.05, 1.1) * decay) for i in range(60)]
    fresh = torch.tensor([frechet(a, b) for a, b in pairs])
    (a, b), rng = pairs[0], np.random.default_rng(0)
    drawn = torch.tensor([frechet(*(x[rng.integers(0, 84, 84)] for x in (a, b))) for _ in range(60)])
    assert drawn.mean() > 1.3 * fresh.mean()
    assert drawn.std() > 2.0 * fresh.std()
    found = of_frechet(a, b)
    assert 1.0 < (found.high - found.value) / (1.96 * fresh.std()) < 2.0


def test_pairs_are_halved_together():
    true = cloud(0, 60, 6)
    again = true + 0.05 * cloud(1, 60, 6)
    paired, apart = of_frechet(again, true, paired=True), of_frechet(again, true)
    assert paired.value == apart.value
    assert (paired.high - paired.low) < 0.2 * (apart.high - apart.low)


def test_kernel_intervals_cover_nought_for_one_distribution():
    found = [of_kernel(cloud(2 * i, 60, 4), cloud(2 * i + 1, 60, 4)) for i in range(150)]
    assert 0.9 <= covered(found, 0.0) <= 0.99
    assert abs(float(np.mean([one.value for one in found]))) < 0.03
    apart = of_kernel(cloud(0, 100, 4), cloud(1, 100, 4, 1.0))
    assert apart.low > 0
    few = cloud(0, 19, 4), cloud(1, 40, 4)
    assert of_kernel(*few).value == kernel(*few)
    assert math.isnan(of_kernel(*few).low)


def test_changes_are_seen_sooner_in_pairs():
    before = cloud(0, 80, 1)[:, 0]
    after = before + 0.1 + 0.05 * cloud(1, 80, 1)[:, 0]
    change = of_mean_change(before, after)
    assert 0 < change.low < 0.1 < change.high
    alone = of_mean(after).value - of_mean(before).high
    assert alone < 0  # side by side the intervals overlap


def test_changes_of_distances_are_0_for_the_same_pictures_and_signed_otherwise():
    references, before = cloud(0, 80, 6), cloud(1, 80, 6, 0.5)
    near, far = before - 0.2, before + 0.3
    for change in (of_frechet_change, of_kernel_change):
        assert change(before, before, references)[:3] == (0.0, 0.0, 0.0)
        assert change(before, near, references).high < 0
        assert change(before, far, references).low > 0
    assert of_frechet_change(before, far, references).value == frechet(far, references) - frechet(before, references)


def test_resamples_are_keyed_bounded_and_even(monkeypatch):
    whole = torch.cat(resamples(7, 500, 3))
    assert whole.shape == (500, 7)
    counts = torch.bincount(whole.flatten(), minlength=7)
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 0.001
    monkeypatch.setattr(intervals, "RESAMPLES", 10)
    assert of_share(wilson(8, 10)).how == "wilson"
    assert of_mean(torch.arange(5.0)).value == 2.0
