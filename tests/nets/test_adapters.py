"""Every kind of adapter against its formula written anew, number by number, in float64."""

import math
from collections.abc import Callable

import numpy as np
import pytest
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
    tensors,
)

LINEAR, KERNEL = (12, 8), (12, 8, 3, 3)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def exact(tensor: Tensor) -> np.ndarray:
    return tensor.double().numpy()


def low_rank(shape: tuple[int, ...]) -> tuple[Adapter, np.ndarray]:
    down, up = noise(3, *shape[1:]), noise(shape[0], 3, *[1] * (len(shape) - 2), seed=1)
    one = np.einsum("or,ri->oi", exact(up).reshape(shape[0], 3), exact(down).reshape(3, -1)).reshape(shape)
    return LowRank(down, up, scale=0.5), 0.5 * one


def tucker(shape: tuple[int, ...]) -> tuple[Adapter, np.ndarray]:
    down, middle, up = noise(3, 8, 1, 1), noise(3, 3, *shape[2:]), noise(12, 3, 1, 1, seed=1)
    wanted = np.zeros(shape)
    for o, i in np.ndindex(12, 8):
        for a, b in np.ndindex(3, 3):
            wanted[o, i] += exact(up)[o, a, 0, 0] * exact(middle)[a, b] * exact(down)[b, i, 0, 0]
    return LowRank(down, up, middle, 2.0), 2 * wanted


def hadamard(shape: tuple[int, ...]) -> tuple[Adapter, np.ndarray]:
    columns = math.prod(shape[1:])
    a1, b1, a2, b2 = noise(12, 2), noise(2, columns), noise(12, 2, seed=1), noise(2, columns, seed=1)
    one, two = exact(a1) @ exact(b1), exact(a2) @ exact(b2)
    return Hadamard(a1, b1, a2, b2, scale=0.25), 0.25 * (one * two).reshape(shape)


def hadamard_cores(shape: tuple[int, ...]) -> tuple[Adapter, np.ndarray]:
    a1, b1, a2, b2 = noise(2, 12), noise(2, 8), noise(2, 12, seed=1), noise(2, 8, seed=1)
    t1, t2 = noise(2, 2, *shape[2:]), noise(2, 2, *shape[2:], seed=1)

    def product(core: Tensor, a: Tensor, b: Tensor) -> np.ndarray:
        made = np.zeros(shape)
        for o, c in np.ndindex(12, 8):
            for i, j in np.ndindex(2, 2):
                made[o, c] += exact(core)[i, j] * exact(a)[i, o] * exact(b)[j, c]
        return made

    return Hadamard(a1, b1, a2, b2, t1, t2, 0.5), 0.5 * product(t1, a1, b1) * product(t2, a2, b2)


def kronecker(shape: tuple[int, ...]) -> tuple[Adapter, np.ndarray]:
    one, two = noise(3, 2), noise(4, 4, *shape[2:], seed=1)
    wanted = np.zeros(shape)
    for o, i in np.ndindex(12, 8):
        wanted[o, i] = exact(one)[o // 4, i // 4] * exact(two)[o % 4, i % 4]
    return Kronecker((one,), (two,)), wanted


def kronecker_halves(shape: tuple[int, ...]) -> tuple[Adapter, np.ndarray]:
    kernel = math.prod(shape[2:])
    a1, b1, a2, b2 = noise(3, 2), noise(2, 2), noise(4, 2, seed=1), noise(2, 4 * kernel, seed=1)
    one, two = exact(a1) @ exact(b1), (exact(a2) @ exact(b2)).reshape(4, 4, *shape[2:])
    wanted = np.zeros(shape)
    for o, i in np.ndindex(12, 8):
        wanted[o, i] = one[o // 4, i // 4] * two[o % 4, i % 4]
    return Kronecker((a1, b1), (a2, b2), 0.5), 0.5 * wanted


def kronecker_core(shape: tuple[int, ...]) -> tuple[Adapter, np.ndarray]:
    one, a, b, core = noise(3, 2), noise(2, 4), noise(2, 4, seed=1), noise(2, 2, *shape[2:])
    wanted = np.zeros(shape)
    for o, i in np.ndindex(12, 8):
        for p, q in np.ndindex(2, 2):
            wanted[o, i] += exact(one)[o // 4, i // 4] * exact(core)[p, q] * exact(a)[p, o % 4] * exact(b)[q, i % 4]
    return Kronecker((one,), (a, b, core), 0.5), 0.5 * wanted


def cayley(blocks: np.ndarray, most: float = math.inf) -> np.ndarray:
    skew = blocks - np.swapaxes(blocks, -1, -2)
    norm = np.sqrt((skew**2).sum())
    skew = skew * (min(norm, most) / norm)
    one = np.eye(blocks.shape[-1])
    return (one + skew) @ np.linalg.inv(one - skew)


def rotation(shape: tuple[int, ...], weight: np.ndarray, most: float = math.inf) -> tuple[Adapter, np.ndarray]:
    blocks, factors = noise(3, 4, 4) / 4, noise(12) * 0.1 + 1
    turns = cayley(exact(blocks), most)
    rows = np.zeros(shape)
    for k, n, m in np.ndindex(3, 4, 4):  # the trainers multiply outputs from the right: y_m = sum_n x_n R_nm
        rows[4 * k + m] += turns[k, n, m] * weight[4 * k + n]
    rows *= exact(factors).reshape(-1, *[1] * (len(shape) - 1))
    constraint = 0.0 if math.isinf(most) else most
    return Rotation(blocks, constraint, factors[:, None]), rows - weight


def ready_rotation(shape: tuple[int, ...], weight: np.ndarray) -> tuple[Adapter, np.ndarray]:
    adapter, wanted = rotation(shape, weight)
    assert isinstance(adapter, Rotation)
    turns = torch.from_numpy(cayley(exact(adapter.blocks)))
    return Rotation(turns, rescale=adapter.rescale, ready=True), wanted


def butterfly(shape: tuple[int, ...], weight: np.ndarray) -> tuple[Adapter, np.ndarray]:
    """The stages as permutation matrices: at stage s, rows (c, g, k) -> (c, k, g) with k of half a block times 2^s."""
    weight = weight[:8]
    blocks = noise(2, 2, 4, 4) / 4
    rows = weight.reshape(8, -1)
    for stage in range(2):
        half, order = 2 * 2**stage, []
        for c in range(8 // (2 * half)):
            for k in range(half):
                order += [c * 2 * half + g * half + k for g in range(2)]
        gather = np.eye(8)[order]
        turn = np.zeros((8, 8))
        for b in range(2):
            turn[4 * b : 4 * b + 4, 4 * b : 4 * b + 4] = cayley(exact(blocks))[stage, b]
        rows = gather.T @ turn @ gather @ rows
    return Rotation(blocks), rows.reshape(8, *shape[1:]) - weight


def dora(shape: tuple[int, ...], weight: np.ndarray, axis: int) -> tuple[Adapter, np.ndarray]:
    inner, moved = low_rank(shape)
    moved = moved + weight
    length = noise(shape[axis]).abs() + 1
    wanted = np.zeros(shape)
    for index in range(shape[axis]):
        part = (index,) if axis == 0 else (slice(None), index)
        wanted[part] = exact(length)[index] * moved[part] / np.sqrt((moved[part] ** 2).sum())
    return Decomposed(inner, length, axis), wanted - weight


def scaling(shape: tuple[int, ...], weight: np.ndarray, axis: int) -> tuple[Adapter, np.ndarray]:
    factor = noise(shape[axis])
    sides = [-1 if index == axis else 1 for index in range(len(shape))]
    return Scaling(factor, axis), weight * exact(factor).reshape(sides)


PLAIN: dict[str, tuple[Callable[[tuple[int, ...]], tuple[Adapter, np.ndarray]], tuple[tuple[int, ...], ...]]] = {
    "LoRA": (low_rank, (LINEAR, (12, 8, 1, 1), KERNEL)),
    "Tucker": (tucker, (KERNEL,)),
    "LoHa": (hadamard, (LINEAR, KERNEL)),
    "LoHa with cores": (hadamard_cores, (KERNEL,)),
    "LoKr": (kronecker, (LINEAR, KERNEL)),
    "LoKr of halves": (kronecker_halves, (LINEAR, KERNEL)),
    "LoKr with a core": (kronecker_core, (KERNEL,)),
}
CASES = [(name, shape, make) for name, (make, shapes) in PLAIN.items() for shape in shapes]


@pytest.mark.parametrize(("name", "shape", "make"), CASES, ids=lambda value: str(value) if not callable(value) else "")
def test_kinds_that_do_not_look_at_the_weight(
    name: str, shape: tuple[int, ...], make: Callable[[tuple[int, ...]], tuple[Adapter, np.ndarray]]
) -> None:
    adapter, wanted = make(shape)
    agrees(adapter, noise(*shape, seed=9), wanted)


@pytest.mark.parametrize("shape", [LINEAR, KERNEL], ids=str)
def test_kinds_that_look_at_the_weight(shape: tuple[int, ...]) -> None:
    weight = noise(*shape, seed=9)
    old = exact(weight)
    for adapter, wanted in (
        rotation(shape, old),
        rotation(shape, old, most=0.1),
        ready_rotation(shape, old),
        dora(shape, old, 0),
        dora(shape, old, 1),
        scaling(shape, old, 0),
        scaling(shape, old, 1),
    ):
        agrees(adapter, weight, wanted)
    agrees(Difference(noise(*shape)), weight, exact(noise(*shape)))
    adapter, wanted = butterfly(shape, old)
    agrees(adapter, weight[:8], wanted)


def agrees(adapter: Adapter, weight: Tensor, wanted: np.ndarray) -> None:
    assert isinstance(adapter, Adapter)
    assert adapter.misfit(tuple(weight.shape)) == ""
    made = adapter.delta(weight)
    assert made.shape == weight.shape
    assert made.dtype == torch.float32
    assert np.abs(exact(made) - wanted).max() < 1e-5 * max(1.0, np.abs(wanted).max())
    assert np.abs(wanted).max() > 1e-2, "this proves nothing"
    assert all(isinstance(tensor, Tensor) for tensor in tensors(adapter))
    assert tensors(adapter)
    assert np.abs(exact(adapter.delta(weight.bfloat16())) - wanted).max() < 0.2 * max(1.0, np.abs(wanted).max())
    for other in ((5, 7), (12, 7), (12,), ()):
        if other != tuple(weight.shape) and not (isinstance(adapter, Scaling | Rotation) and other[:1] == (12,)):
            assert adapter.misfit(other), other


def test_rotations_keep_lengths() -> None:
    weight = noise(12, 8)
    turned = weight + Rotation(noise(3, 4, 4)).delta(weight)
    assert torch.allclose(turned.norm(dim=0), weight.norm(dim=0), atol=1e-5)
    turned = weight[:8] + Rotation(noise(2, 2, 4, 4)).delta(weight[:8])
    assert torch.allclose(turned.norm(dim=0), weight[:8].norm(dim=0), atol=1e-5)
