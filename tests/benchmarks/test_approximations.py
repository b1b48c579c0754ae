"""The script that measures approximations, rehearsed on TINY: every way paints, the exact one has no error."""

from pathlib import Path

import pytest
from benchmarks.approximations import ANOTHER, EXACT, measured, table, ways, with_tiny, work
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


@pytest.mark.slow
def test_the_page_shows_what_is_counted() -> None:
    assert work() in (Path(__file__).parents[2] / "docs" / "approximations.md").read_text()
