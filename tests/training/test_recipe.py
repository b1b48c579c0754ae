"""Recipes with impossible values are refused where they are made."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.training.recipe import Length, Loss, Moment, Optim, Recipe


class Idle:
    players: Mapping[str, nn.Module] = {"net": nn.Linear(1, 1)}

    def losses(self, batch: Mapping[str, Any], moment: Moment, noise: Noise) -> Iterator[Loss]:
        yield from ()


SOUND = Recipe("idle", 0, Idle(), lambda moment, share: {}, Length(steps=1), {"net": Optim()})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"log_steps": 0}, "log_steps = 0"),
        ({"watch_steps": -1}, "watch_steps = -1"),
        ({"snapshot_steps": -1}, "snapshot_steps = -1"),
        ({"save_minutes": -1.0}, "save_minutes = -1"),
        ({"watch_minutes": float("nan")}, "watch_minutes = nan"),
        ({"averages": (0.9, 1.0)}, "averages hold 1"),
        ({"dtype": "float16"}, "float16"),
        ({"dtype": "int8"}, "int8"),
        ({"optim": {}}, "optim is for nobody; those who learn are net"),
        ({"optim": {"net": Optim(), "nets": Optim()}}, "optim is for net, nets"),
    ],
)
def test_of_a_recipe(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        replace(SOUND, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"steps": -1}, {"minutes": float("nan")}, {"steps": 5, "minutes": 1.0}, {"minutes": float("inf")}],
)
def test_of_a_length(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="A run of"):
        Length(**wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1e-4),
        ("lr", float("nan")),
        ("eps", -1.0),
        ("decay", float("inf")),
        ("hold", 1.5),
        ("final", -0.1),
        ("clip", float("nan")),
        ("warmup", -1),
        ("betas", (0.9, 1.0)),
        ("betas", (float("nan"), 0.9)),
    ],
)
def test_of_an_optimiser(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"optim\.{name}"):
        Optim(**{name: value})
