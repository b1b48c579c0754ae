"""One batch learnt by heart: the loss falls to the floor that theory sets, and never below it.

Of two pictures c + d and c - d, seen as x = alpha x0 + sigma eps, the best guess of x0 is c + d tanh(u) with u =
alpha d . (x - alpha c) / sigma^2: the posterior mean of two Gaussians. With a = alpha |d| / sigma, u is a^2 + a z
where z is normal, so what cannot be known is |d|^2 (1 - E tanh^2(a^2 + a z)): one integral for each level. The best
guess of eps is then off by alpha / sigma as much, that of v by 1 / sigma. Of one picture nothing is left to guess:
the floor is 0.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aquatint.base.noise import Noise
from aquatint.diffusion.schedule import NoiseSchedule, ScheduleConfig
from aquatint.families import TINY
from aquatint.nets.text import EncodedText, TextEncoder
from aquatint.nets.unet import UNet
from aquatint.training.loop import Run
from aquatint.training.objectives.diffusion import Aim, Denoising
from aquatint.training.recipe import Length, Moment, Optim, Recipe, alone

SCHEDULE = NoiseSchedule(ScheduleConfig(kind="linear", start=0.1, end=0.5, steps=6))
CENTRE, APART = torch.tensor([0.3, -0.5, 0.1]), torch.tensor([0.9, 0.2, -0.6])
ROWS, STEPS = 256, 250


class Guess(UNet):
    """out = A x + B + sum over two of C tanh(w . x + h), with numbers of its own for each level; one would do.

    The two begin with opposite signs: the best guess is then near one of them, whatever is predicted.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.config = TINY.unet
        levels, width = SCHEDULE.config.steps, len(CENTRE)
        self.scale, self.start = nn.Parameter(torch.zeros(levels, 1)), nn.Parameter(torch.zeros(levels, width))
        self.shift = nn.Parameter(torch.zeros(levels, 2))
        begins = torch.tensor([0.5, 0.3, -0.3])
        self.bend = nn.Parameter(torch.stack([begins, -begins]).repeat(levels, 1, 1))
        self.way = nn.Parameter(torch.stack([begins, begins]).repeat(levels, 1, 1))

    def forward(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None = None) -> Tensor:
        rows, level = x.flatten(1), t.long()
        bent = torch.tanh((self.way[level] * rows[:, None]).sum(2) + self.shift[level])
        out = self.scale[level] * rows + self.start[level] + (self.bend[level] * bent[..., None]).sum(1)
        return out.view_as(x)


def floor(aim: Aim, distance: float) -> float:
    """The least mean squared error a number, over all levels alike, of two pictures `distance` from their centre."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    total = 0.0
    for t in range(SCHEDULE.config.steps):
        level = SCHEDULE.at(t)
        assert isinstance(level.alpha, float)
        assert isinstance(level.sigma, float)
        a = level.alpha * distance / level.sigma
        known = float((weights * np.tanh(a * a + a * nodes) ** 2).sum() / math.sqrt(2 * math.pi))
        off = {"sample": 1.0, "epsilon": (level.alpha / level.sigma) ** 2, "v": 1.0 / level.sigma**2}[aim.prediction]
        snr = (level.alpha / level.sigma) ** 2
        weight = min(snr, aim.snr_cap) / (snr + 1) if aim.snr_cap else 1.0  # Hang et al. 2023, for v
        total += weight * off * distance**2 * (1.0 - known)
    return total / SCHEDULE.config.steps / len(CENTRE)


def learnt(aim: Aim, two: bool, folder: Path) -> tuple[float, float]:
    """The loss of a net that has seen one batch for a while, over 15,000 fresh draws of noise, and its error."""
    signs = torch.tensor([1.0, -1.0 if two else 1.0]).repeat(ROWS // 2)[:, None]
    latents = (CENTRE + signs * APART)[:, :, None, None]
    net, said = Guess(), EncodedText(torch.zeros(ROWS, 1, 1), torch.zeros(ROWS, 1))
    objective = Denoising(net, TextEncoder(TINY.text), SCHEDULE, aim, player=net, tell=lambda batch: said)
    optim = {"unet": Optim(lr=0.05, betas=(0.9, 0.99), decay=0.0, warmup=1, hold=0.3, final=0.0, clip=0.0)}
    recipe = Recipe(
        "floor",
        1,
        objective,
        lambda moment, share: {"latents": latents},
        Length(steps=STEPS),
        optim,
        (),
        batch_size=ROWS,
    )
    run = Run(recipe, folder)
    while run.step < STEPS:
        run.take_step(run.moment)
    losses = []
    with torch.no_grad():
        for index in range(60):
            noise = Noise([9] * ROWS, range(index * ROWS, (index + 1) * ROWS))
            (loss,) = alone(objective.losses({"latents": latents}, Moment(0, 0.0), noise))
            losses.append(loss.value)
    found = torch.stack(losses)
    return found.mean().item(), (found.std() / len(found) ** 0.5).item()


@pytest.mark.parametrize(("prediction", "cap"), [("epsilon", 0.0), ("v", 0.0), ("sample", 0.0), ("v", 1.0)])
def test_two_pictures_leave_what_cannot_be_known(prediction: str, cap: float, tmp_path: Path) -> None:
    aim = Aim(prediction, snr_cap=cap, late_from=0)
    least = floor(aim, APART.norm().item())
    got, error = learnt(aim, True, tmp_path)
    assert least - 3 * error < got < 1.03 * least + 3 * error


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_one_picture_leaves_nothing_to_guess(prediction: str, tmp_path: Path) -> None:
    got, _ = learnt(Aim(prediction, late_from=0), False, tmp_path)
    assert got < 1e-4
