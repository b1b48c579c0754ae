"""Errors by time: what a net that answers zero must get, at each time, and the same each time."""

import pytest
import torch
from tests.fixtures import tiny_bundle

from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.families import TINY
from aquatint.training.objectives.diffusion import Aim, Denoising
from aquatint.training.validation import by_time, levels


def test_a_net_that_says_nothing_has_the_targets_own_size_at_every_time() -> None:
    bundle = tiny_bundle()
    for weight in bundle.unet.leave.parameters():
        weight.data.zero_()
    schedule = NoiseSchedule(TINY.schedule)
    latents = 3.0 * torch.randn(24, 4, 8, 8)
    batches = [{"latents": part, "ids": bundle.tokenizer([""] * len(part))} for part in latents.split(9)]
    eps = by_time(Denoising(bundle.unet, bundle.text, schedule, Aim("epsilon")), batches)
    assert list(eps)[1] == "held, t 0-99"
    assert list(eps)[-1] == "held, t 900-999"
    assert all(value == pytest.approx(1.0, abs=0.1) for value in eps.values())
    v = by_time(Denoising(bundle.unet, bundle.text, schedule, Aim("v")), batches)
    assert v["held, t 0-99"] < 2 < 6 < v["held, t 900-999"]  # alpha eps - sigma x0, with x0 three times as large
    assert v["held"] == pytest.approx(sum(list(v.values())[1:]) / 10)
    assert by_time(Denoising(bundle.unet, bundle.text, schedule, Aim("v")), batches) == v


def test_levels_are_the_tables() -> None:
    schedule = NoiseSchedule(TINY.schedule)
    found = levels(schedule, [0, 500, 999])
    for row, time in enumerate((0, 500, 999)):
        one = schedule.at(time)
        assert found.alpha[row].item() == pytest.approx(float(one.alpha))
        assert found.sigma[row].item() == pytest.approx(float(one.sigma))
        assert found.t[row].item() == time
