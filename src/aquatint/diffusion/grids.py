"""Which levels of noise to visit on the way from noise to picture.

A grid gives steps + 1 levels, from the noisiest to the last, which is the end of the path and not put to the net.
`leading` ends where Stable Diffusion's first samplers do, at the table's first entry; every other grid ends clean
(alpha = 1, sigma = 0), as Karras et al. (2022) and Lin et al. (2023) do. Levels are a plain list, so that another end
is another last item: [*leading(schedule, steps)[:-1], CLEAN] is diffusers' leading spacing with a final sigma of zero.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import TypeAlias

from aquatint.base.errors import UserError
from aquatint.diffusion.schedule import CLEAN, Level, NoiseSchedule

# grid(schedule, steps) -> steps + 1 levels; options, if it has any, are keyword-only numbers with defaults
Grid: TypeAlias = Callable[..., list[Level]]


def visited(name: str, schedule: NoiseSchedule, steps: int, options: Mapping[str, float]) -> list[Level]:
    """The levels of the grid of that name, with those of the options that are its own.

    discard, which every grid takes, is 1 to leave out the last noisy level (and to divide the way by one step more), as
    A1111 and ComfyUI do for DPM2.
    """
    own = {option: value for option, value in options.items() if option in options_of(name)}
    discard = own.pop("discard", 0.0)
    if discard not in (0, 1):
        raise UserError(f"discard {discard:g}.", "0 or 1.", "")
    levels = GRIDS[name](schedule, steps + int(discard), **own)
    return [*levels[:-2], levels[-1]] if discard else levels


def options_of(name: str) -> dict[str, float]:
    """The options that a grid takes, with their defaults."""
    parameters = signature(GRIDS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | {"discard": 0.0}


def leading(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """Times 1, 1 + n, 1 + 2n ... with n = table // steps, then time 0: Stable Diffusion's own grid.

    It begins below the end of the table (at 981 of 999 in 50 steps), and in pure noise never: not for zero-terminal
    schedules. diffusers: "leading", steps_offset 1, set_alpha_to_one False. A schedule with offset 0 (their
    steps_offset) has times 0, n, 2n ...; its last step goes nowhere there, and a millionth here, since samplers of
    several steps divide by a step's length.
    """
    _check("leading", steps, schedule.last)
    if schedule.at(schedule.last).alpha == 0:
        raise _endless("leading", "skips")
    stride = (schedule.last + 1) // steps
    first = schedule.config.offset
    end = schedule.at(0) if first else schedule.at_ratio(float(schedule.at(0).ratio) * (1 - 1e-6))
    return [schedule.at(first + stride * k) for k in reversed(range(steps))] + [end]


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


def karras(schedule: NoiseSchedule, steps: int, *, rho: float = 7.0) -> list[Level]:
    """sigma / alpha evenly in its seventh root: many steps where there is little noise (Karras et al. 2022, eq. 5)."""
    high, low = _ends("karras", schedule, steps)
    _check_rho(rho)
    first, last = high ** (1 / rho), low ** (1 / rho)
    return [schedule.at_ratio((first + part * (last - first)) ** rho) for part in _parts(steps)] + [CLEAN]


def exponential(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """sigma / alpha evenly in its logarithm."""
    high, low = _ends("exponential", schedule, steps)
    return [schedule.at_ratio(high * (low / high) ** part) for part in _parts(steps)] + [CLEAN]


def polyexponential(schedule: NoiseSchedule, steps: int, *, rho: float = 1.0) -> list[Level]:
    """The logarithm of sigma / alpha along a power of the way; rho 1 is `exponential`, more stays longer at the end."""
    high, low = _ends("polyexponential", schedule, steps)
    _check_rho(rho)
    return [schedule.at_ratio(low * (high / low) ** ((1 - part) ** rho)) for part in _parts(steps)] + [CLEAN]


def ddim_uniform(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """`leading`, but it ends clean: what A1111 and ComfyUI call DDIM's schedule."""
    _check("ddim_uniform", steps, schedule.last)
    return [*leading(schedule, steps)[:-1], CLEAN]


def sgm_uniform(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """Times evenly from the end of the table to 0, the 0 left out: Stability's own programs (sgm)."""
    _check("sgm_uniform", steps, schedule.last + 1)
    return [schedule.at(schedule.last * (1 - k / steps)) for k in range(steps)] + [CLEAN]


def simple(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """Every (table / steps)-th entry of the table from its end, rounded to the noisier one (ComfyUI's simple)."""
    table = schedule.last + 1
    _check("simple", steps, table)
    return [schedule.at(schedule.last - k * table // steps) for k in range(steps)] + [CLEAN]


def beta(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """Times at the quantiles of Beta(0.6, 0.6): more steps at both ends (Lee et al. 2024, "Beta sampling").

    Rounded to the table's entries, as others do, unless two steps would meet.
    """
    _check("beta", steps, schedule.last + 1)
    times = [schedule.last * beta_quantile(1 - k / steps, 0.6, 0.6) for k in range(steps)]
    whole = [float(round(round(time, 9))) for time in times]  # a half that bisection missed by a bit is a half
    return [schedule.at(time) for time in (whole if len(set(whole)) == steps else times)] + [CLEAN]


def kl_optimal(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """The angle arctan(sigma / alpha) evenly: optimal in Kullback-Leibler divergence for a Gaussian.

    Sabour et al. 2024 (Align Your Steps), theorem 3.1.
    """
    high, low = (math.atan(ratio) for ratio in _ends("kl_optimal", schedule, steps))
    angles = [high + part * (low - high) for part in _parts(steps)]
    return [schedule.at(schedule.last), *(schedule.at_ratio(math.tan(angle)) for angle in angles[1:]), CLEAN]


def align_your_steps(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """Levels optimised for Stable Diffusion 1.5 in ten steps; other counts by interpolation of their logarithms.

    Sabour et al. 2024, "Align Your Steps".
    """
    return _aligned("align_your_steps", AYS_SD15, schedule, steps)


def align_your_steps_xl(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """align_your_steps with the levels found for SDXL."""
    return _aligned("align_your_steps_xl", AYS_SDXL, schedule, steps)


def linear_quadratic(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """sigma / alpha falls linearly by a fortieth in the first half of the steps, then quadratically.

    Movie Gen's schedule (Polyak et al. 2024), as ComfyUI has it.
    """
    high, _ = _ends("linear_quadratic", schedule, steps)
    edge, straight = 0.025, steps // 2
    if not straight:
        return [schedule.at_ratio(high), CLEAN]
    bent = steps - straight
    gap = straight - edge * steps
    square = gap / (straight * bent**2)
    slope = edge / straight - 2 * gap / bent**2
    gone = [k * edge / straight for k in range(straight)]
    gone += [square * k**2 + slope * k + square * straight**2 for k in range(straight, steps)]
    return [schedule.at_ratio(high * (1 - part)) for part in gone] + [CLEAN]


def turbo(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """The ten times at which SD-Turbo and SDXL-Turbo were distilled, from the end of the table (Sauer et al. 2023)."""
    _check("turbo", steps, 10)
    return [schedule.at(schedule.last - k * (schedule.last + 1) // 10) for k in range(steps)] + [CLEAN]


def lcm(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """Some of the fifty times at which latent consistency models were distilled, evenly, from the end of the table.

    Luo et al. 2023; diffusers: LCMScheduler, original_inference_steps 50.
    """
    _check("lcm", steps, LCM_TIMES)
    stride = (schedule.last + 1) // LCM_TIMES
    return [schedule.at(stride * (LCM_TIMES - k * LCM_TIMES // steps) - 1) for k in range(steps)] + [CLEAN]


LCM_TIMES = 50

# sigma / alpha of ten steps' ends, from the paper's own page.
AYS_SD15 = (
    14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092,
    0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582,
)  # fmt: skip
AYS_SDXL = (
    14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141,
    0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582,
)  # fmt: skip


def beta_quantile(probability: float, a: float, b: float) -> float:
    """x with I_x(a, b) = probability, I being the regularised incomplete beta function; by bisection."""
    low, high = 0.0, 1.0
    if probability >= 1:
        return 1.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _beta_share(middle, a, b) < probability else (low, middle)
    return middle


def _beta_share(x: float, a: float, b: float) -> float:
    """I_x(a, b) by its continued fraction (DLMF 8.17.22), which sixty terms of settle to the last bit for these x."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    fraction = 1.0
    for k in range(60, 0, -1):
        m = k // 2
        even = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        fraction = 1 + (odd if k % 2 else even) * x / fraction
    logs = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(logs) / (a * fraction)


def _aligned(name: str, table: Sequence[float], schedule: NoiseSchedule, steps: int) -> list[Level]:
    high, low = _ends(name, schedule, steps)
    if abs(high / table[0] - 1) > 1e-3 or abs(low / table[-1] - 1) > 1e-2:
        raise UserError(
            f'the grid "{name}" with a model whose noise goes from {low:.3g} to {high:.3g}.',
            "It was made for Stable Diffusion's schedule, 0.0292 to 14.6.",
            'Take the grid "karras".',
        )
    logs = [math.log(ratio) for ratio in table]
    levels = []
    for k in range(steps):
        place = k / steps * (len(logs) - 1)
        below = min(int(place), len(logs) - 2)
        levels.append(schedule.at_ratio(math.exp(logs[below] + (place - below) * (logs[below + 1] - logs[below]))))
    return [schedule.at_ratio(high), *levels[1:], CLEAN]


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


def _check_rho(rho: float) -> None:
    if not 0.1 <= rho <= 100:
        raise UserError(f"rho {rho:g}.", "0.1 to 100.", "")


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
    "polyexponential": polyexponential,
    "ddim_uniform": ddim_uniform,
    "sgm_uniform": sgm_uniform,
    "simple": simple,
    "beta": beta,
    "kl_optimal": kl_optimal,
    "align_your_steps": align_your_steps,
    "align_your_steps_xl": align_your_steps_xl,
    "linear_quadratic": linear_quadratic,
    "lcm": lcm,
    "turbo": turbo,
}
