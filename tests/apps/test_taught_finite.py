"""What was learned is written only if all of it is finite; else the user is told what is not, and no file is made."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.fixtures import tiny_bundle

from aquatint.apps.cli.taught import FORMATS, keep, recipe_of, target_of
from aquatint.base.errors import UserError
from aquatint.training.lesson import Tuning
from aquatint.training.tuning import Full, Hinted, Inversion, Learned, LoRA


@pytest.fixture
def data(tmp_path: Path) -> str:
    folder = tmp_path / "pictures"
    (folder / "hints").mkdir(parents=True)
    Image.new("RGB", (64, 64), (80, 20, 120)).save(folder / "a.png")
    Image.new("RGB", (64, 64), (8, 20, 12)).save(folder / "hints" / "a.png")
    return str(folder)


def settings_of(kind: str, data: str) -> Tuning:
    kinds: dict[str, Tuning] = {
        "lora": LoRA(data=data, words="x", steps=1, rank=2),
        "inversion": Inversion(data=data, word="zorb", like="apple", steps=1),
        "full": Full(data=data, words="x", steps=1),
        "controlnet": Hinted(data=data, words="x", steps=1),
    }
    return kinds[kind]


def numbers(learned: Learned) -> torch.Tensor:
    """One of the tensors that were learned, to be spoiled."""
    if learned.adapters:
        adapter = next(iter(next(iter(learned.adapters.values())).values()))
        return next(value for value in vars(adapter).values() if isinstance(value, torch.Tensor))
    if learned.vectors:
        return learned.vectors["zorb"][0]
    net = learned.control or next(iter(learned.nets.values()))
    return next(weight for weight in net.parameters() if weight.ndim == 1)


@pytest.mark.parametrize(("kind", "format"), [(kind, format) for kind, all in FORMATS.items() for format in all])
def test_what_is_not_finite_is_not_exported(kind: str, format: str, data: str, tmp_path: Path) -> None:
    bundle, settings = tiny_bundle(), settings_of(kind, data)
    tuned = recipe_of(kind, bundle, settings)
    learned = tuned.learned(tuned.recipe.objective.players)
    target = target_of(settings, format, tmp_path / "out")
    for value in (float("nan"), float("inf")):
        with torch.no_grad():
            flat = numbers(learned).view(-1)
            before = flat[-1].item()
            flat[-1] = value
        with pytest.raises(UserError, match="not finite"):
            keep(bundle, learned, target, format, {})
        assert not target.exists()
        with torch.no_grad():
            flat[-1] = before
    keep(bundle, learned, target, format, {})  # the control: it was that number
    assert target.exists()
