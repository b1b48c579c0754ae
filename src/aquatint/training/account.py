"""What a run was made with, beside its results: run.json."""

import sys
from pathlib import Path
from typing import Any

import torch

import aquatint
from aquatint.base import config, files
from aquatint.training.recipe import Recipe

NAME = "run.json"


def described(recipe: Recipe, processes: int = 1) -> dict[str, Any]:
    """A recipe as plain data: its facts, its players with how many numbers of them learn, and how they do."""
    players = {
        name: sum(weight.numel() for weight in player.parameters() if weight.requires_grad)
        for name, player in recipe.objective.players.items()
    }
    plain = ("batch_size", "averages", "dtype", "seed", "log_steps", "save_minutes", "save_steps", "keep")
    return {
        "recipe": recipe.name,
        **recipe.facts,
        "numbers that learn": players,
        "length": config.to_data(recipe.length),
        "optim": config.to_data(recipe.optim),
        **{name: config.to_data(getattr(recipe, name)) for name in plain},
        "device": str(recipe.device),
        "processes": processes,
    }


def made_with() -> dict[str, Any]:
    """The versions that compute, and the commit of aquatint where it is known."""
    return {
        "aquatint": aquatint.__version__,
        "commit": commit(),
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def commit(root: Path = Path(aquatint.__file__).parents[2]) -> str | None:
    """The commit that is checked out where aquatint runs from; None where that is no working copy."""
    try:
        git = root / ".git"
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = (line.split() for line in (git / "packed-refs").read_text().splitlines() if line[:1] not in "#^")
        return next((sha for sha, ref in packed if ref == name), None)
    except (OSError, UnicodeDecodeError, ValueError):
        return None


def write(recipe: Recipe, folder: Path, processes: int = 1) -> None:
    """Renew run.json in the run's folder."""
    files.write(folder / NAME, config.to_json({**described(recipe, processes), "made with": made_with()}, indent=1))
