"""A file's tensors into one small net: every name and shape is compared before a number is read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from aquatint.base.errors import UserError
from aquatint.weights import store
from aquatint.weights.checks import check_finite
from aquatint.weights.header import FLOATS

N = TypeVar("N", bound=nn.Module)


def placed(build: Callable[[], N], held: store.Held, names: Mapping[str, str], takes: str, dtype: torch.dtype) -> N:
    """The net with the file's tensors in it, for evaluation.

    names   our name of a parameter -> the file's; every parameter must be in it, with its shape, and nothing else
    takes   what the file was taken for, for the error

    Raises UserError for tensors that are missing, left over, of another shape or kind, or not finite.
    """
    with torch.device("meta"):
        net = build()
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    lacking, extra = sorted(set(shapes) - set(names)), sorted(names[name] for name in set(names) - set(shapes))
    if lacking or extra:
        told = f"lacks {len(lacking)} (as {lacking[0]})" if lacking else f"has {len(extra)} more (as {extra[0][:80]})"
        raise UserError(f'"{held.path}" {told} of the tensors of {takes}.', "All of them, and no others.")
    state = {}
    for ours, theirs in names.items():
        entry = held.entry(theirs)
        if tuple(entry.shape) != shapes[ours] or entry.dtype not in FLOATS:
            raise UserError(
                f'"{held.path}": {theirs[:80]} is {list(entry.shape)} of {entry.dtype}.',
                f"{list(shapes[ours])} in {takes}.",
            )
        tensor = held.tensor(theirs)
        check_finite(tensor.float() if entry.dtype.startswith("F8") else tensor, f'"{held.path}": {theirs[:80]}')
        state[ours] = tensor.to(dtype, copy=True)
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(False)


def held_at(path: str | Path, takes: str) -> store.Held:
    """The file at a path, with its tensors; UserError for a path that leads nowhere."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f'There is no file "{str(path)[:200]}".', takes, "Check the path.")
    held = store.single(path.resolve())
    if not held.where:
        raise UserError(f'"{path}" holds no tensors.', takes)
    return held
