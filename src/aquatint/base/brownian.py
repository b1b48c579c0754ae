"""One Brownian path of a picture that can be asked at any place, as torchsde's BrownianTree gives it.

k-diffusion's SDE samplers take their new noise from such a path over sigma, so that pictures with fewer and more steps
see the same one. The path is refined by halving: a piece's middle is normal around the line between its ends, with a
variance of left * right / whole (Levy's construction of the Brownian bridge), and each middle has a generator of its
own, seeded by numpy's SeedSequence (O'Neill 2015) from the picture's seed and the middle's place in the tree.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from torch import Tensor

# draw(seed, size, number) -> the number-th tensor of `size` normal deviates that a generator gives, float32, flat
Draw: TypeAlias = Callable[[int, int, int], Tensor]

POOL = 24  # words of entropy that torchsde mixes a seed over
DIGITS = 6  # decimals of a place: torchsde's tolerance of 1e-6


def path(seed: int, draw: Draw, size: int, low: float, high: float, place: float) -> np.ndarray:
    """W(place) - W(low) of the path over [low, high] that belongs to a seed: `size` numbers, float64.

    Places are rounded to six decimals; one outside is the nearer end. About 24 draws for each.
    """
    begin, end = round(low, DIGITS), round(high, DIGITS)
    place = min(max(round(place, DIGITS), begin), end)
    change = math.sqrt(high - low) * _normal(draw, _seed(seed, ()), size)
    passed, node, depth = np.zeros(size), 0, 0
    while begin < place < end:
        middle = round((begin + end) / 2, DIGITS)
        left, right = middle - begin, end - middle
        spread = math.sqrt(left * right / (end - begin))
        half = left / (end - begin) * change + spread * _normal(draw, _seed(seed, (node, depth)), size)
        if place < middle:
            end, change, node = middle, half, 2 * node
        else:
            passed, begin, change, node = passed + half, middle, change - half, 2 * node + 1
        depth += 1
    return passed + change if begin < place else passed


def _seed(seed: int, node: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=node, pool_size=POOL).generate_state(1)[0])


def _normal(draw: Draw, seed: int, size: int) -> np.ndarray:
    return np.asarray(draw(seed, size, 0).numpy(), dtype=np.float64)
