"""Processes and loader workers, both changed on the way: one run, to the bit (T6)."""

from pathlib import Path

import pytest
from tests.training.company import digest, stint, together
from tests.training.sets import prepared

from aquatint.training.data.buckets import Shape
from aquatint.training.data.loader import Loader
from aquatint.training.data.prepared import Prepared

STEPS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("set"), 7, ((64, 48), (48, 64)), shard_count=3)


def drawn(data: Path, folder: Path, until: int, workers: int, seed: int = 5) -> None:
    """Go on with an autoencoder and its critic, shown what a loader draws."""
    with Loader(Prepared(data), (Shape(32, 32),), batch=4, seed=seed, flip=True, crop=True, workers=workers) as loader:
        stint("pictures", folder, until, steps=STEPS, parts=4, batch=loader.batch)


def result(folder: Path) -> str:
    return digest(folder) + (folder / "losses.txt").read_text()


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("plain")
    drawn(data, folder, STEPS, workers=0)
    return result(folder)


def test_processes_and_workers_change_together(data: Path, plain: str, tmp_path: Path) -> None:
    together(2, drawn, data, tmp_path / "both", 2, workers=2)
    drawn(data, tmp_path / "both", STEPS, workers=1)
    assert result(tmp_path / "both") == plain
    drawn(data, tmp_path / "other", STEPS, workers=1, seed=6)
    assert result(tmp_path / "other") != plain, "the control: other samples"


@pytest.mark.slow
@pytest.mark.parametrize("resume", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_all_of_them(world: int, workers: int, resume: int, data: Path, plain: str, tmp_path: Path) -> None:
    """The number of processes and of workers is another after the resume."""
    together(world, drawn, data, tmp_path / "run", resume, workers=workers)
    others, more = {1: 2, 2: 4, 4: 1}[world], {0: 1, 1: 2, 2: 4, 4: 0}[workers]
    together(others, drawn, data, tmp_path / "run", STEPS, workers=more)
    assert result(tmp_path / "run") == plain
