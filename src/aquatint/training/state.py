"""Where a run stands, on disk: weights, averages and optimisers in one file that is whole or not there.

Each file's head holds the sha256 of all that it says. A file that does not keep its promise is never gone on from: the
one before it is, and the user is told.
"""

import hashlib
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aquatint.base import config, files, growing
from aquatint.base.errors import UserError
from aquatint.training.optim import Average, trained
from aquatint.training.sharding import like, own, whole
from aquatint.weights import writer
from aquatint.weights.header import DTYPES, Malformed, read_header

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"
TIMES = 8  # how many times as much as a model's file a state's head may list


class Damaged(UserError):
    """A checkpoint that is not what was written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f'The checkpoint "{path}" is damaged: {why}.', "A whole one.", "The one before it will do.")


class NotFinite(UserError):
    """A state that is not to be saved."""

    def __init__(self, name: str, step: int) -> None:
        super().__init__(
            f"{name} holds a number that is not finite, after step {step}: it is not saved.",
            "A run needs finite numbers.",
            "Lower the learning rate; the checkpoints on the disk are sound.",
        )


def save_state(
    folder: Path,
    facts: Mapping[str, Any],
    players: Mapping[str, nn.Module],
    averages: Mapping[str, list[Average]],
    optimisers: Mapping[str, torch.optim.Optimizer],
    keep: int = 2,
) -> Path:
    """Write `folder/step-NNNNNNNN.safetensors`; returns its path. `facts` (JSON) ride in the header."""
    return write_state(folder, facts, collected(players, averages, optimisers), keep)


def write_state(folder: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], keep: int) -> Path:
    """Write what was collected; `keep` checkpoints stay. An older one goes after this one was written and read back.

    Raises NotFinite, and UserError where the disk will not have it; then no older one has gone.
    """
    if odd := first_odd(tensors):
        raise NotFinite(odd, facts["step"])
    path, text = folder / f"step-{facts['step']:08d}.safetensors", json.dumps(facts)
    with files.writing(path) as out:
        writer.write(out, outgoing(tensors), {"state": text, "digest": digest_of(text, tensors)})
    if files.measure(path) != (out.size, out.sha256):
        files.remove(path)
        raise Damaged(path, "it reads otherwise than it was written")
    for old in [found for found in checkpoints(folder) if number(found) <= facts["step"]][:-keep]:
        files.remove(old)
    return path


def outgoing(tensors: Mapping[str, Tensor]) -> list[writer.Outgoing]:
    """Tensors as they are written to a file."""
    return [writer.Outgoing(name, t.dtype, tuple(t.shape), lambda t=t: t) for name, t in tensors.items()]  # type: ignore[misc]


def first_odd(tensors: Mapping[str, Tensor]) -> str:
    """The name of a tensor with a number that is not finite; empty if there is none."""
    return next((name for name, tensor in tensors.items() if not _finite(tensor)), "")


def _finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, looked at in pieces so small that torch keeps to this thread.

    A second thread with helpers of its own slows the steps beside it down as long as it lives (docs/log.md).
    """
    return all(bool(piece.isfinite().all()) for piece in tensor.reshape(-1).split(2**15 - 1))


def collected(
    players: Mapping[str, nn.Module],
    averages: Mapping[str, list[Average]],
    optimisers: Mapping[str, torch.optim.Optimizer],
    *,
    kept: bool = True,
) -> dict[str, Tensor]:
    """Copies of all that a state holds, by name, whole and on the CPU. Of sharded weights all processes take part.

    kept=False   for those that only help the first one to gather: nothing is kept
    """
    found = ((name, whole(tensor, pattern)) for name, tensor, pattern in held(players, averages, optimisers))
    if not kept:
        deque(found, maxlen=0)
        return {}
    return {name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor) for name, tensor in found}


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
    """Put a saved state's tensors back into freshly built parts, to the bit; UserError where they are of another."""
    left = set(tensors)

    def fitting(prefix: str, patterns: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for key, pattern in patterns.items():
            if prefix + key not in left:
                raise Unfitting(prefix + key, "is missing")
            value = tensors[prefix + key]
            if (value.shape, value.dtype) != (pattern.shape, pattern.dtype):
                raise Unfitting(prefix + key, f"is {list(value.shape)} in {value.dtype}")
            left.discard(prefix + key)
            yield key, value

    for name, player in players.items():
        current = player.state_dict()
        weights = fitting(f"{name}/weights/", current)
        player.load_state_dict({key: like(value, current[key]) for key, value in weights})
        for average in averages[name]:
            average.load(fitting(f"{name}/average/{average.name}/", average.shadow))
        learning = itertools.chain(*trained(player))
        for index, (weight, rows) in enumerate(zip(learning, parameters(optimisers[name]), strict=True)):
            prefix = f"{name}/optimiser/{index}/"
            moved = {"step": torch.tensor(0.0), "exp_avg": weight, "exp_avg_sq": weight}
            optimisers[name].state[rows] = {
                key: value if key == "step" else own(like(value, weight)).to(rows.device)
                for key, value in fitting(prefix, moved if prefix + "step" in left else {})
            }
    if left:
        raise Unfitting(min(left), "has no place")


class Unfitting(UserError):
    """A checkpoint of other nets than these."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f'The checkpoint is of another run: "{name[:200]}" {why}.', "One of this recipe.", "Name another folder."
        )


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A saved state's facts and tensors, in memory of our own; Damaged if they are not those that were saved."""
    try:
        with files.reading(path, follow=False) as (file, size):
            head = read_header(file, size, TIMES)
            tensors = {}
            for name, entry in head.entries.items():
                tensors[name] = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
                file.seek(head.start + entry.begin)
                _fill(writer.bytes_of(tensors[name]), file)
    except (Malformed, UserError) as error:
        raise Damaged(path, (error.takes or error.got if isinstance(error, UserError) else str(error))[:150]) from None
    if not {"state", "digest"} <= head.metadata.keys():
        raise Damaged(path, "it is no training state of this version")
    if digest_of(head.metadata["state"], tensors) != head.metadata["digest"]:
        raise Damaged(path, "its numbers are not those that were saved")
    return facts_of(path, head.metadata["state"]), tensors


def facts_of(path: Path, text: str) -> dict[str, Any]:
    """What a state says of itself; Damaged if that is nothing that a run says."""
    try:
        facts = config.parse(text)
    except UserError as error:
        raise Damaged(path, error.got[:150]) from None
    bounds = {"step": 10**12, "spent": 10**12, "threads": 4096, "log": 2**62}
    if not isinstance(facts, dict) or not {"recipe", "step", "spent"} <= facts.keys():
        raise Damaged(path, "it does not say where its run stands")
    for name, most in bounds.items():
        value = facts.get(name, 1)
        kinds = (int, float) if name == "spent" else (int,)
        if type(value) not in kinds or not 0 <= value <= most:
            raise Damaged(path, f'its "{name}" is {str(value)[:30]}')
    return facts


def _fill(left: memoryview, file: Any) -> None:
    while left:
        count = file.readinto(left)
        if not count:
            raise Malformed("it became shorter while it was read")
        left = left[count:]


def newest(folder: Path, tell: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The newest saved state that is whole, and None where there is no checkpoint; damaged ones are told of.

    Raises Damaged where all are.
    """
    trouble: Damaged | None = None
    for path in reversed(checkpoints(folder)):
        try:
            facts, tensors = read(path)
            if facts["step"] != number(path):
                raise Damaged(path, f"it holds step {facts['step']}")
            return facts, tensors
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
    with growing.holding(folder / LOCK) as held:
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
    found = [path for path in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d{8,12}", path.stem)]
    return sorted(found, key=number)


def number(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.stem.removeprefix("step-"))


def parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """The optimiser's parameters in the order of its groups."""
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
