"""Others' names: every row has them, none means two things, and what others list is read."""

import pytest

from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.names import GRID_NAMES, SAMPLER_NAMES, grid_named, sampler_named
from aquatint.diffusion.samplers import SAMPLERS


def test_every_row_has_its_names() -> None:
    assert SAMPLER_NAMES.keys() == SAMPLERS.keys()
    assert GRID_NAMES.keys() == GRIDS.keys()
    for table, read in ((SAMPLER_NAMES, lambda text: (sampler_named(text) or ("",))[0]), (GRID_NAMES, grid_named)):
        for name, names in table.items():
            for spelled in (name, *names[:3], *names.others):
                assert not spelled or read(spelled) == name


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("DPM++ 2M Karras", ("dpmpp_2m", "karras")),
        ("dpm++ 2m  sde heun exponential", ("dpmpp_2m_sde_heun", "exponential")),
        ("Euler a", ("euler_a", None)),
        ("dpmpp_2m_k", ("dpmpp_2m", "karras")),
        ("k_lms", ("lms", None)),
        ("DPMSolverMultistepScheduler", ("dpmpp_2m", None)),
        ("LMS Karras", ("lms", "karras")),
    ],
)
def test_what_others_write(text: str, ours: tuple[str, str | None]) -> None:
    assert sampler_named(text) == ours


def test_what_nobody_writes() -> None:
    for text in ("", "karras", " karras", "_k", "DPM+++", "euler karras beta"):
        assert sampler_named(text) is None
    assert grid_named("Automatic") is None
