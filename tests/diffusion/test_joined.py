"""Several prompts in one picture: the algebra of composed, and who answers where in switched."""

import pytest
import torch
from torch import Tensor

from aquatint.diffusion.denoisers import Conditioning, Denoiser, first, guided, held, paired, predictor
from aquatint.diffusion.joined import composed, composed_pair, switched, wrapped
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.schedule import CLEAN, Level, NoiseSchedule, ScheduleConfig

LEVELS = [NoiseSchedule(ScheduleConfig()).at(t) for t in (900.0, 600.0, 300.0, 0.0)]
X = torch.linspace(-2, 2, 2 * 4 * 4 * 4).reshape(2, 4, 4, 4)


def net(x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
    return torch.tanh(x * context.mean(dim=(1, 2)).reshape(-1, 1, 1, 1) + t.reshape(-1, 1, 1, 1) / 1000)


def told(value: float) -> Conditioning:
    return Conditioning(torch.full((2, 3, 5), value))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_one_prompt_is_guidance(prediction: str, rescale: float) -> None:
    kind = PREDICTIONS[prediction]
    alone = guided(net, kind, told(0.8), told(-0.2), 5.0, rescale)
    joined = composed(net, kind, [(1.0, told(0.8))], told(-0.2), 5.0, rescale)
    for level in LEVELS:
        assert torch.allclose(joined(X, level), alone(X, level), rtol=1e-5, atol=1e-5)


def test_weights_add_up() -> None:
    kind = PREDICTIONS["epsilon"]
    halves = composed(net, kind, [(0.5, told(0.8)), (0.5, told(0.8))], told(-0.2), 4.0)
    whole = composed(net, kind, [(1.0, told(0.8)), (0.0, told(3.0))], told(-0.2), 4.0)
    nothing = composed(net, kind, [(1.0, told(0.8)), (-1.0, told(0.8))], told(-0.2), 4.0)
    away = predictor(net, kind, told(-0.2))
    for level in LEVELS:
        assert torch.allclose(halves(X, level), whole(X, level), rtol=1e-5, atol=1e-5)
        assert torch.allclose(nothing(X, level), away(X, level), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(whole(X, level), away(X, level))


def test_who_answers() -> None:
    def says(value: float) -> Denoiser:
        return lambda x, level: torch.full_like(x, value)

    denoise = switched([(LEVELS[1], says(1.0)), (LEVELS[2], says(2.0)), (LEVELS[3], says(3.0))])
    between = NoiseSchedule(ScheduleConfig()).at(599.0)
    noise = Level(0.0, 1.0, 999.0)
    asked = [noise, LEVELS[0], LEVELS[1], between, LEVELS[2], LEVELS[3], CLEAN]
    assert [float(denoise(X, level).mean()) for level in asked] == [1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_a_pair_is_guidance_and_the_negative_alone(rescale: float) -> None:
    kind = PREDICTIONS["v"]
    away = predictor(net, kind, told(-0.2))
    one = paired(net, kind, told(0.8), told(-0.2), 5.0, rescale)
    several = composed_pair(net, kind, [(1.0, told(0.8))], told(-0.2), 5.0, rescale)
    for level in LEVELS:
        assert torch.equal(first(one)(X, level), guided(net, kind, told(0.8), told(-0.2), 5.0, rescale)(X, level))
        for pair in (one, several):
            assert torch.allclose(pair(X, level)[1], away(X, level), rtol=1e-5, atol=1e-5)


def test_a_wrapper_goes_round_both_and_asks_once() -> None:
    asked: list[Level] = []

    def pair(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        asked.append(level)
        return x + 1, x - 1

    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    known = torch.full((2, 4, 4, 4), 0.5)
    both = wrapped(lambda denoise: held(denoise, known, mask, torch.zeros_like(X)), pair)
    toward, away = both(X, LEVELS[0])
    assert len(asked) == 1
    for x0, step in ((toward, 1), (away, -1)):
        assert torch.equal(x0[..., :2], known[..., :2])
        assert torch.equal(x0[..., 2:], X[..., 2:] + step)
