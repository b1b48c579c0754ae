"""docs/adding: what a newcomer is told to write works, and passes the tests that it is said to pass."""

from pathlib import Path

from tests.diffusion import test_denoisers, test_grids, test_samplers

from aquatint.diffusion import grids, samplers

ADDING = Path(__file__).parents[2] / "docs" / "adding"


def code(page: str) -> str:
    """The one block of Python on a page."""
    _, block, _ = (ADDING / page).read_text().replace("```python\n", "```").split("```")
    return block


def test_a_sampler():
    exec(code("sampler.md"), vars(samplers))
    try:
        test_samplers.test_observed_order("ab2")
        test_samplers.test_a_picture_does_not_depend_on_its_batch("ab2")
        test_samplers.test_starts_in_pure_noise("ab2", 12)
        test_samplers.test_steps_tell_where_they_are("ab2", 5)
        test_samplers.test_nothing_runs_ahead_and_nothing_is_changed("ab2")
        test_denoisers.test_held_keeps_the_known_region_with_every_sampler("ab2")
    finally:
        del samplers.SAMPLERS["ab2"]


def test_a_grid():
    exec(code("grid.md"), vars(grids))
    try:
        for schedule in (test_grids.SD, test_grids.COSINE, test_grids.ZERO):
            for steps in test_grids.COUNTS:
                test_grids.test_every_grid("quadratic", schedule, steps)
        test_grids.test_bad_counts("quadratic", 0)
    finally:
        del grids.GRIDS["quadratic"]
