"""Small models, made once a session."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.weights.models import EVERY, random_model

from aquatint.weights import Opened


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that share small operations on a busy machine wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models() -> Callable[[str], Opened]:
    """models("SD21_V"): the small random model of that family, made when first asked for."""
    made: dict[str, Opened] = {}

    def model(name: str) -> Opened:
        if name not in made:
            made[name] = random_model(EVERY[name])
        return made[name]

    return model


@pytest.fixture
def tiny(models: Callable[[str], Opened]) -> Opened:
    """The small Stable Diffusion 1."""
    return models("SD15")


@pytest.fixture(scope="session")
def saved(models: Callable[[str], Opened], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """saved("compvis"): where the small Stable Diffusion 1 lies in that format; not to be changed."""
    from aquatint.weights import save

    root = tmp_path_factory.mktemp("saved")
    made: dict[str, Path] = {}

    def path(format: str) -> Path:
        if format not in made:
            name = "model.safetensors" if format == "compvis" else format
            made[format] = save(models("SD15"), root / name, format)
        return made[format]

    return path
