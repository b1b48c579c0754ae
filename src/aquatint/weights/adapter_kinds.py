"""The parts of one layer in an adapter file -> adapters, and back into the parts that kohya's and LyCORIS's files have.

Which kind it is follows from the parts that are there. What does not add up to a kind is Odd, with the reason.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from aquatint.nets.adapters import (
    Adapter,
    Decomposed,
    Difference,
    Hadamard,
    Kronecker,
    LowRank,
    Rotation,
    Scaling,
    Shape,
)

MOST_RANK = 8_192
Parts = dict[str, Tensor]


class Odd(ValueError):
    """Why the parts of a layer make no adapter, in words that follow the layer's name."""


class Scale(NamedTuple):
    """How alpha is read: the value where the file's tensors have none (None: the rank), and over sqrt(rank) or rank."""

    alpha: float | None = None
    root: bool = False

    def of(self, parts: Parts, rank: int) -> float:
        """alpha / rank."""
        alpha = number(parts.pop("alpha")) if "alpha" in parts else self.alpha
        return 1.0 if alpha is None else alpha / (math.sqrt(rank) if self.root else rank)


class Made(NamedTuple):
    """An adapter, what its kind is called, and which tensor of the layer it is for (weight or bias)."""

    leaf: str
    kind: str
    adapter: Adapter


def make(parts: Mapping[str, Tensor], leaves: Mapping[str, Shape], scale: Scale) -> list[Made]:
    """The adapters that a layer's parts make. leaves: the layer's own tensors and their shapes. Raises Odd."""
    left, made = dict(parts), []
    length = left.pop("length", None)
    for sign, build in KINDS.items():
        if sign in left:
            made.append(build(left, leaves, scale))
    if length is not None:
        if len(made) != 1 or made[0].leaf != "weight":
            raise Odd("has DoRA's lengths, and nothing that they belong to")
        made[0] = Made("weight", "DoRA", Decomposed(made[0].adapter, length, _axis(length)))
    left.pop("alpha", None)  # of kinds that have no scale
    if left:
        raise Odd(f"has {', '.join(sorted(left))}, which is of no kind that is known here")
    if not made:
        raise Odd("has a scale, and nothing to scale")
    for row in made:
        if row.leaf not in leaves:
            raise Odd(f"changes a {row.leaf}, and the layer has none")
        if not 0 <= row.adapter.rank <= MOST_RANK:
            raise Odd(f"has rank {row.adapter.rank}, and at most {MOST_RANK:,} is read")
        if why := row.adapter.misfit(leaves[row.leaf]):
            raise Odd(f"does not fit: {why}")
    return made


def parts_of(adapter: Adapter, leaf: str, shape: Shape) -> Parts:
    """An adapter's tensors by the names of their parts; `shape` is the weight's (or bias's) that it is for."""
    if isinstance(adapter, Decomposed):
        sides = [-1 if index == adapter.axis else 1 for index in range(len(shape))]
        return parts_of(adapter.inner, leaf, shape) | {"length": adapter.magnitude.reshape(sides)}
    if isinstance(adapter, LowRank):
        made = {"down": adapter.down, "up": adapter.up, "middle": adapter.middle, "alpha": _alpha(adapter)}
    elif isinstance(adapter, Hadamard):
        names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
        values = (adapter.a1, adapter.b1, adapter.a2, adapter.b2, adapter.core1, adapter.core2)
        made = dict(zip(names, values, strict=True)) | {"alpha": _alpha(adapter)}
    elif isinstance(adapter, Kronecker):
        made = _kronecker_parts(adapter)
    elif isinstance(adapter, Rotation):
        made = {"oft_diag" if adapter.ready else "oft_blocks": adapter.blocks, "rescale": adapter.rescale}
        made["alpha"] = None if adapter.ready else torch.tensor(adapter.constraint / shape[0])
    elif isinstance(adapter, Scaling):
        made = {"factor": adapter.factor, "on_input": torch.tensor(adapter.axis == 1)}
    else:
        assert isinstance(adapter, Difference), type(adapter)
        norm = len(shape) == 1 and leaf == "weight"
        made = {("w_norm" if norm else "diff") if leaf == "weight" else "diff_b": adapter.tensor}
    return {name: tensor for name, tensor in made.items() if tensor is not None}


def number(tensor: Tensor) -> float:
    """The one number in a tensor; Odd if there is not one, or it is not finite."""
    if tensor.numel() != 1:
        raise Odd(f"has an alpha of {tensor.numel()} numbers")
    value = float(tensor.flatten()[0])
    if not math.isfinite(value):
        raise Odd("has an alpha that is not finite")
    return value


def _low_rank(parts: Parts, leaves: Mapping[str, Shape], scale: Scale) -> Made:
    down, up = (_needed(parts, name) for name in ("down", "up"))
    middle = parts.pop("middle", None)
    if down.ndim not in (2, 4) or up.ndim not in (2, 4) or not down.shape[0]:
        raise Odd(f"has rank {down.shape[0] if down.ndim else 0} (lora_down {list(down.shape)})")
    kernel = math.prod(down.shape[2:]) > 1 or middle is not None
    return Made(
        "weight", "LoCon" if kernel else "LoRA", LowRank(down, up, middle, scale.of(parts, _rank(down.shape[0])))
    )


def _hadamard(parts: Parts, leaves: Mapping[str, Shape], scale: Scale) -> Made:
    a1, b1, a2, b2 = (_needed(parts, f"hada_{name}") for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    core1, core2 = (parts.pop(f"hada_{name}", None) for name in ("t1", "t2"))
    rank = _rank(b1.shape[0] if b1.ndim else 0)
    return Made("weight", "LoHa", Hadamard(a1, b1, a2, b2, core1, core2, scale.of(parts, rank)))


def _kronecker(parts: Parts, leaves: Mapping[str, Shape], scale: Scale) -> Made:
    factors: list[tuple[Tensor, ...]] = []
    for name, core in (("lokr_w1", ""), ("lokr_w2", "lokr_t2")):
        if name in parts:
            factors.append((parts.pop(name),))
        else:
            halves = tuple(_needed(parts, f"{name}_{half}") for half in ("a", "b"))
            factors.append((*halves, parts.pop(core)) if core in parts else halves)
    one, two = factors
    if any(not part.ndim for factor in factors for part in factor):
        raise Odd("has a factor without sides")
    rank = Kronecker(one, two).rank
    given = scale.of(parts, _rank(rank)) if any(len(factor) > 1 for factor in factors) else 1.0
    return Made("weight", "LoKr", Kronecker(one, two, given))


def _rotation(parts: Parts, leaves: Mapping[str, Shape], scale: Scale) -> Made:
    blocks, rescale = parts.pop("oft_blocks"), parts.pop("rescale", None)
    alpha = number(parts.pop("alpha")) if "alpha" in parts else 0.0
    outputs = leaves["weight"][0] if "weight" in leaves else 0
    return Made("weight", "BOFT" if blocks.ndim == 4 else "OFT", Rotation(blocks, max(alpha, 0.0) * outputs, rescale))


def _ready_rotation(parts: Parts, leaves: Mapping[str, Shape], scale: Scale) -> Made:
    return Made("weight", "OFT", Rotation(parts.pop("oft_diag"), rescale=parts.pop("rescale", None), ready=True))


def _scaling(parts: Parts, leaves: Mapping[str, Shape], scale: Scale) -> Made:
    factor, side = parts.pop("factor"), parts.pop("on_input", None)
    return Made("weight", "(IA)3", Scaling(factor, 0 if side is None else int(number(side) != 0)))


def _peft_scaling(parts: Parts, leaves: Mapping[str, Shape], scale: Scale) -> Made:
    factor = parts.pop("ia3").float()
    return Made("weight", "(IA)3", Scaling(factor - 1, _axis(factor)))


def _difference(part: str, leaf: str, kind: str) -> Callable[[Parts, Mapping[str, Shape], Scale], Made]:
    return lambda parts, leaves, scale: Made(leaf, kind, Difference(parts.pop(part)))


def _kronecker_parts(adapter: Kronecker) -> dict[str, Tensor | None]:
    made: dict[str, Tensor | None] = {}
    for name, factor in (("lokr_w1", adapter.one), ("lokr_w2", adapter.two)):
        if len(factor) == 1:
            made[name] = factor[0]
        else:
            names = (f"{name}_a", f"{name}_b", name.replace("w", "t"))[: len(factor)]
            made |= zip(names, factor, strict=True)
    if adapter.rank:
        made["alpha"] = _alpha(adapter)
    else:
        made["lokr_w1"] = adapter.one[0] * adapter.scale
    return made


def _alpha(adapter: LowRank | Hadamard | Kronecker) -> Tensor:
    return torch.tensor(adapter.scale * adapter.rank)


def _axis(values: Tensor) -> int:
    """Which side a row of values lies along: [1, in] is for inputs, [out, 1] and [out] for outputs.

    PEFT's lengths for a convolution are [1, out, 1, 1], and LyCORIS's for its inputs look the same; LyCORIS is older
    and commoner in files, and PEFT's are flattened by `weights.loras` before they come here.
    """
    return int(values.ndim > 1 and values.shape[0] == 1 and values.shape[1] > 1)


def _rank(rank: int) -> int:
    if not 1 <= rank <= MOST_RANK:
        raise Odd(f"has rank {rank}, and 1 to {MOST_RANK:,} is read")
    return rank


def _needed(parts: Parts, name: str) -> Tensor:
    if name not in parts:
        raise Odd(f"lacks its {name}")
    return parts.pop(name)


_LOKR = dict.fromkeys(("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"), _kronecker)
KINDS: dict[str, Callable[[Parts, Mapping[str, Shape], Scale], Made]] = {  # by a part that tells the kind
    "down": _low_rank,
    "up": _low_rank,
    "hada_w1_a": _hadamard,
    "hada_w1_b": _hadamard,
    **_LOKR,
    "oft_blocks": _rotation,
    "oft_diag": _ready_rotation,
    "factor": _scaling,
    "ia3": _peft_scaling,
    "diff": _difference("diff", "weight", "full"),
    "diff_b": _difference("diff_b", "bias", "full"),
    "w_norm": _difference("w_norm", "weight", "norm"),
    "b_norm": _difference("b_norm", "bias", "norm"),
}
