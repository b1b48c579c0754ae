"""How weights move."""

import math

import pytest
import torch
from torch import nn

from aquatint.training.optim import Average, adamw, clip, rate
from aquatint.training.recipe import Moment, Optim


def test_the_rate_warms_holds_and_falls() -> None:
    settings = Optim(lr=2.0, warmup=10, hold=0.5, final=0.1)
    assert rate(settings, Moment(0, 0.0)) == pytest.approx(0.2)
    assert rate(settings, Moment(9, 0.0)) == pytest.approx(2.0)
    assert rate(settings, Moment(1000, 0.5)) == pytest.approx(2.0)
    assert rate(settings, Moment(1000, 0.75)) == pytest.approx(2.0 * 0.55)
    assert rate(settings, Moment(1000, 1.0)) == pytest.approx(0.2)


def test_clip_scales_to_the_limit_and_tells_the_norm() -> None:
    gradients = [torch.full((3,), 3.0), torch.full((1,), 3.0)]
    assert clip(gradients, 1.5).item() == pytest.approx(6.0)
    assert math.hypot(*[g.norm().item() for g in gradients]) == pytest.approx(1.5, rel=1e-5)
    small = [torch.tensor([0.5])]
    clip(small, 1.5)
    assert small[0].item() == 0.5


def test_decay_spares_vectors() -> None:
    optimiser = adamw(nn.Linear(3, 2), Optim(decay=0.3))
    decays = {group["weight_decay"]: [p.ndim for p in group["params"]] for group in optimiser.param_groups}
    assert decays == {0.3: [2], 0.0: [1]}
    assert optimiser.param_groups[0]["betas"] == (0.9, 0.98)
    assert optimiser.param_groups[0]["eps"] == 1e-8


def test_an_average_of_constant_weights_is_these_weights() -> None:
    module = nn.Linear(2, 2)
    average = Average(module, 0.9)
    with torch.no_grad():
        module.weight.fill_(4.0)
    for step in range(200):
        average.update(module, step)
    torch.testing.assert_close(average.shadow["weight"], module.weight.detach())


def test_an_average_moves_by_its_decay() -> None:
    module = nn.Linear(1, 1)
    average = Average(module, 0.9)
    before = average.shadow["weight"].clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    average.update(module, 10_000)
    torch.testing.assert_close(average.shadow["weight"], before + 0.1)
