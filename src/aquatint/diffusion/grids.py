"""Which levels of noise to visit on the way from noise to picture.

A grid gives steps + 1 levels, from the noisiest to the last, which is the end of the path and not put to the net.
`leading` ends where Stable Diffusion's first samplers do, at the table's first entry; every other grid ends clean
(alpha = 1, sigma = 0), as Karras et al. (2022) and Lin et al. (2023) do. Levels are a plain list, so that another end
is another last item: [*leading(schedule, steps)[:-1], CLEAN] is diffusers' leading spacing with a final sigma of zero.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

from aquatint.base.errors import UserError
from aquatint.diffusion.schedule import CLEAN, Level, NoiseSchedule

Grid: TypeAlias = Callable[[NoiseSchedule, int], list[Level]]


def leading(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """Times 1, 1 + n, 1 + 2n ... with n = table // steps, then time 0: Stable Diffusion's own grid.

    It begins below the end of the table (at 981 of 999 in 50 steps), and in pure noise never: not for zero-terminal
    schedules. diffusers: "leading", steps_offset 1, set_alpha_to_one False.
    """
    _check("leading", steps, schedule.last)
    if schedule.at(schedule.last).alpha == 0:
        raise _endless("leading", "skips")
    stride = (schedule.last + 1) // steps
    return [schedule.at(1 + stride * k) for k in reversed(range(steps))] + [schedule.at(0)]


def trailing(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """Times counted from the end of the table, which it always begins at: what a zero-terminal schedule needs.

    Lin et al. 2023, table 2. diffusers: "trailing", final sigma zero (set_alpha_to_one True).
    """
    table = schedule.last + 1
    _check("trailing", steps, table)
    return [schedule.at(round(table - k * table / steps) - 1) for k in range(steps)] + [CLEAN]


def linspace(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """Times evenly from the end of the table to 0, between its entries too: the first k-diffusion samplers' grid.

    diffusers: "linspace", final sigma zero; it interpolates sigma / alpha where we interpolate its logarithm.
    """
    _check("linspace", steps, schedule.last + 1)
    return [schedule.at(schedule.last * (1 - part)) for part in _parts(steps)] + [CLEAN]


def karras(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """sigma / alpha evenly in its seventh root: many steps where there is little noise (Karras et al. 2022, eq. 5)."""
    high, low = _ends("karras", schedule, steps)
    rho = 7
    first, last = high ** (1 / rho), low ** (1 / rho)
    return [schedule.at_ratio((first + part * (last - first)) ** rho) for part in _parts(steps)] + [CLEAN]


def exponential(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """sigma / alpha evenly in its logarithm."""
    high, low = _ends("exponential", schedule, steps)
    return [schedule.at_ratio(high * (low / high) ** part) for part in _parts(steps)] + [CLEAN]


def _parts(steps: int) -> list[float]:
    """From 0 to 1 in this many values; 0 alone if it is one."""
    return [k / max(steps - 1, 1) for k in range(steps)]


def _ends(name: str, schedule: NoiseSchedule, steps: int) -> tuple[float, float]:
    """The table's greatest and least sigma / alpha."""
    _check(name, steps, schedule.last + 1)
    high, low = float(schedule.at(schedule.last).ratio), float(schedule.at(0).ratio)
    if high == math.inf:
        raise _endless(name, "cannot divide")
    return high, low


def _check(name: str, steps: int, most: int) -> None:
    if not 1 <= steps <= most:
        raise UserError(f"{steps} steps.", f'The "{name}" grid takes 1 to {most} steps for this model.', "")


def _endless(name: str, verb: str) -> UserError:
    return UserError(
        f'the grid "{name}" with a model whose schedule ends in pure noise, which this grid {verb}.',
        "Such a model takes: linspace, trailing.",
        'Take the grid "trailing".',
    )


GRIDS: dict[str, Grid] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "karras": karras,
    "exponential": exponential,
}
