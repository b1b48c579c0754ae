"""The length of an average, chosen afterwards (Karras et al. 2024, "Analyzing and improving the training dynamics of
diffusion models", section 3 and appendix C).

A run keeps two averages whose memory grows with the run, and now and then writes them down (`averages-*.safetensors`).
What an average of any other length would be is, to a good approximation, a sum of these snapshots with fitted factors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.training.optim import Average
from aquatint.training.state import NotFinite, first_odd

WIDTHS = (0.05, 0.10)  # the two that are kept


class Profile(Average):
    """Running average with weights in proportion to t^power at step t: its memory is a fixed share of the run.

    width   standard deviation of that profile as a share of the run: 0.1 remembers about the last fifth of it
    """

    def __init__(self, module: nn.Module, width: float) -> None:
        super().__init__(module, 0.0)
        self.width, self.power = width, power(width)

    @property
    def name(self) -> str:
        """What tells it from the others of a run."""
        return f"width {self.width:g}"

    def kept(self, step: int) -> float:
        """(1 - 1 / t)^(power + 1) (equation 127 there), after t = step + 1 steps; the first weights count nothing."""
        return float((1.0 - 1.0 / (step + 1)) ** (self.power + 1.0))


def power(width: float) -> float:
    """The power whose profile has a width: sqrt(p + 1) / ((p + 2) sqrt(p + 3)) = width, 0 < width < 0.289."""
    if not 0 < width < 12**-0.5:
        raise UserError(f"A width of {width:g}.", "More than 0, and less than 0.288.")
    inverse = width**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def overlap(
    times: NDArray[np.float64], powers: NDArray[np.float64], time: NDArray[np.float64], own: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Integrals of the products of profiles, [n, m]: those that end at `times`, and those that end at `time`."""
    a, b, p, q = times[:, None], time[None], powers[:, None], own[None]
    least = np.minimum(a, b)
    found = (p + 1) * (q + 1) / (p + q + 1) * (least / a) ** p * (least / b) ** q * least / (a * b)
    return np.asarray(found, dtype=np.float64)


def factors(times: NDArray[np.float64], powers: NDArray[np.float64], time: float, own: float) -> NDArray[np.float64]:
    """How much of each snapshot makes the profile of power `own` at `time`: the least squares between the profiles."""
    wanted = overlap(times, powers, np.array([float(time)]), np.array([own]))[:, 0]
    found = np.linalg.lstsq(overlap(times, powers, times, powers), wanted, rcond=1e-12)[0]
    return np.asarray(found, dtype=np.float64)


class Snapshot(NamedTuple):
    """A file of snapshots, and the step that it was taken after."""

    path: Path
    step: int


def write(folder: Path, step: int, averages: Mapping[str, list[Average]]) -> Path:
    """Write the profiles of all players after a step, in the run's folder."""
    tensors = {
        f"{player}/{average.name}/{key}": value.contiguous().cpu()
        for player, rows in averages.items()
        for average in rows
        if isinstance(average, Profile)
        for key, value in average.shadow.items()
    }
    if odd := first_odd(tensors):
        raise NotFinite(odd, step)
    path = folder / f"averages-{step:08d}.safetensors"
    files.write(path, save(tensors, {"step": str(step)}))
    return path


def snapshots(folder: Path) -> list[Snapshot]:
    """A run's snapshots, oldest first; UserError where there are none."""
    found = [Snapshot(path, int(path.stem.partition("-")[2])) for path in sorted(folder.glob("averages-*.safetensors"))]
    if not found:
        raise UserError(f'"{folder}" holds no snapshots of averages.', "A run whose recipe has snapshot_steps.")
    return found


def chosen(folder: Path, player: str, width: float, step: int | None = None) -> dict[str, Tensor]:
    """The average of a width that a run would have had after a step (its last snapshot's if None), from its snapshots.

    float32, summed in float64; what is not a floating-point number is the last snapshot's.
    """
    taken = [one for one in snapshots(folder) if step is None or one.step <= step]
    if not taken:
        raise UserError(f"Step {step}.", f"From {snapshots(folder)[0].step} on, where the first snapshot was taken.")
    rows = [(one, kept) for one in taken for kept in WIDTHS]
    times = np.array([float(one.step) for one, _ in rows])
    powers = np.array([power(kept) for _, kept in rows])
    parts = factors(times, powers, float(taken[-1].step if step is None else step), power(width))
    total: dict[str, Tensor] = {}
    for (one, kept), part in zip(rows, parts.tolist(), strict=True):
        prefix = f"{player}/width {kept:g}/"
        with safe_open(one.path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            if not names:
                raise UserError(f'"{one.path}" holds no player "{player}".', "A player of the run.")
            for name in names:
                key, value = name.removeprefix(prefix), file.get_tensor(name)
                if not value.is_floating_point():
                    total[key] = value
                elif key in total:
                    total[key].add_(value.double(), alpha=part)
                else:
                    total[key] = part * value.double()
    return {key: value.float() if value.is_floating_point() else value for key, value in total.items()}
