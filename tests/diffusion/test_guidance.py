"""Guidance beyond a scale: each wrapper against its formula in float64, and nothing at all at neutral strength."""

import math

import pytest
import torch
from torch import Tensor

from aquatint.base.noise import Noise
from aquatint.diffusion.denoisers import (
    Answers,
    Conditioning,
    Guide,
    alike,
    guided,
    judged,
    paired,
    predictor,
    rescaled,
    scaled,
    twice,
)
from aquatint.diffusion.guidance import (
    across,
    blur,
    blurred,
    interval,
    mimicked,
    once,
    perpendicular,
    projected,
    running,
    thresholded,
    weakened,
)
from aquatint.diffusion.joined import composed, severally
from aquatint.diffusion.prediction import PREDICTIONS, Prediction
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import CLEAN, Level, NoiseSchedule, ScheduleConfig

SCHEDULE = NoiseSchedule(ScheduleConfig())
LEVELS = [*(SCHEDULE.at(t) for t in (950.0, 700.0, 400.0, 150.0, 20.0)), CLEAN]
KINDS = pytest.mark.parametrize("kind", PREDICTIONS.values(), ids=list(PREDICTIONS))


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = random(2, 4, 8, 8, seed=0)
TOWARD, AWAY, EMPTY = (Conditioning(random(2, 7, 16, seed=seed)) for seed in (1, 2, 3))


class Net:
    """Each row's answer follows from that row alone; counts its rows."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.rows = factor, 0

    def __call__(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
        self.rows += len(x)
        told = context.mean(1)[:, :4, None, None] * torch.linspace(-1, 2, x.shape[3])
        return torch.tanh(x * self.factor + 3 * told) + told.square()


def answers(level: Level = LEVELS[1]) -> Answers:
    return twice(Net(), TOWARD, AWAY)(X, level)


def exact(answer: Tensor) -> Tensor:
    return answer.double()


def x0_of(kind: Prediction, x: Tensor, out: Tensor, level: Level) -> Tensor:
    """The definitions once more, in float64."""
    a, s = float(level.alpha), float(level.sigma)
    return {"epsilon": (x - s * out) / a, "v": a * x - s * out, "sample": out}[kind.name]


def test_the_default_path_is_its_formula_to_the_bit():
    for level in LEVELS[:-1]:
        out = twice(Net(), TOWARD, AWAY)(X, level)
        joined = Net()(torch.cat([X, X]), torch.zeros(4), torch.cat([AWAY.context, TOWARD.context]), None)
        away, toward = joined.chunk(2)
        assert torch.equal(scaled(7.5)(out, X, level), away + 7.5 * (toward - away))
        for kind in PREDICTIONS.values():
            said = guided(Net(), kind, TOWARD, AWAY, 7.5)(X, level)
            assert torch.equal(said, kind.to_x0(X, away + 7.5 * (toward - away), level))
        told = severally(Net(), [(0.7, TOWARD), (-0.2, EMPTY)], AWAY)(X, level)
        empty = Net()(X, torch.zeros(2), EMPTY.context, None)
        assert torch.equal(told.told, 0.7 * (toward - away) + -0.2 * (empty - away))


@KINDS
@pytest.mark.parametrize("level", LEVELS[:-1], ids=lambda level: str(level.t))
def test_projection(kind: Prediction, level: Level) -> None:
    """Sadat et al. 2024, algorithm 1, two steps of it, in float64."""
    scale, eta, norm, momentum = 9.0, 0.3, 2.5, -0.6
    first, then = answers(LEVELS[0]), answers(level)
    guide = projected(scale, eta, norm, running(momentum), kind)
    average = torch.zeros(())
    seen = []
    for heard, at in ((first, LEVELS[0]), (then, level)) if level is not LEVELS[0] else ((then, level),):
        seen.append(kind.to_x0(X, guide(heard, X, at), at))
        toward, away = (x0_of(kind, exact(X), exact(out), at) for out in (heard.toward, heard.away))
        average = toward - away + momentum * average
        told = average * (norm / average.flatten(1).norm(dim=1)).clamp(max=1)[:, None, None, None]
        unit = toward / toward.flatten(1).norm(dim=1)[:, None, None, None]
        along = (told * unit).sum((1, 2, 3), keepdim=True) * unit
        want = toward + (scale - 1) * (told - along + eta * along)
    torch.testing.assert_close(seen[-1].double(), want, rtol=1e-4, atol=1e-4)


@KINDS
def test_neutral_guides_are_guidance_to_the_bit(kind: Prediction) -> None:
    for level in LEVELS[:-1]:
        heard = answers(level)
        plain = scaled(6.0)
        neutral: list[Guide] = [
            projected(6.0, 1.0, 0.0, running(0.0), kind),
            mimicked(6.0, 6.0, 1.0, kind),
            weakened(plain, Net(0.1), [(1.0, TOWARD)], 0.0),
            rescaled(plain, 0.0),
        ]
        for guide in neutral:
            assert torch.equal(guide(heard, X, level), plain(heard, X, level))


def test_momentum_counts_levels_and_not_calls() -> None:
    one, two = running(-0.5), running(-0.5)
    a, b, c = (random(1, 4, 2, 2, seed=seed) for seed in (1, 2, 3))
    want = [a, b - 0.5 * a, c - 0.5 * (b - 0.5 * a)]
    for told, level, expected in zip((a, b, c), LEVELS, want, strict=False):
        assert torch.equal(one(told, level), expected)
        two(random(1, 4, 2, 2, seed=9), level)  # Heun's first look at the level, with another answer
        assert torch.equal(two(told, level), expected)
    fresh = running(-0.5)
    assert torch.equal(fresh(c, LEVELS[0]), c)


def test_heun_and_euler_remember_alike() -> None:
    """For a net whose answers do not follow from x, both ask at the same levels, Heun twice."""

    def net(x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
        return torch.sin(t[:, None, None, None] / 300 + context.mean((1, 2))[:, None, None, None]) + 0 * x

    seen = {}
    for name in ("euler", "heun"):
        average, heard = running(-0.7), {}

        def noted(told: Tensor, level: Level, average=average, heard=heard) -> Tensor:
            heard[level.t] = average(told, level)
            return heard[level.t]

        guide = projected(5.0, 0.0, 0.0, noted, PREDICTIONS["sample"])
        pair = judged(twice(net, TOWARD, AWAY), guide, PREDICTIONS["sample"])
        list(SAMPLERS[name](lambda x, level, pair=pair: pair(x, level)[0], X, LEVELS, Noise([1, 2])))
        seen[name] = heard
    assert list(seen["euler"]) == list(seen["heun"])
    for t, told in seen["euler"].items():
        torch.testing.assert_close(told, seen["heun"][t], rtol=1e-5, atol=1e-5)


@KINDS
def test_mimic_scale(kind: Prediction) -> None:
    """sd-dynamic-thresholding's arithmetic on x0, in float64."""
    scale, mimic, percentile = 12.0, 4.0, 0.95
    for level in LEVELS[:-1]:
        heard = answers(level)
        made = kind.to_x0(X, mimicked(scale, mimic, percentile, kind)(heard, X, level), level)
        toward, away = (x0_of(kind, exact(X), exact(out), level) for out in (heard.toward, heard.away))
        wide, low = ((away + by * (toward - away)).flatten(2) for by in (scale, mimic))
        mean = wide.mean(2, keepdim=True)
        most = (low - low.mean(2, keepdim=True)).abs().amax(2, keepdim=True)
        held = torch.quantile((wide - mean).abs(), percentile, dim=2, keepdim=True).maximum(most)
        want = ((wide - mean).clamp(-held, held) / held * most + mean).reshape(X.shape)
        torch.testing.assert_close(made.double(), want, rtol=1e-4, atol=2e-4)
        assert not torch.allclose(made.double(), wide.reshape(X.shape), atol=0.1)


@KINDS
def test_threshold(kind: Prediction) -> None:
    pair = paired(Net(), kind, TOWARD, AWAY, 8.0)
    for level in LEVELS[:-1]:
        x0, away = pair(X, level)
        held, beside = thresholded(pair, 0.9, 1.5)(X, level)
        assert torch.equal(beside, away)
        for row, want in zip(held, x0, strict=True):
            values = want.double().abs().flatten().sort().values
            place = 0.9 * (len(values) - 1)
            low = int(place)
            bound = max(float(values[low] + (place - low) * (values[low + 1] - values[low])), 1.5)
            torch.testing.assert_close(row.double(), want.double().clamp(-bound, bound) * 1.5 / bound)
        assert torch.equal(thresholded(pair, 0.9, 1e4)(X, level)[0], x0)
        assert torch.equal(thresholded(pair, 0.0, float(x0.abs().max()))(X, level)[0], x0)


@KINDS
def test_perpendicular(kind: Prediction) -> None:
    level, net = LEVELS[1], Net()
    heard = perpendicular(net, [(1.0, TOWARD)], AWAY, EMPTY, 1.4)(X, level)
    assert net.rows == 3 * len(X)
    base, away, toward = (Net()(X, torch.zeros(2), cond.context, None).double() for cond in (EMPTY, AWAY, TOWARD))
    main, other = toward - base, away - base
    inner = [(a * b).sum((1, 2, 3), keepdim=True) for a, b in ((other, main), (main, main))]
    lean = other - inner[0] / inner[1] * main
    torch.testing.assert_close(heard.told.double(), main - 1.4 * lean, rtol=1e-5, atol=1e-5)
    assert (lean * main).sum((1, 2, 3)).abs().max() < 1e-9
    made = judged(perpendicular(Net(), [(1.0, TOWARD)], AWAY, EMPTY, 1.4), scaled(5.0), kind)(X, level)
    want = x0_of(kind, exact(X), base + 5 * (main - 1.4 * lean), level)
    torch.testing.assert_close(made[0].double(), want, rtol=1e-4, atol=1e-4)


def test_a_negative_that_says_the_same_or_the_opposite_has_no_say() -> None:
    main = random(2, 4, 8, 8, seed=5)
    for by in (2.0, -3.0):
        assert across(by * main, main).abs().max() < 1e-5
    lean = random(2, 4, 8, 8, seed=6)
    assert torch.equal(across(lean, 0 * main), lean)


def test_perpendicular_at_weight_zero_is_guidance_away_from_the_empty_prompt() -> None:
    for conds in ([(1.0, TOWARD)], [(0.7, TOWARD), (-0.4, AWAY)]):
        heard = perpendicular(Net(), conds, AWAY, EMPTY, 0.0)(X, LEVELS[2])
        plain = (twice(Net(), TOWARD, EMPTY) if len(conds) == 1 else severally(Net(), conds, EMPTY))(X, LEVELS[2])
        assert torch.equal(heard.told, plain.told)
        assert torch.equal(heard.away, plain.away)


def test_perpendicular_for_prompts_that_are_joined() -> None:
    """A prompt of negative weight is a negative; contexts of another length are asked one by one."""
    long = Conditioning(EMPTY.context.repeat(1, 2, 1))
    heard = perpendicular(Net(), [(0.5, TOWARD), (0.5, TOWARD), (-0.8, AWAY)], AWAY, long, 0.6)(X, LEVELS[2])
    one = perpendicular(Net(), [(1.0, TOWARD)], AWAY, EMPTY, 1.4)(X, LEVELS[2])
    torch.testing.assert_close(heard.told, one.told, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heard.toward, one.toward, rtol=1e-4, atol=1e-5)


@KINDS
def test_weakened_is_linear_in_its_scale(kind: Prediction) -> None:
    level = LEVELS[2]
    heard, weak = answers(level), Net(0.2)(X, torch.zeros(2), TOWARD.context, None)
    for scale in (0.5, 3.0):
        made = weakened(scaled(5.0), Net(0.2), [(1.0, TOWARD)], scale)(heard, X, level)
        want = exact(heard.away) + 5 * (exact(heard.toward) - exact(heard.away))
        want = want + scale * (exact(heard.toward) - exact(weak))
        torch.testing.assert_close(made.double(), want, rtol=1e-5, atol=1e-5)
    alone = once(Net(), TOWARD)(X, level)
    made = weakened(scaled(1.0), Net(0.2), [(1.0, TOWARD)], 3.0)(alone, X, level)
    torch.testing.assert_close(made, alone.toward + 3 * (alone.toward - weak), rtol=1e-5, atol=1e-5)


def test_weakened_for_prompts_that_are_joined() -> None:
    level, conds = LEVELS[2], [(0.7, TOWARD), (0.3, EMPTY)]
    heard = severally(Net(), conds, AWAY)(X, level)
    made = weakened(scaled(5.0), Net(0.2), conds, 2.0)(heard, X, level)
    weak = [Net(0.2)(X, torch.zeros(2), cond.context, None) for _, cond in conds]
    extra = sum(w * (out - less) for (w, _), out, less in zip(conds, heard.each, weak, strict=True))
    torch.testing.assert_close(made, scaled(5.0)(heard, X, level) + 2 * extra, rtol=1e-5, atol=1e-5)


@KINDS
def test_blurred(kind: Prediction) -> None:
    """Hong et al. 2023, algorithm 2, with a mask that is given."""
    level, heard = LEVELS[1], answers()
    attention = torch.rand(4, 16, generator=torch.Generator().manual_seed(1)) * 2
    guide = blurred(scaled(5.0), Net(), AWAY, lambda: attention, lambda h, w: (h // 2, w // 2), 0.75, 1.3, kind)
    made = guide(heard, X, level)
    mask = (attention[:2] > 1).double().reshape(2, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    x0 = x0_of(kind, exact(X), exact(heard.away), level)
    eps = (exact(X) - float(level.alpha) * x0) / float(level.sigma)
    soft = blur(x0, 1.3) * mask + x0 * (1 - mask)
    weak = Net()((float(level.alpha) * soft + float(level.sigma) * eps).float(), torch.zeros(2), AWAY.context, None)
    want = exact(scaled(5.0)(heard, X, level)) + 0.75 * (exact(heard.away) - exact(weak))
    torch.testing.assert_close(made.double(), want, rtol=1e-4, atol=1e-4)
    assert blurred(scaled(5.0), Net(), AWAY, lambda: attention, lambda h, w: (h, w), 0.0, 1.0, kind) is not guide


def test_blur_keeps_the_mean_of_what_is_flat_and_fits_small_pictures() -> None:
    flat = torch.full((1, 4, 9, 9), 2.5)
    torch.testing.assert_close(blur(flat, 1.0), flat)
    point = torch.zeros(1, 1, 17, 17)
    point[0, 0, 8, 8] = 1
    seen = blur(point, 1.0)[0, 0]
    weights = [math.exp(-0.5 * d * d) for d in range(-4, 5)]
    assert float(seen[8, 10]) == pytest.approx(weights[4] * weights[6] / sum(weights) ** 2, rel=1e-5)
    for side in (1, 2, 3):
        assert blur(torch.ones(1, 4, side, 5), 1.0).shape == (1, 4, side, 5)


def test_interval() -> None:
    """Outside, the prompt alone is asked, at scale 1; inside, guidance to the bit."""
    kind, net = PREDICTIONS["epsilon"], Net()
    pair, plain = paired(net, kind, TOWARD, AWAY, 8.0), alike(predictor(net, kind, TOWARD))
    only = interval(pair, plain, LEVELS, 0.2, 0.61)
    rows = []
    for level in LEVELS[:-1]:
        net.rows = 0
        x0, away = only(X, level)
        rows.append(net.rows // len(X))
        wanted = (pair if rows[-1] == 2 else plain)(X, level)
        assert torch.equal(x0, wanted[0])
        assert torch.equal(away, wanted[1])
    assert rows == [1, 2, 2, 1, 1]
    assert interval(pair, plain, LEVELS, 0.0, 1.0) is pair
    hundred = [SCHEDULE.at(float(t)) for t in range(999, 898, -1)]
    for start, first in ((0.29, 29), (0.07, 7), (0.57, 57)):
        part = interval(pair, plain, hundred, start, 1.0)
        asked = []
        for level in hundred[first - 1 : first + 1]:
            net.rows = 0
            part(X, level)
            asked.append(net.rows // len(X))
        assert asked == [1, 2]


def test_rescale_works_on_what_comes_before_it() -> None:
    level, kind = LEVELS[2], PREDICTIONS["v"]
    heard = answers(level)
    wide = weakened(projected(7.0, 0.0, 3.0, running(0.0), kind), Net(0.3), [(1.0, TOWARD)], 3.0)
    out, held = wide(heard, X, level), rescaled(wide, 1.0)(heard, X, level)
    torch.testing.assert_close(held.std((1, 2, 3)), heard.toward.std((1, 2, 3)), rtol=1e-4, atol=0)
    torch.testing.assert_close(held / held.std(), out / out.std(), rtol=0.5, atol=0.5)


def test_pictures_do_not_depend_on_their_company() -> None:
    kind, level = PREDICTIONS["v"], LEVELS[2]

    def pick(cond: Conditioning) -> Conditioning:
        return Conditioning(cond.context[1:])

    def made(x: Tensor, toward: Conditioning, away: Conditioning, empty: Conditioning) -> Tensor:
        asking = perpendicular(Net(), [(1.0, toward)], away, empty, 1.0)
        guide = rescaled(projected(7.0, 0.2, 3.0, running(-0.5), kind), 0.5)
        return thresholded(judged(asking, guide, kind), 0.9, 1.0)(x, level)[0]

    whole = made(X, TOWARD, AWAY, EMPTY)
    assert torch.equal(made(X[1:], *(pick(cond) for cond in (TOWARD, AWAY, EMPTY))), whole[1:])


def test_composed_is_still_the_sum() -> None:
    kind = PREDICTIONS["v"]
    made = composed(Net(), kind, [(0.7, TOWARD), (0.3, EMPTY)], AWAY, 5.0, 0.4)(X, LEVELS[2])
    guide = rescaled(scaled(5.0), 0.4)
    pair = judged(severally(Net(), [(0.7, TOWARD), (0.3, EMPTY)], AWAY), guide, kind)
    assert torch.equal(made, pair(X, LEVELS[2])[0])
