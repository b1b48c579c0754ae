"""Adapters put on a net and taken off again, on any module, without touching the net that they are put on.

`attach` answers another net: the same modules, the same tensors, and new ones only where an adapter acts. The weights
of the net that was given are never written, so whatever fails, they are what they were. Adding to the weights once is
simpler than adding low ranks in every forward pass: all kinds of adapters are the same to it, any number of them costs
nothing while painting, and engines see plain layers. It costs the memory of the layers that are hit.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from aquatint.base.errors import UserError
from aquatint.nets.adapters import Adapter, Difference, LowRank, Shape
from aquatint.nets.shared import shared_copy

M = TypeVar("M", bound=nn.Module)
_BARE = "_bare"  # where an attached net remembers the one below


class Change(NamedTuple):
    """An adapter and how much of it: 1 is as trained, 0 nothing, negative the opposite."""

    adapter: Adapter
    strength: float = 1.0


Changes = Mapping[str, Sequence[Change]]  # by the name of the weight in the net's state dict


@torch.no_grad()
def attach(net: M, changes: Changes) -> M:
    """The net with W + sum_k strength_k * delta_k(W) for every weight W that is named; `net` stays as it is.

    Every delta is taken from the given W, not from the sum so far, and added in the order given, in float32: so kinds
    that look at W (DoRA, OFT, (IA)3) mean the same in any company. A strength of 0 leaves the very tensor. Raises
    UserError for a name that the net does not have, an adapter that does not fit, and sums that are not finite.
    """
    known = net.state_dict(keep_vars=True)
    twin = shared_copy(net)
    for name, rows in changes.items():
        if name not in known:
            raise UserError(f'The net has no weight "{name}".', "Adapters for weights that it has.")
        rows = [row for row in rows if row.strength]
        if rows:
            owner, _, leaf = name.rpartition(".")
            moved = nn.Parameter(_moved(name, known[name].detach(), rows), requires_grad=False)
            setattr(twin.get_submodule(owner), leaf, moved)
    twin.__dict__[_BARE] = net  # beside torch's own tables: no submodule, not part of the state dict
    return twin


def detach(net: M) -> M:
    """The net that `attach` was given: itself, not a copy."""
    bare: M | None = net.__dict__.get(_BARE)
    if bare is None:
        raise UserError("There is no adapter on this net.", "A net that `attach` made.")
    return bare


def merge(net: M, changes: Changes) -> M:
    """As `attach`, for good: a net with tensors of its own, which knows nothing of the one below."""
    twin = attach(net, changes)
    del twin.__dict__[_BARE]
    return copy.deepcopy(twin)


@dataclass(frozen=True, eq=False)
class Extracted:
    """What one net differs from another by.

    adapters   by the weight's name; attached to the first net, they give nearly the second
    kept       the share of the squared difference of the weights named in `adapters` that they hold, 0 ... 1
    energy     that squared difference
    left       weights that differ and are not matrices or kernels, where those were not asked for
    """

    adapters: dict[str, Adapter]
    kept: float
    energy: float
    left: tuple[str, ...]


@torch.no_grad()
def extract(base: nn.Module, tuned: nn.Module, rank: int, *, rest: bool = False) -> Extracted:
    """The best low-rank adapters from `base` to `tuned`, by singular values (Eckart & Young 1936).

    rank   the most that each may have
    rest   whether biases and norms, which have no rank, are kept as they differ
    """
    if rank < 1:
        raise UserError(f"rank = {rank}.", "A whole number from 1.")
    ours, theirs = base.state_dict(), tuned.state_dict()
    if _shapes(ours) != _shapes(theirs):
        odd = sorted(set(_shapes(ours).items()) ^ set(_shapes(theirs).items()))
        raise UserError(f"The two nets are of different shapes ({odd[0][0]}).", "A net and one that was tuned from it.")
    words = {f"{name}.weight" for name, part in base.named_modules() if isinstance(part, nn.Embedding)}
    adapters: dict[str, Adapter] = {}
    left, whole, held = [], 0.0, 0.0
    for name, weight in ours.items():
        apart = theirs[name].float() - weight.float()
        if not apart.any():
            continue
        if weight.ndim < 2 or name in words:
            if rest and name not in words:
                adapters[name] = Difference(apart)
            else:
                left.append(name)
            continue
        adapters[name], share = _low_rank(apart, rank)
        energy = float(apart.double().square().sum())
        whole, held = whole + energy, held + share * energy
    return Extracted(adapters, held / whole if whole else 1.0, whole, tuple(left))


def _low_rank(apart: Tensor, rank: int) -> tuple[LowRank, float]:
    """The nearest product of `rank` columns and rows, and its share of the squares."""
    left, values, right = torch.linalg.svd(apart.flatten(1), full_matrices=False)
    rank = min(rank, int((values > 0).sum()))
    root = values[:rank].sqrt()
    down, up = root[:, None] * right[:rank], left[:, :rank] * root
    if apart.ndim == 4:
        down, up = down.reshape(rank, *apart.shape[1:]), up[..., None, None]
    squares = values.double().square()
    return LowRank(down.contiguous(), up.contiguous()), float(squares[:rank].sum() / squares.sum())


def _moved(name: str, weight: Tensor, rows: Sequence[Change]) -> Tensor:
    """One weight with its changes, in its own number format and memory layout."""
    total = torch.empty_like(weight, dtype=torch.float32).copy_(weight)
    for adapter, strength in rows:
        if why := adapter.misfit(tuple(weight.shape)):
            raise UserError(f'An adapter does not fit the weight "{name}": {why}.', "One made for this net.")
        total.add_(adapter.delta(weight), alpha=strength)
    made = total.to(weight.dtype)
    if not torch.isfinite(torch.stack(torch.aminmax(made))).all():
        raise UserError(
            f'The weight "{name}" has values that are not finite with its adapters.', "", "Weigh them less."
        )
    return made


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
