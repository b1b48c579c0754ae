"""The table and what lies between: ends, inverses, and how training draws from it."""

import math
from itertools import pairwise

import pytest
import torch

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.diffusion.schedule import CLEAN, Level, NoiseSchedule, ScheduleConfig

CONFIGS = [
    ScheduleConfig(),
    ScheduleConfig(kind="linear", start=1e-4, end=0.02),
    ScheduleConfig(kind="cosine"),
    ScheduleConfig(zero_terminal=True),
    ScheduleConfig(kind="cosine", zero_terminal=True),
    ScheduleConfig(steps=37, start=0.01, end=0.2),
]
ids = [f"{c.kind}{c.steps}{'z' if c.zero_terminal else ''}" for c in CONFIGS]


@pytest.fixture(params=CONFIGS, ids=ids)
def schedule(request) -> NoiseSchedule:
    return NoiseSchedule(request.param)


def test_levels_fall_in_signal_and_keep_variance(schedule):
    levels = [schedule.at(t) for t in range(schedule.last + 1)]
    assert all(a.ratio < b.ratio and a.lam > b.lam for a, b in pairwise(levels))
    assert all(level.t == t for t, level in enumerate(levels))
    assert max(abs(level.alpha**2 + level.sigma**2 - 1) for level in levels) < 1e-14
    assert (levels[-1].alpha == 0) == schedule.config.zero_terminal


def test_at_is_the_table_at_whole_times():
    beta, signal = 0.00085**0.5, 1.0
    schedule = NoiseSchedule(ScheduleConfig())
    for t in range(1000):
        beta = 0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * t / 999
        signal *= 1 - beta**2
        assert schedule.at(t).alpha == pytest.approx(signal**0.5, abs=1e-14)
        assert schedule.at(float(t)) == schedule.at(t)
    assert schedule.at(999).ratio == pytest.approx(14.6146, abs=1e-4)  # the sigma_max that k-diffusion shows for SD
    assert schedule.at(0).ratio == pytest.approx(0.02917, abs=1e-5)


def test_between_entries_log_ratio_is_linear():
    schedule = NoiseSchedule(ScheduleConfig())
    low, high, level = schedule.at(20), schedule.at(21), schedule.at(20.25)
    assert math.log(level.ratio) == pytest.approx(0.75 * math.log(low.ratio) + 0.25 * math.log(high.ratio), abs=1e-13)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1, abs=1e-14)


def test_at_ratio_is_the_inverse(schedule):
    for i in range(400):
        t = schedule.last * i / 399
        level = schedule.at(t)
        again = schedule.at_ratio(level.ratio)
        assert again.t == pytest.approx(t, abs=1e-9)
        assert again.alpha == pytest.approx(level.alpha, abs=1e-13)
        assert again.sigma == pytest.approx(level.sigma, abs=1e-13)


def test_at_ratio_keeps_the_ratio_off_the_table(schedule):
    assert schedule.at_ratio(0.0) == CLEAN
    small = schedule.at(0).ratio / 3
    assert schedule.at_ratio(small).ratio == pytest.approx(small, rel=1e-14)
    assert schedule.at_ratio(small).t == 0
    assert schedule.at_ratio(math.inf) == Level(0.0, 1.0, float(schedule.last))
    if not schedule.config.zero_terminal:
        large = schedule.at(schedule.last).ratio * 3
        assert schedule.at_ratio(large).ratio == pytest.approx(large, rel=1e-14)
        assert schedule.at_ratio(large).t == schedule.last


def test_times_off_the_table_are_refused(schedule):
    for t in (-0.5, schedule.last + 0.5, math.nan):
        with pytest.raises(AssertionError):
            schedule.at(t)


def test_zero_terminal_keeps_its_beginning_and_loses_the_rest():
    plain, zero = NoiseSchedule(ScheduleConfig()), NoiseSchedule(ScheduleConfig(zero_terminal=True))
    assert zero.at(0).alpha == pytest.approx(plain.at(0).alpha, abs=1e-15)
    assert zero.at(999) == Level(0.0, 1.0, 999.0)
    first, last = plain.at(0).alpha, plain.at(999).alpha
    for t in (1, 500, 998):  # Lin et al. 2023, algorithm 1, in its own words: shift, then scale
        assert zero.at(t).alpha == pytest.approx((plain.at(t).alpha - last) * first / (first - last), abs=1e-14)
    assert zero.at(998.5).ratio == pytest.approx(2 * zero.at(998).ratio, rel=1e-14)


def test_cosine():
    schedule = NoiseSchedule(ScheduleConfig(kind="cosine"))

    def f(s: float) -> float:
        return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 1, 500, 990):
        assert schedule.at(t).alpha ** 2 == pytest.approx(f((t + 1) / 1000) / f(0), rel=1e-9)
    # the last beta would be 1; it is held at 0.999
    assert schedule.at(999).alpha ** 2 == pytest.approx(1e-3 * schedule.at(998).alpha ** 2, rel=1e-9)


def test_level_algebra():
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 5, 5, generator=generator, dtype=torch.float64)
    level = NoiseSchedule(ScheduleConfig()).at(700)
    x = level.mix(x0, eps)
    torch.testing.assert_close(x, level.alpha * x0 + level.sigma * eps)
    torch.testing.assert_close(level.eps(x, x0), eps, atol=1e-13, rtol=0)
    assert level.lam == pytest.approx(-math.log(level.ratio))
    assert CLEAN.lam == math.inf
    assert CLEAN.ratio == 0
    assert Level(0.0, 1.0, 999.0).lam == -math.inf


def test_draw_agrees_with_at():
    schedule = NoiseSchedule(ScheduleConfig(zero_terminal=True))
    level = schedule.draw(Noise(range(64)), step=3)
    for part in (level.alpha, level.sigma, level.t):
        assert part.shape == (64, 1, 1, 1)
        assert part.dtype == torch.float32
    for i, t in enumerate(level.t.flatten().tolist()):
        assert level.alpha[i].item() == torch.tensor(schedule.at(t).alpha).item()
        assert level.sigma[i].item() == torch.tensor(schedule.at(t).sigma).item()
    assert torch.isfinite(level.lam).sum() >= 62


def test_draw_is_uniform_with_a_share_above():
    schedule = NoiseSchedule(ScheduleConfig())
    noise = Noise([5] * 20_000, range(20_000))
    t = schedule.draw(noise).t.flatten()
    assert t.min() >= 0
    assert t.max() <= 999
    counts = torch.bincount((t / 100).long(), minlength=10).double()
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi squared, 9 degrees, one in a thousand
    biased = schedule.draw(noise, above=600, share=0.3).t.flatten()
    share = (biased >= 600).double().mean()
    assert abs(share - (0.3 + 0.7 * 0.4)) < 0.015
    assert ((biased < 600) | (biased <= 999)).all()
    assert (schedule.draw(noise, above=600, share=1.0).t >= 600).all()
    assert schedule.draw(noise, above=999, share=1.0).t.unique().tolist() == [999]


def test_draw_does_not_depend_on_the_batch():
    schedule = NoiseSchedule(ScheduleConfig())
    noise = Noise([5] * 9, range(9))
    whole, part = (
        schedule.draw(noise, step=7, above=600, share=0.3),
        schedule.draw(noise[4:6], step=7, above=600, share=0.3),
    )
    assert torch.equal(whole.t[4:6], part.t)
    assert not torch.equal(whole.t, schedule.draw(noise, step=8, above=600, share=0.3).t)


def test_prior():
    schedule = NoiseSchedule(ScheduleConfig())
    eps = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    level = schedule.at(999)
    torch.testing.assert_close(schedule.prior(level, eps), eps)
    torch.testing.assert_close(schedule.prior(level, eps, 0.0), level.sigma * eps)
    assert 0.997 < level.sigma < 0.998
    last = NoiseSchedule(ScheduleConfig(zero_terminal=True)).at(999)
    assert torch.equal(schedule.prior(last, eps), eps)
    assert torch.equal(schedule.prior(last, eps, 0.0), eps)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ScheduleConfig(kind="scaled_linaer"), 'Did you mean "scaled_linear"'),
        (ScheduleConfig(steps=1), "at least 2"),
        (ScheduleConfig(start=-0.1), "between 0 and 1"),
        (ScheduleConfig(end=1.5), "between 0 and 1"),
        (ScheduleConfig(start=0.02), "rise"),
        (ScheduleConfig(end=math.nan), "between 0 and 1"),
    ],
)
def test_bad_configs(config, words):
    with pytest.raises(UserError, match=words):
        NoiseSchedule(config)
