"""A batch in parts: the same gradient, and the same bits whatever the number of processes."""

from pathlib import Path

import pytest
import torch
from tests.training.company import digest, recipe, stint, together

from aquatint.base.errors import UserError
from aquatint.training import parallel
from aquatint.training.loop import Run, train
from aquatint.training.parts import Sum, own_parts
from aquatint.training.recipe import Share

NAMES = ("latents", "pairs", "pictures")


def run_all(folder: Path, until: int, **changes: object) -> None:
    for name in NAMES:
        stint(name, folder / name, until, **changes)


def digests(folder: Path) -> dict[str, str]:
    return {name: digest(folder / name) for name in NAMES}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bits of one process that computes four parts after another."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("one")
    run_all(folder, 6, parts=4)
    return digests(folder)


@pytest.mark.parametrize("world", [2, 4])
def test_processes_do_not_change_the_bits(world: int, one: dict[str, str], tmp_path: Path) -> None:
    together(world, run_all, tmp_path, 6, parts=4)
    assert digests(tmp_path) == one


def test_nor_does_their_number_when_it_changes_between_stints(one: dict[str, str], tmp_path: Path) -> None:
    for until, world in ((1, 1), (3, 4), (4, 2), (6, 1)):
        together(world, run_all, tmp_path, until, parts=4)
    assert digests(tmp_path) == one


def test_other_parts_and_other_seeds_have_other_bits(one: dict[str, str], tmp_path: Path) -> None:
    run_all(tmp_path / "halves", 6, parts=2)
    run_all(tmp_path / "seed", 6, parts=4, seed=77)
    for folder in ("halves", "seed"):
        found = digests(tmp_path / folder)
        differ = {name for name in NAMES if found[name] != one[name]}
        assert differ == (set(NAMES) if folder == "halves" else {"latents", "pictures"}), "pairs take no noise"
