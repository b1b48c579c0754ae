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


def test_offset_and_blurred_noise_have_the_deviation_that_they_promise() -> None:
    noise = Noise([5] * 400, range(400))
    objective, _, _ = make()
    shape, cpu = (4, 16, 16), torch.device("cpu")
    for aim, deviation in ((Aim(pyramid=0.9), 1.0), (Aim(offset=0.5), 1.25**0.5)):
        objective.aim = aim
        eps, shown = objective.noises(noise, shape, cpu)
        assert torch.equal(eps, shown)
        assert eps.std().item() == pytest.approx(deviation, rel=0.02)
        means = eps.mean(dim=(2, 3))
        assert means.std().item() > 5 / 16  # of white noise it is 1 / 16


def test_a_perturbed_input_is_judged_by_the_true_noise() -> None:
    objective, batch, noise = make()
    plain = next(objective.losses(batch, MOMENT, noise)).value
    objective.aim = Aim(perturb=0.2)
    eps, shown = objective.noises(noise, (4, 8, 8), torch.device("cpu"))
    assert (shown - eps).std().item() == pytest.approx(0.2, rel=0.15)
    assert torch.equal(next(objective.losses(batch, MOMENT, noise)).value, plain)  # it answers 0, whatever it is shown


def test_huber_counts_small_errors_as_their_square_and_large_ones_by_their_size() -> None:
    objective, batch, noise = make()
    plain = next(objective.losses(batch, MOMENT, noise)).value
    objective.aim = Aim(huber=100.0)
    torch.testing.assert_close(next(objective.losses(batch, MOMENT, noise)).value, plain)
    objective.aim = Aim(huber=0.01)
    eps = noise.normal((4, 8, 8), draw=EPS)
    torch.testing.assert_close(
        next(objective.losses(batch, MOMENT, noise)).value, 0.02 * eps.abs().mean(), rtol=0.02, atol=0
    )


def test_counts_and_masks_weigh_samples_and_places() -> None:
    objective, batch, noise = make()
    errors = noise.normal((4, 8, 8), draw=EPS).square()
    counts = torch.tensor([1.0, 0.5, 0.0])
    wanted = (counts * errors.mean(dim=(1, 2, 3))).mean()
    torch.testing.assert_close(next(objective.losses(batch | {"counts": counts}, MOMENT, noise)).value, wanted)
    mask = torch.zeros(3, 1, 8, 8)
    mask[:, :, :2] = 0.5
    wanted = errors[:, :, :2].mean()
    torch.testing.assert_close(next(objective.losses(batch | {"mask": mask}, MOMENT, noise)).value, wanted)
