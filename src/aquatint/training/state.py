"""Where a run stands, on disk: weights, averages and optimisers in one file that is whole or not there.

Each file's head holds the sha256 of all that it says. A file that does not keep its promise is never gone on from: the
one before it is, and the user is told.
"""

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.training.optim import Average, trained
from aquatint.training.sharding import like, own, whole

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

KEPT = 2  # checkpoints that stay; the older one goes only after the newer one has been written and read back
LOCK = "run.lock"


class Damaged(UserError):
    """A checkpoint that is not what was written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f'The checkpoint "{path}" is damaged: {why}.', "A whole one.", "The one before it will do.")


def save_state(
    folder: Path,
    facts: Mapping[str, Any],
    players: Mapping[str, nn.Module],
    averages: Mapping[str, list[Average]],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> Path:
    """Write `folder/step-NNNNNNNN.safetensors`; returns its path. `facts` (JSON) ride in the header."""
    tensors = collected(players, averages, optimisers)
    path = folder / f"step-{facts['step']:08d}.safetensors"
    text = json.dumps(facts)
    files.write(path, save(tensors, {"state": text, "digest": digest_of(text, tensors)}))
    read(path)
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink()
    return path


def collected(
    players: Mapping[str, nn.Module],
    averages: Mapping[str, list[Average]],
    optimisers: Mapping[str, torch.optim.Optimizer],
    *,
    kept: bool = True,
) -> dict[str, Tensor]:
    """All that a state holds, by name, whole and on the CPU. Where weights are sharded, all processes take part.

    kept=False   for those that only help the first one to gather: nothing is kept
    """
    found = ((name, whole(tensor, pattern)) for name, tensor, pattern in held(players, averages, optimisers))
    if not kept:
        deque(found, maxlen=0)
        return {}
    return {name: tensor.contiguous().cpu() for name, tensor in found}


def held(
    players: Mapping[str, nn.Module],
    averages: Mapping[str, list[Average]],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, what this process holds of it, the weight that it belongs to) of everything in a state."""
    for name, player in players.items():
        weights = player.state_dict()
        for key, value in weights.items():
            yield f"{name}/weights/{key}", value.detach(), value
        for average in averages[name]:
            for key, value in average.shadow.items():
                yield f"{name}/average/{average.name}/{key}", value, value
        learning = itertools.chain(*trained(player))
        for index, (weight, rows) in enumerate(zip(learning, parameters(optimisers[name]), strict=True)):
            for key, value in optimisers[name].state.get(rows, {}).items():
                yield f"{name}/optimiser/{index}/{key}", value, weight


def load_state(
    tensors: Mapping[str, Tensor],
    players: Mapping[str, nn.Module],
    averages: Mapping[str, list[Average]],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Put a saved state's tensors back into freshly built parts, to the bit."""
    for name, player in players.items():
        current = player.state_dict()
        player.load_state_dict({k: like(v, current.get(k, v)) for k, v in under(tensors, f"{name}/weights/")})
        for average in averages[name]:
            average.load(under(tensors, f"{name}/average/{average.name}/"))
        learning = itertools.chain(*trained(player))
        for index, (weight, rows) in enumerate(zip(learning, parameters(optimisers[name]), strict=True)):
            optimisers[name].state[rows] = {
                key: value if key == "step" else own(like(value, weight)).to(rows.device)
                for key, value in under(tensors, f"{name}/optimiser/{index}/")
            }


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A saved state's facts and tensors; Damaged if they are not those that were saved."""
    try:
        with safe_open(path, framework="pt") as header:
            metadata = header.metadata() or {}
        tensors = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise Damaged(path, str(error).partition("\n")[0][:100]) from None
    if not {"state", "digest"} <= metadata.keys():
        raise Damaged(path, "it is no training state of this version")
    if digest_of(metadata["state"], tensors) != metadata["digest"]:
        raise Damaged(path, "its numbers are not those that were saved")
    return json.loads(metadata["state"]), tensors


def newest(folder: Path, tell: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The newest saved state that is whole, and None where there is no checkpoint; damaged ones are told of.

    Raises Damaged where all are.
    """
    trouble: Damaged | None = None
    for path in reversed(checkpoints(folder)):
        try:
            return read(path)
        except Damaged as error:
            trouble = trouble or error
            tell(str(error))
    if trouble is not None:
        raise trouble
    return None


def digest_of(facts: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the facts and over every tensor's name, format, shape and bytes."""
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data))
    return digest.hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within, the folder is ours: a second run in it is a UserError. The system lets go of it when a process ends."""
    path = folder / LOCK
    with files.telling(path, "written to"):
        held = path.open("a")
    with held:
        if fcntl is not None:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f'Another run is at work in "{folder}".', "One at a time.", "Name another folder."
                ) from None
        yield


def averaged(folder: Path, player: str) -> dict[str, Tensor]:
    """The longest average of a player's weights in a run's last checkpoint."""
    found = newest(folder, lambda _: None)
    if found is None:
        raise UserError(f'"{folder}" holds no checkpoint.', "The folder of a run.")
    _, tensors = found
    names = {key.split("/")[2] for key in tensors if key.startswith(f"{player}/average/")}
    longest = max((name for name in names if not name.startswith("width ")), key=float)
    return part(tensors, f"{player}/average/{longest}/")


def under(tensors: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors under a prefix, with their names without it, one after the other."""
    return ((key.removeprefix(prefix), tensors[key]) for key in tensors if key.startswith(prefix))


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return dict(under(tensors, prefix))


def checkpoints(folder: Path) -> list[Path]:
    """The saved states of a run, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """The optimiser's parameters in the order of its groups."""
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
