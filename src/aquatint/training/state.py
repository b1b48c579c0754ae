"""Where a run stands, on disk: weights, averages and optimisers in one file that is whole or not there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.training.optim import Average

KEPT = 2  # checkpoints that stay; the older one goes only after the newer one has been written and read back


def save_state(
    folder: Path,
    facts: Mapping[str, Any],
    players: Mapping[str, nn.Module],
    averages: Mapping[str, list[Average]],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> Path:
    """Write `folder/step-NNNNNNNN.safetensors`; returns its path. `facts` (JSON) ride in the header."""
    tensors: dict[str, Tensor] = {}
    for name, player in players.items():
        tensors |= {f"{name}/weights/{key}": value.detach() for key, value in player.state_dict().items()}
        for average in averages[name]:
            tensors |= {f"{name}/average/{average.decay}/{key}": value for key, value in average.shadow.items()}
        for index, parameter in enumerate(parameters(optimisers[name])):
            for key, value in optimisers[name].state.get(parameter, {}).items():
                tensors[f"{name}/optimiser/{index}/{key}"] = value
    path = folder / f"step-{facts['step']:08d}.safetensors"
    blob = save({key: value.contiguous().cpu() for key, value in tensors.items()}, {"state": json.dumps(facts)})
    files.write(path, blob)
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink()
    return path


def load_state(
    path: Path,
    players: Mapping[str, nn.Module],
    averages: Mapping[str, list[Average]],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> dict[str, Any]:
    """Put a saved state back into freshly built parts, to the bit; returns its facts."""
    facts, tensors = read(path)
    for name, player in players.items():
        player.load_state_dict(part(tensors, f"{name}/weights/"))
        for average in averages[name]:
            average.load(part(tensors, f"{name}/average/{average.decay}/"))
        for index, parameter in enumerate(parameters(optimisers[name])):
            optimisers[name].state[parameter] = part(tensors, f"{name}/optimiser/{index}/")
    return facts


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A saved state's facts and tensors."""
    return facts_of(path), load_file(path)


def facts_of(path: Path) -> dict[str, Any]:
    """A saved state's facts, from its head alone."""
    with safe_open(path, framework="pt") as header:
        metadata = header.metadata() or {}
    if "state" not in metadata:
        raise UserError(
            f'"{path}" is not a training state.', "A file that a run of aquatint wrote (step-*.safetensors)."
        )
    facts: dict[str, Any] = json.loads(metadata["state"])
    return facts


def averaged(folder: Path, player: str) -> dict[str, Tensor]:
    """The longest average of a player's weights in a run's last checkpoint."""
    _, tensors = read(checkpoints(folder)[-1])
    decays = {key.split("/")[2] for key in tensors if key.startswith(f"{player}/average/")}
    return part(tensors, f"{player}/average/{max(decays, key=float)}/")


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def checkpoints(folder: Path) -> list[Path]:
    """The saved states of a run, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """The optimiser's parameters in the order of its groups."""
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
