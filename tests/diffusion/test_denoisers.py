"""Wrappers: what reaches the net, linear guidance, identity at neutral strength, and known regions that stay."""

import pytest
import torch
from torch import Tensor

from aquatint.base.noise import Noise
from aquatint.diffusion.denoisers import Conditioning, guided, held, predictor
from aquatint.diffusion.grids import linspace
from aquatint.diffusion.prediction import EPSILON, PREDICTIONS, VELOCITY
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import NoiseSchedule, ScheduleConfig

SCHEDULE = NoiseSchedule(ScheduleConfig())
LEVEL = SCHEDULE.at(600)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = random(3, 4, 8, 8)
COND = Conditioning(random(3, 7, 16, seed=1), random(3, 5, seed=2), random(3, 2, 8, 8, seed=3))
NEGATIVE = Conditioning(random(3, 7, 16, seed=4), random(3, 5, seed=5), random(3, 2, 8, 8, seed=6))


class Net:
    """Remembers what it was given, and answers something that depends on all of it, row by row."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []

    def __call__(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
        self.calls.append((x, t, context, vector))
        told = context.mean((1, 2)) + (0 if vector is None else vector.mean(1)) + t / 1000
        return torch.sin(x).sum(1, keepdim=True) * x[:, :4] + told[:, None, None, None]


def test_predictor_shows_the_net_everything():
    net = Net()
    x0 = predictor(net, VELOCITY, COND)(X, LEVEL)
    ((x, t, context, vector),) = net.calls
    assert torch.equal(x, torch.cat([X, COND.concat], 1))
    assert t.dtype == torch.float32
    assert t.tolist() == [600.0] * 3
    assert context is COND.context
    assert vector is COND.vector
    torch.testing.assert_close(x0, LEVEL.alpha * X - LEVEL.sigma * net(x, t, context, vector))


def test_predictor_answers_in_the_precision_of_x():
    def half(x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
        return x.bfloat16()

    assert predictor(half, EPSILON, Conditioning(COND.context))(X, LEVEL).dtype == torch.float32
    assert predictor(half, EPSILON, Conditioning(COND.context))(X.double(), LEVEL).dtype == torch.float64


def test_predictor_takes_the_levels_of_a_training_batch():
    net = Net()
    level = SCHEDULE.draw(Noise(range(3)))
    x0 = predictor(net, EPSILON, COND)(X, level)
    assert torch.equal(net.calls[0][1], level.t.flatten())
    one = SCHEDULE.at(level.t.flatten()[1].item())
    alone = Conditioning(COND.context[1:2], COND.vector[1:2], COND.concat[1:2])
    torch.testing.assert_close(predictor(net, EPSILON, alone)(X[1:2], one), x0[1:2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=list(PREDICTIONS))
def test_guidance_is_linear(prediction):
    net = Net()
    with_ = predictor(net, prediction, COND)(X, LEVEL)
    without = predictor(net, prediction, NEGATIVE)(X, LEVEL)
    for scale in (0.0, 0.5, 3.5, 7.5):
        x0 = guided(net, prediction, COND, NEGATIVE, scale)(X, LEVEL)
        torch.testing.assert_close(x0, without + scale * (with_ - without), atol=1e-4, rtol=1e-5)


def test_guidance_is_one_batch_of_two_the_negative_first():
    net = Net()
    guided(net, EPSILON, COND, NEGATIVE, 7.5)(X, LEVEL)
    ((x, t, context, vector),) = net.calls
    assert torch.equal(x[:3], torch.cat([X, NEGATIVE.concat], 1))
    assert torch.equal(x[3:], torch.cat([X, COND.concat], 1))
    assert torch.equal(context, torch.cat([NEGATIVE.context, COND.context]))
    assert torch.equal(vector, torch.cat([NEGATIVE.vector, COND.vector]))
    assert t.tolist() == [600.0] * 6


def test_scale_one_is_the_condition_alone():
    net = Net()
    x0 = guided(net, EPSILON, COND, NEGATIVE, 1.0, rescale=0.7)(X, LEVEL)
    assert len(net.calls[0][0]) == 3
    assert torch.equal(x0, predictor(net, EPSILON, COND)(X, LEVEL))


def test_halves_must_match():
    with pytest.raises(AssertionError, match="lacks"):
        guided(Net(), EPSILON, COND, Conditioning(NEGATIVE.context), 7.5)


def test_rescale_takes_the_spread_back():
    net = Net()
    told = net(torch.cat([X, COND.concat], 1), torch.full((3,), 600.0), COND.context, COND.vector)

    def words(rescale: float) -> Tensor:
        x0 = guided(net, EPSILON, COND, NEGATIVE, 7.5, rescale)(X, LEVEL)
        return LEVEL.eps(X, x0)

    plain, whole, part = words(0.0), words(1.0), words(0.7)
    dims = (1, 2, 3)
    torch.testing.assert_close(whole.std(dims), told.std(dims), atol=0, rtol=1e-4)
    torch.testing.assert_close(part, 0.7 * whole + 0.3 * plain, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain.std(dims), told.std(dims), rtol=0.05)


def test_rescale_is_each_pictures_own_affair():
    net = Net()
    whole = guided(net, EPSILON, COND, NEGATIVE, 7.5, 0.7)(X, LEVEL)
    pick = [Conditioning(c.context[1:2], c.vector[1:2], c.concat[1:2]) for c in (COND, NEGATIVE)]
    assert torch.equal(guided(net, EPSILON, *pick, 7.5, 0.7)(X[1:2], LEVEL), whole[1:2])


KNOWN = random(3, 4, 8, 8, seed=9)
HALF = torch.zeros(1, 1, 8, 8)
HALF[..., :4] = 1


def test_held_is_identity_where_nothing_is_held():
    plain = predictor(Net(), EPSILON, COND)
    assert torch.equal(held(plain, KNOWN, torch.zeros(1, 1, 8, 8), random(3, 4, 8, 8))(X, LEVEL), plain(X, LEVEL))


def test_held_shows_the_net_the_known_picture_at_the_levels_noise():
    net, eps = Net(), random(3, 4, 8, 8, seed=10)
    x0 = held(predictor(net, EPSILON, Conditioning(COND.context)), KNOWN, HALF, eps)(X, LEVEL)
    seen = net.calls[0][0]
    assert torch.equal(seen[..., :4], LEVEL.mix(KNOWN, eps)[..., :4])
    assert torch.equal(seen[..., 4:], X[..., 4:])
    assert torch.equal(x0[..., :4], KNOWN[..., :4])
    assert not torch.equal(x0[..., 4:], KNOWN[..., 4:])


@pytest.mark.parametrize("name", SAMPLERS)
def test_held_keeps_the_known_region_with_every_sampler(name):
    """Exactly, where the last step is the denoiser's own answer; to rounding where it is a mean of eps."""
    some = slice(0, 1 if SAMPLERS[name].alone else 3)
    noise, known = Noise([1, 2, 3][some]), KNOWN[some]
    eps = noise.normal((4, 8, 8))
    levels = linspace(SCHEDULE, 12)
    denoise = held(predictor(Net(), VELOCITY, Conditioning(COND.context[some])), known, HALF[some], eps)
    x = SCHEDULE.prior(levels[0], eps)
    *_, last = SAMPLERS[name](denoise, x, levels, noise, schedule=SCHEDULE)
    torch.testing.assert_close(last.x[..., :4], known[..., :4], atol=1e-5, rtol=0)
    if name in ("ddim", "euler", "euler_a", "heun", "dpmpp_2m"):
        assert torch.equal(last.x[..., :4], known[..., :4])
    assert (last.x - known)[..., 4:].abs().mean() > 0.1
