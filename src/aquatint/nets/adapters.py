"""The kinds of weight adapters, each as data that says how far a weight is to move.

All answer `delta(weight)`: what is added to the weight at full strength, float32, in the weight's shape. `misfit`
says, from shapes alone, why an adapter cannot be meant for a weight. A layer's weight is [out, in] or [out, in, h, w].
Formulas and names are those of the papers; the files' spellings are in weights/adapter_kinds.py.
"""

import math
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Shape = tuple[int, ...]
Weight = Float[Tensor, "..."]


@runtime_checkable  # for the tests, which check every annotation
class Adapter(Protocol):
    """A change of one weight."""

    @property
    def rank(self) -> int:
        """Of the change; 0 for kinds that have none."""

    def misfit(self, shape: Shape) -> str:
        """Why it does not fit a weight of this shape; empty if it does."""

    def delta(self, weight: Weight) -> Weight:
        """What is added to the weight, float32."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """scale * up down (LoRA, Hu et al. 2022, eq. 3); for a convolution, up (1x1) after down (the kernel): LoCon.

    With a middle, up (1x1) middle (the kernel) down (1x1): Tucker's form. scale is alpha / rank.
    down [r, in] or [r, in, h, w], up [out, r] or [out, r, 1, 1], middle [r, r, h, w].
    """

    down: Tensor
    up: Tensor
    middle: Tensor | None = None
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Rows of down."""
        return self.down.shape[0]

    def misfit(self, shape: Shape) -> str:
        """Whether up and down meet, and span the weight."""
        if self.up.ndim < 2 or self.down.ndim < 2 or _size(self.up.shape[1:]) != self.rank:
            return f"its halves {list(self.up.shape)} and {list(self.down.shape)} do not meet"
        across = _size(self.down.shape[1:])
        if self.middle is not None:
            if self.middle.ndim < 3 or self.middle.shape[:2] != (self.rank, self.rank):
                return f"its middle {list(self.middle.shape)} does not fit rank {self.rank}"
            across *= _size(self.middle.shape[2:])
        return _spans(self.up.shape[0], across, shape)

    def delta(self, weight: Weight) -> Weight:
        """scale * up down."""
        up, down = self.scale * _like(self.up, weight).flatten(1), _like(self.down, weight).flatten(1)
        if self.middle is None:
            made = up @ down
        else:
            made = torch.einsum("oa,ab...,bi->oi...", up, _like(self.middle, weight), down)
        return made.reshape(weight.shape)


@dataclass(frozen=True, eq=False)
class Hadamard:
    """scale * (a1 b1) * (a2 b2), the product of two low ranks number by number (LoHa; Hyeon-Woo et al. 2022).

    a [out, r], b [r, in h w]; with cores [r, r, h, w], a is [r, out] and b [r, in].
    """

    a1: Tensor
    b1: Tensor
    a2: Tensor
    b2: Tensor
    core1: Tensor | None = None
    core2: Tensor | None = None
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Of each factor."""
        return self.b1.shape[0]

    def misfit(self, shape: Shape) -> str:
        """Whether both products span the weight."""
        for a, b, core in ((self.a1, self.b1, self.core1), (self.a2, self.b2, self.core2)):
            if why := _misfit_product(a, b, core, shape):
                return why
        return ""

    def delta(self, weight: Weight) -> Weight:
        """scale * (a1 b1) * (a2 b2)."""
        one = _product(self.a1, self.b1, self.core1, weight).reshape(weight.shape)
        return self.scale * one * _product(self.a2, self.b2, self.core2, weight).reshape(weight.shape)


@dataclass(frozen=True, eq=False)
class Kronecker:
    """scale * one (x) two, Kronecker's product (LoKr; Yeh et al. 2024): one [o1, i1], two [o2, i2] or [o2, i2, h, w].

    Each factor may itself be given as a product: (a, b), or (a, b, core) as in Hadamard.
    """

    one: tuple[Tensor, ...]
    two: tuple[Tensor, ...]
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Of the factor that is a product; 0 if none is."""
        ranks = [factor[1].shape[0] for factor in (self.two, self.one) if len(factor) > 1]
        return ranks[0] if ranks else 0

    def misfit(self, shape: Shape) -> str:
        """Whether the product of the factors' sides spans the weight."""
        spans = []
        for factor in (self.one, self.two):
            if any(part.ndim < 2 for part in factor):
                return "one of its factors is no matrix"
            if len(factor) == 1:
                spans.append((factor[0].shape[0], _size(factor[0].shape[1:])))
            elif len(factor) == 2:
                if factor[0].shape[1] != factor[1].shape[0]:
                    return f"the halves {list(factor[0].shape)} and {list(factor[1].shape)} do not meet"
                spans.append((factor[0].shape[0], _size(factor[1].shape[1:])))
            else:
                a, b, core = factor
                if core.ndim < 2 or core.shape[:2] != (a.shape[0], b.shape[0]):
                    return f"its core {list(core.shape)} does not fit"
                spans.append((a.shape[1], b.shape[1] * _size(core.shape[2:])))
        return _spans(spans[0][0] * spans[1][0], spans[0][1] * spans[1][1], shape)

    def delta(self, weight: Weight) -> Weight:
        """scale * one (x) two; a kernel is the inner part of two's columns."""
        one, two = (
            _like(factor[0], weight) if len(factor) == 1 else _product(factor[0], factor[1], _core(factor), weight)
            for factor in (self.one, self.two)
        )
        return self.scale * torch.kron(one.flatten(1), two.flatten(1)).reshape(weight.shape)


@dataclass(frozen=True, eq=False)
class Decomposed:
    """m * (W + inner) / |W + inner| - W: the direction learned by another adapter, the length given (DoRA, Liu et al.
    2024, eq. 5).

    axis 0: a length for each output, norms over the inputs (LyCORIS, PEFT); 1: for each input (the paper).
    """

    inner: Adapter
    magnitude: Tensor
    axis: int = 0

    @property
    def rank(self) -> int:
        """The inner adapter's."""
        return self.inner.rank

    def misfit(self, shape: Shape) -> str:
        """Whether the lengths are as many as the axis is long, and the inner adapter fits."""
        if self.axis >= len(shape) or self.magnitude.numel() != shape[self.axis]:
            return f"it has {self.magnitude.numel()} lengths, and the weight is {list(shape)}"
        return self.inner.misfit(shape)

    def delta(self, weight: Weight) -> Weight:
        """m * V / |V| - W with V = W + inner's delta."""
        old = weight.float()
        moved = old + self.inner.delta(weight)
        norm = moved.transpose(0, self.axis).flatten(1).norm(dim=1)
        length = _like(self.magnitude, weight).flatten() / (norm + torch.finfo(torch.float32).eps)
        return moved * _along(length, self.axis, weight.ndim) - old


@dataclass(frozen=True, eq=False)
class Rotation:
    """R W - W: blocks of outputs turned by orthogonal matrices (OFT, Qiu et al. 2023, eq. 5).

    blocks      [k, n, n] for k groups of n outputs: Q = blocks - blocks^T, and Cayley's R = (1 + Q)(1 - Q)^-1
                (`ready`: R itself); each group's rows are mixed by R^T, as the trainers have it
                [m, k, n, n]: m such mixings in the order of a butterfly (BOFT, Liu et al. 2024), rows mixed by R
    constraint  the largest norm of Q; 0: none          rescale   a factor for every output, after the turn
    """

    blocks: Tensor
    constraint: float = 0.0
    rescale: Tensor | None = None
    ready: bool = False

    @property
    def rank(self) -> int:
        """The side of a block."""
        return self.blocks.shape[-1]

    def misfit(self, shape: Shape) -> str:
        """Whether the blocks cover the outputs, and pair up at every stage of the butterfly."""
        blocks = self.blocks.shape
        if len(blocks) not in (3, 4) or blocks[-1] != blocks[-2] or not shape or blocks[-3] * blocks[-1] != shape[0]:
            return f"its blocks {list(blocks)} do not cover the {shape[0] if shape else 0} outputs"
        if len(blocks) == 4 and (blocks[-1] % 2 or shape[0] % (2 ** blocks[0] * (blocks[-1] // 2))):
            return f"its butterfly {list(blocks)} does not divide the {shape[0]} outputs"
        if self.rescale is not None and self.rescale.numel() != shape[0]:
            return f"it has {self.rescale.numel()} factors for {shape[0]} outputs"
        return ""

    def delta(self, weight: Weight) -> Weight:
        """R W - W."""
        old, turns = weight.float(), self._turns(weight)
        rows = old.flatten(1)
        if turns.ndim == 3:
            rows = torch.einsum("knm,knp->kmp", turns, rows.unflatten(0, turns.shape[:2])).flatten(0, 1)
        else:
            for stage, turn in enumerate(turns):
                rows = _butterfly(rows, turn, 2**stage * (turn.shape[-1] // 2))
        if self.rescale is not None:
            rows = rows * _like(self.rescale, weight).reshape(-1, 1)
        return rows.reshape(weight.shape) - old

    def _turns(self, weight: Tensor) -> Tensor:
        blocks = _like(self.blocks, weight)
        if self.ready:
            return blocks
        skew = blocks - blocks.transpose(-1, -2)
        if self.constraint:
            norm = skew.norm()
            skew = skew * ((norm.clamp(max=self.constraint) + 1e-8) / (norm + 1e-8))
        one = torch.eye(blocks.shape[-1], device=weight.device)
        return (one + skew) @ torch.linalg.inv(one - skew)


@dataclass(frozen=True, eq=False)
class Scaling:
    """W * factor, added: a factor for every output, or input ((IA)3, Liu et al. 2022; here the factor minus 1)."""

    factor: Tensor
    axis: int = 0

    @property
    def rank(self) -> int:
        """None."""
        return 0

    def misfit(self, shape: Shape) -> str:
        """Whether there are as many factors as the axis is long."""
        fits = self.axis < len(shape) and self.factor.numel() == shape[self.axis]
        return "" if fits else f"it has {self.factor.numel()} factors, and the weight is {list(shape)}"

    def delta(self, weight: Weight) -> Weight:
        """W * factor."""
        return weight.float() * _along(_like(self.factor, weight).flatten(), self.axis, weight.ndim)


@dataclass(frozen=True, eq=False)
class Difference:
    """The change itself, number by number ("full", "diff"); the only kind that biases and norms have."""

    tensor: Tensor

    @property
    def rank(self) -> int:
        """None."""
        return 0

    def misfit(self, shape: Shape) -> str:
        """Whether it has the weight's shape, up to sides of 1."""
        same = [side for side in self.tensor.shape if side != 1] == [side for side in shape if side != 1]
        return "" if same else f"it is {list(self.tensor.shape)}, and the weight {list(shape)}"

    def delta(self, weight: Weight) -> Weight:
        """The difference."""
        return _like(self.tensor, weight).reshape(weight.shape)


def tensors(adapter: Adapter) -> list[Tensor]:
    """All tensors of an adapter, the inner one's included."""
    found: list[Tensor] = []
    for field in fields(adapter):  # type: ignore[arg-type]  # every kind is a dataclass
        value = getattr(adapter, field.name)
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple):
            found += value
        elif field.name == "inner":
            found += tensors(value)
    return found


def _product(a: Tensor, b: Tensor, core: Tensor | None, weight: Tensor) -> Tensor:
    """a b, or with a core of r x r kernels sum_ij core_ij a_i b_j (Tucker)."""
    a, b = _like(a, weight), _like(b, weight)
    return a @ b.flatten(1) if core is None else torch.einsum("ij...,ip,jr->pr...", _like(core, weight), a, b)


def _core(factor: tuple[Tensor, ...]) -> Tensor | None:
    return factor[2] if len(factor) > 2 else None


def _misfit_product(a: Tensor, b: Tensor, core: Tensor | None, shape: Shape) -> str:
    if a.ndim != 2 or b.ndim < 2:
        return f"its halves {list(a.shape)} and {list(b.shape)} are no matrices"
    if core is None:
        meet, spans = a.shape[1] == b.shape[0], (a.shape[0], _size(b.shape[1:]))
    else:
        meet = core.ndim >= 2 and core.shape[:2] == (a.shape[0], b.shape[0])
        spans = (a.shape[1], b.shape[1] * _size(core.shape[2:]))
    return _spans(*spans, shape) if meet else f"its halves {list(a.shape)} and {list(b.shape)} do not meet"


def _butterfly(rows: Tensor, turn: Tensor, half: int) -> Tensor:
    """Rows [out, p] mixed in blocks after rows `half` apart were brought together; then back to their places."""
    near = rows.unflatten(0, (-1, 2, half)).transpose(1, 2).flatten(0, 2)
    mixed = torch.einsum("bij,bjp->bip", turn, near.unflatten(0, turn.shape[:2])).flatten(0, 1)
    return mixed.unflatten(0, (-1, half, 2)).transpose(1, 2).flatten(0, 2)


def _like(tensor: Tensor, weight: Tensor) -> Tensor:
    """On the weight's device, float32."""
    return tensor.to(weight.device, torch.float32)


def _along(values: Tensor, axis: int, ndim: int) -> Tensor:
    return values.reshape([-1 if index == axis else 1 for index in range(ndim)])


def _spans(rows: int, columns: int, shape: Shape) -> str:
    fits = len(shape) >= 2 and (rows, columns) == (shape[0], _size(shape[1:]))
    return "" if fits else f"it is made for {columns} -> {rows}, and the weight is {list(shape)}"


def _size(sides: Shape) -> int:
    return math.prod(sides)
