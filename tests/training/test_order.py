"""The order of samples: every number once an epoch, shuffled well, whoever asks for which place."""

from collections import Counter

import numpy as np
import pytest

from aquatint.base.errors import UserError
from aquatint.training.data.order import BLOCK, MOST, Order


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 100, 1000, BLOCK - 1, BLOCK + 1])
def test_every_number_once_an_epoch(count: int) -> None:
    order = Order(3, count)
    epochs = [order.numbers(range(epoch * count, (epoch + 1) * count)) for epoch in range(2)]
    for numbers in epochs:
        assert sorted(numbers) == list(range(count))
    if count > 5:
        assert epochs[0] != epochs[1]
        assert epochs[0] != Order(4, count).numbers(range(count))
        assert epochs[0] != Order(3 + 2**32, count).numbers(range(count))
        assert epochs[0] != Order(3, count, stream=1).numbers(range(count))


def test_a_place_does_not_depend_on_what_was_asked_before() -> None:
    places = [0, BLOCK - 1, BLOCK, 70_000, 99_999, 100_000, 250_000]
    assert [Order(9, 100_000).at(place) for place in reversed(places)] == Order(9, 100_000).numbers(places)[::-1]


def test_large_sets_need_no_list() -> None:
    order = Order(1, MOST)
    found = order.numbers([0, 1, MOST - 1])
    assert len(set(found)) == 3
    assert max(found) < MOST
    assert order.at(MOST) != found[0]


def test_all_orders_of_few_are_about_as_likely() -> None:
    drawn = Counter(tuple(Order(seed, 3).numbers(range(3))) for seed in range(300))
    assert len(drawn) == 6
    assert sum((count - 50) ** 2 / 50 for count in drawn.values()) < 30  # chi-square of 5 degrees: 1 in 70,000


def test_it_is_shuffled() -> None:
    """Of a shuffled sequence, neighbours and places say nothing of numbers; a rotation or a stride would."""
    count = 4000
    numbers = np.array(Order(5, count).numbers(range(count)))
    assert abs(np.corrcoef(numbers, np.arange(count))[0, 1]) < 0.06
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.06
    steps = Counter(np.diff(numbers).tolist())
    assert max(steps.values()) < 12
    assert abs(int((numbers == np.arange(count)).sum()) - 1) < 7  # fixed points: one is expected


def test_what_is_out_of_range_is_said() -> None:
    for seed, count in ((-1, 5), (2**64, 5), (0, 0), (0, MOST + 1)):
        with pytest.raises(UserError):
            Order(seed, count)
