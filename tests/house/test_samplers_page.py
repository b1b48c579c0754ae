"""docs/samplers.md says of every sampler and grid what the tables in the code say."""

import inspect
from pathlib import Path

from aquatint.base.noise import Noise
from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.names import GRID_NAMES, SAMPLER_NAMES
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import Latents, Level, NoiseSchedule, ScheduleConfig

PAGE = Path(__file__).parents[2] / "docs" / "samplers.md"
SD = NoiseSchedule(ScheduleConfig())


def is_random(name: str) -> bool:
    """Whether another seed leads from the same x to another picture."""

    def denoise(x: Latents, level: Level) -> Latents:
        return 0.5 * x

    x, levels = Noise([0]).normal((1, 2, 2)), GRIDS["trailing"](SD, 40)
    ends = [[*SAMPLERS[name](denoise, x, levels, Noise([seed]), schedule=SD)][-2:][0].x for seed in (1, 2)]
    return not ends[0].equal(ends[1])


def sampler_rows() -> list[str]:
    """The rows of the samplers' table."""
    rows = []
    for name, row in SAMPLERS.items():
        order, noise = "-" if row.order is None else f"{row.order:g}", "yes" if is_random(name) else ""
        a1111, comfyui, diffusers, _ = SAMPLER_NAMES[name]
        rows.append(f"| `{name}` | {order} | {row.calls} | {noise} | {row.grid} | {a1111} | {comfyui} | {diffusers} |")
    return [" ".join(row.split()) for row in rows]


def grid_rows() -> list[str]:
    """The rows of the grids' table."""
    what = {name: inspect.getdoc(grid).split("\n\n")[0].replace("\n", " ") for name, grid in GRIDS.items()}
    return [" ".join(f"| `{name}` | {GRID_NAMES[name].a1111} | {what[name]} |".split()) for name in GRIDS]


def test_the_page_has_every_row() -> None:
    lines = PAGE.read_text().splitlines()
    assert [line for line in lines if line.startswith("| `")] == [*sampler_rows(), *grid_rows()]
