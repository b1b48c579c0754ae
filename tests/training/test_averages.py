"""Averages whose length is chosen afterwards are those that one would have kept."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aquatint.base.errors import UserError
from aquatint.base.noise import EPS, Noise
from aquatint.training.averages import WIDTHS, Profile, chosen, overlap, power
from aquatint.training.loop import Run, train
from aquatint.training.recipe import Length, Loss, Moment, Optim, Recipe
from aquatint.training.state import averaged


class Wanderer:
    """Weights that drift and shake: what averages of different lengths see differently."""

    def __init__(self) -> None:
        self.player = nn.Linear(30, 1)
        nn.init.zeros_(self.player.weight)
        nn.init.zeros_(self.player.bias)
        self.players: Mapping[str, nn.Module] = {"player": self.player}

    def losses(self, batch: Mapping[str, Any], moment: Moment, noise: Noise) -> Iterator[Loss]:
        x = noise.normal((30,), draw=EPS)
        aim = torch.sin(torch.arange(30.0) * (1 + 3 * moment.progress))
        loss = (self.player(x)[:, 0] - x @ aim).square().mean()
        yield Loss("player", loss, {"loss": loss.item()})


def recipe(steps: int = 480, every: int = 16) -> Recipe:
    optim = {"player": Optim(lr=0.05, warmup=1, hold=1.0)}
    return Recipe(
        "wander",
        0,
        Wanderer(),
        lambda moment, share: {},
        Length(steps=steps),
        optim,
        batch_size=2,
        snapshot_steps=every,
    )


def numeric(width: float) -> float:
    t = (np.arange(200_000) + 0.5) / 200_000
    weights = t ** power(width)
    mean = (weights * t).sum() / weights.sum()
    return float(np.sqrt((weights * (t - mean) ** 2).sum() / weights.sum()))


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.2, 0.28])
def test_a_profile_has_the_width_that_is_asked_for(width: float) -> None:
    assert numeric(width) == pytest.approx(width, rel=1e-4)


def test_the_weights_of_a_profile_are_powers_of_the_step() -> None:
    module = nn.Linear(1, 1, bias=False)
    profile, given = Profile(module, 0.1), np.zeros(300)
    for step in range(300):  # which weight does step s end up with? feed ones at s alone
        given *= profile.kept(step)
        given[step] += 1 - profile.kept(step)
    wanted = (np.arange(300) + 1.0) ** profile.power
    np.testing.assert_allclose(given[50:], (wanted / wanted.sum())[50:], rtol=0.09)
    assert given.sum() == pytest.approx(1.0)


def test_overlaps_are_the_integrals() -> None:
    times, powers = np.array([3.0, 5.0]), np.array([2.0, 9.0])
    t = (np.arange(400_000) + 0.5) / 400_000 * 5
    rows = [np.where(t <= end, (p + 1) * (t / end) ** p / end, 0.0) for end, p in zip(times, powers, strict=True)]
    for i in range(2):
        for j in range(2):
            found = overlap(times, powers, times, powers)[i, j]
            assert found == pytest.approx((rows[i] * rows[j]).mean() * 5, rel=1e-4)


def test_a_length_chosen_later_is_that_kept_all_along(tmp_path: Path) -> None:
    made = recipe()
    run = Run(made, tmp_path / "direct")
    direct = {width: Profile(made.objective.players["player"], width) for width in (0.06, 0.075, 0.15)}
    middle: dict[float, Tensor] = {}
    for step in range(480):
        run.take_step(run.moment)
        for width, profile in direct.items():
            profile.update(made.objective.players["player"], step)
            if step + 1 == 320:
                middle[width] = profile.shadow["weight"].clone()
    train(recipe(), tmp_path / "run")
    last = made.objective.players["player"].weight.detach()
    for width, profile in direct.items():
        for step, wanted in ((None, profile.shadow["weight"]), (320, middle[width])):
            found = chosen(tmp_path / "run", "player", width, step)["weight"]
            others = [chosen(tmp_path / "run", "player", kept, step)["weight"] for kept in WIDTHS]
            apart = min((other - wanted).norm() for other in others)
            bound = 0.05 if width < 0.1 else 0.5  # beyond those that were kept it is a guess
            assert (found - wanted).norm() < bound * apart, (width, step)
            assert (found - wanted).norm() < 0.02 * (last - wanted).norm()


def test_they_go_on_to_the_bit_and_stay_apart_from_the_others(tmp_path: Path) -> None:
    train(recipe(48), tmp_path / "whole")
    run = Run(recipe(48), tmp_path / "cut")
    (tmp_path / "cut").mkdir()
    for _ in range(20):
        run.take_step(run.moment)
    run.save()
    train(recipe(48), tmp_path / "cut")
    for name in ("averages-00000032.safetensors", "averages-00000048.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    longest = averaged(tmp_path / "cut", "player")["weight"]
    assert not torch.equal(longest, chosen(tmp_path / "cut", "player", 0.1)["weight"])


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no snapshots"):
        chosen(tmp_path, "player", 0.1)
    with pytest.raises(UserError, match=r"width of 0\.3"):
        power(0.3)
    train(recipe(32), tmp_path)
    with pytest.raises(UserError, match="Step 8"):
        chosen(tmp_path, "player", 0.1, 8)
    with pytest.raises(UserError, match='no player "other"'):
        chosen(tmp_path, "other", 0.1)
