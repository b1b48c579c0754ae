"""Small models, made once a session."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture
def watched() -> Iterator[list[tuple[str, str]]]:
    """What the process does meanwhile besides computing: modules, files, code, connections, programs."""
    seen: list[tuple[str, str]] = []
    live = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if live and event in ("import", "open", "exec", "compile", "socket.connect", "subprocess.Popen", "os.system"):
            seen.append((event, str(arguments[0])))

    sys.addaudithook(hook)  # hooks cannot be removed, so it is told when to stop listening
    yield seen
    live = False
