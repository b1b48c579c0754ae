"""The script that measures approximations, rehearsed on TINY: every way paints, the exact one has no error."""

import pytest
from benchmarks.approximations import ANOTHER, EXACT, measured, table, ways, with_tiny
from tests.fixtures import tiny_bundle


@pytest.mark.slow
def test_every_way_is_measured() -> None:
    found = measured(with_tiny(tiny_bundle()), ways(4), ["a red apple"])
    exact = found.pop(EXACT)
    assert exact.latents == exact.pixels == [0.0]
    assert all(column.latents[0] > 0 for name, column in found.items() if name != "tiny decoder")
    assert found["tiny decoder"].latents == [0.0]
    assert found["reuse 2"].latents < found[ANOTHER].latents
    assert table({EXACT: exact, **found}).count("\n") == len(found) + 2
