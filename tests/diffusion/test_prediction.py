"""Each prediction's two halves are inverse, and the three agree on what a net has said."""

import pytest
import torch

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.diffusion.prediction import EPSILON, PREDICTIONS, VELOCITY
from aquatint.diffusion.schedule import Level, NoiseSchedule, ScheduleConfig

ZERO = NoiseSchedule(ScheduleConfig(zero_terminal=True))
X0, EPS = torch.randn(2, 5, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("t", [0, 1, 500, 998, 999])
@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=list(PREDICTIONS))
def test_inverse(prediction, t):
    level = ZERO.at(t)
    if prediction is EPSILON and level.alpha == 0:
        with pytest.raises(UserError, match="pure noise"):
            prediction.to_x0(X0, EPS, level)
        return
    back = prediction.to_x0(level.mix(X0, EPS), prediction.target(X0, EPS, level), level)
    torch.testing.assert_close(back, X0, atol=1e-10, rtol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=list(PREDICTIONS))
def test_inverse_on_a_training_batch(prediction):
    level = NoiseSchedule(ScheduleConfig()).draw(Noise(range(5)))
    x0, eps = X0.float(), EPS.float()
    back = prediction.to_x0(level.mix(x0, eps), prediction.target(x0, eps, level), level)
    torch.testing.assert_close(back, x0, atol=1e-4, rtol=0)


def test_velocity_turns_picture_and_noise_by_a_right_angle():
    level = ZERO.at(400)
    v = VELOCITY.target(X0, EPS, level)
    torch.testing.assert_close(level.alpha * v + level.sigma * level.mix(X0, EPS), EPS)
    assert torch.equal(VELOCITY.target(X0, EPS, Level(0.0, 1.0, 999.0)), -X0)


def test_names():
    assert list(PREDICTIONS) == ["epsilon", "v", "sample"]
    assert all(prediction.name == name for name, prediction in PREDICTIONS.items())
