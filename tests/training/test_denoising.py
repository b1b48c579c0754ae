"""The U-Net's objective: weights, floors, and where gradients go."""

import pytest
import torch

from aquatint.base.noise import EPS, Noise
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.schedule import Level, NoiseSchedule, ScheduleConfig
from aquatint.families import TINY
from aquatint.nets.text import TextEncoder
from aquatint.nets.unet import UNet
from aquatint.training.objectives.diffusion import Aim, Denoising, min_snr
from aquatint.training.recipe import Moment
from aquatint.training.start import start

MOMENT = Moment(0, 0.0)


DIVISORS = {"epsilon": lambda snr: snr, "v": lambda snr: snr + 1, "sample": lambda snr: 1}


@pytest.mark.parametrize("prediction", list(DIVISORS))
def test_min_snr_weights_are_those_of_the_paper(prediction: str) -> None:
    level = NoiseSchedule(ScheduleConfig()).draw(Noise([1] * 50, range(50)))
    for alpha, sigma, got in zip(level.alpha, level.sigma, min_snr(level, prediction, 5.0), strict=True):
        snr = (alpha.item() / sigma.item()) ** 2
        assert got.item() == pytest.approx(min(snr, 5.0) / DIVISORS[prediction](snr), rel=1e-4)


def test_min_snr_is_finite_at_both_ends() -> None:
    ends = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    for prediction in PREDICTIONS:
        assert torch.isfinite(min_snr(Level(ends, 1 - ends, ends), prediction, 5.0)).all()


def make(frozen: bool = True, prediction: str = "epsilon") -> tuple[Denoising, dict[str, torch.Tensor], Noise]:
    unet, text = UNet(TINY.unet), TextEncoder(TINY.text)
    start(unet, 1)
    start(text, 2)
    noise = Noise([9, 9, 9], [0, 1, 2])
    batch = {"latents": noise.normal((4, 8, 8)), "ids": noise.integers((77,), 1000, draw=1)}
    return Denoising(unet, text, NoiseSchedule(TINY.schedule), Aim(prediction), frozen=frozen), batch, noise


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
def test_a_net_that_says_nothing_errs_by_its_targets_size(prediction: str) -> None:
    objective, batch, noise = make(prediction=prediction)  # start() zeroes the last layer: the U-Net answers 0
    (loss,) = objective.losses(batch, MOMENT, noise)
    level = objective.schedule.draw(noise)
    target = PREDICTIONS[prediction].target(batch["latents"], noise.normal((4, 8, 8), draw=EPS), level)
    torch.testing.assert_close(loss.value, target.square().mean())


def test_a_frozen_text_encoder_gets_no_gradient_and_a_learning_one_does() -> None:
    for frozen in (True, False):
        objective, batch, noise = make(frozen)
        torch.nn.init.ones_(objective.unet.leave.weight)
        for cell in objective.unet.modules():
            if hasattr(cell, "leave") and isinstance(cell.leave, torch.nn.Conv2d):
                torch.nn.init.constant_(cell.leave.weight, 0.1)
        (loss,) = objective.losses(batch, MOMENT, noise)
        words = objective.text.words.weight
        assert words.requires_grad is not frozen
        if not frozen:
            (gradient,) = torch.autograd.grad(loss.value, [words])
            assert gradient.abs().sum() > 0
        names = {name for name, _ in objective.players["unet"].named_parameters()}
        assert any("words" in name for name in names) is not frozen
