"""The order of samples: every number once an epoch, shuffled, as a function of (seed, epoch, place) and nothing else.

No list is kept. A Feistel network (Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom
functions", 1988) permutes the numbers of 2k bits, 2**2k >= count, and one that lands outside goes round again until it
is inside (cycle walking: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Its round function is
base/noise.py's Philox. Any process, of any number of processes and workers, may ask for any place at any time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from aquatint.base.errors import UserError
from aquatint.base.noise import ORDER, WORD, philox

ROUNDS = 6
BLOCK = 4096  # places that are computed together
MOST = 1 << 40  # samples


@dataclass(frozen=True)
class Order:
    """The numbers 0 ... count - 1, epoch after epoch, each in an order of its own.

    stream   tells apart orders that share a seed (one for each bucket), 0 ... 65,535
    """

    seed: int
    count: int
    stream: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise UserError(f"seed {self.seed}.", f"0 to {2**64 - 1}.")
        if not 0 < self.count <= MOST:
            raise UserError(f"An order of {self.count:,} samples.", f"1 to {MOST:,}.")
        assert 0 <= self.stream < 1 << 16, f"stream {self.stream}"

    def at(self, position: int) -> int:
        """The number at a position of the endless sequence of epochs."""
        epoch, place = divmod(position, self.count)
        block, inside = divmod(place, BLOCK)
        return int(_block(self, epoch, block)[inside])

    def numbers(self, positions: Sequence[int]) -> list[int]:
        """The same for several."""
        return [self.at(position) for position in positions]


@lru_cache(maxsize=64)
def _block(order: Order, epoch: int, block: int) -> np.ndarray:
    """The numbers of the places block * BLOCK and following, of one epoch."""
    first = block * BLOCK
    numbers = torch.arange(first, min(first + BLOCK, order.count))
    half = max(1, ((order.count - 1).bit_length() + 1) // 2)
    numbers = _feistel(order, epoch, numbers, half)
    while bool((outside := numbers >= order.count).any()):
        numbers[outside] = _feistel(order, epoch, numbers[outside], half)
    return numbers.numpy()


def _feistel(order: Order, epoch: int, numbers: torch.Tensor, half: int) -> torch.Tensor:
    """One walk through the network: (left, right) -> (right, left ^ f(right)), ROUNDS times."""
    mask = (1 << half) - 1
    left, right = numbers >> half, numbers & mask
    key = (torch.tensor(order.seed & WORD), torch.tensor(order.seed >> 32))
    where = torch.tensor(epoch & WORD), torch.tensor(epoch >> 32)
    for number in range(ROUNDS):
        place = torch.tensor(number | order.stream << 8 | ORDER << 24)
        left, right = right, left ^ (philox((place, right, *where), key)[0] & mask)
    return left << half | right
