"""How much picture and how much noise there is at each time: x_t = alpha * x_0 + sigma * eps."""

import bisect
import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from aquatint.base.errors import UserError, unknown
from aquatint.base.noise import TIME, Noise

Scalar: TypeAlias = float | Float[Tensor, "b 1 1 1"]
Latents: TypeAlias = Float[Tensor, "b c h w"]


@dataclass(frozen=True, slots=True)
class Level:
    """x = alpha * x0 + sigma * eps, announced to the net as time t.

    Python floats while sampling (no device is ever waited for), tensors [b, 1, 1, 1] while training. Every level of
    this house preserves variance, alpha**2 + sigma**2 = 1; only the velocity v = alpha * eps - sigma * x0 needs that.
    """

    alpha: Scalar
    sigma: Scalar
    t: Scalar

    @property
    def ratio(self) -> Scalar:
        """sigma / alpha, which k-diffusion and Karras et al. (2022) call sigma; infinite in pure noise."""
        if isinstance(self.alpha, float) and self.alpha == 0:
            return math.inf
        return self.sigma / self.alpha

    @property
    def lam(self) -> Scalar:
        """lambda = log(alpha / sigma), half the log of the signal-to-noise ratio; infinite at either end."""
        if isinstance(self.alpha, Tensor) or isinstance(self.sigma, Tensor):
            return torch.log(torch.as_tensor(self.alpha / self.sigma))
        return -math.inf if self.alpha == 0 else math.inf if self.sigma == 0 else math.log(self.alpha / self.sigma)

    def mix(self, x0: Latents, eps: Latents) -> Latents:
        """x = alpha * x0 + sigma * eps."""
        return self.alpha * x0 + self.sigma * eps

    def eps(self, x: Latents, x0: Latents) -> Latents:
        """The noise in x, if x0 is the picture in it: (x - alpha * x0) / sigma. There is none where sigma = 0."""
        return (x - self.alpha * x0) / self.sigma


CLEAN = Level(1.0, 0.0, 0.0)


@dataclass(frozen=True)
class ScheduleConfig:
    """A table of noise levels, as data.

    kind           "scaled_linear" (Stable Diffusion: the root of beta is linear), "linear" (beta is), or "cosine"
    start, end     beta at either end; the cosine has none
    steps          the length of the table: times are 0 .. steps - 1
    zero_terminal  whether the table is rescaled to end in pure noise, alpha = 0
    offset         the first time that the grid "leading" visits, 1 or 0 (diffusers' steps_offset)
    """

    kind: str = "scaled_linear"
    start: float = 0.00085
    end: float = 0.012
    steps: int = 1000
    zero_terminal: bool = False
    offset: int = 1


class NoiseSchedule:
    """The levels of a ScheduleConfig: a float64 table at whole times, and what lies between.

    Between two entries log(ratio) is linear in t, as in k-diffusion. A zero-terminal table ends where that is
    infinite: in its last interval 1 / ratio is linear instead.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        signal = _signal(config)
        self._alphas, self._sigmas = signal.sqrt(), (1 - signal).sqrt()
        self._ratios = [
            math.inf if a == 0 else s / a for a, s in zip(self._alphas.tolist(), self._sigmas.tolist(), strict=True)
        ]

    @property
    def last(self) -> int:
        """The last time of the table, where there is most noise."""
        return self.config.steps - 1

    def at(self, t: float | int) -> Level:
        """The level at time t, 0 <= t <= last; the table's own entry where t is whole."""
        assert 0 <= t <= self.last, f"t = {t} is outside 0 .. {self.last}"
        below = math.floor(t)
        if t == below:
            return Level(self._alphas[below].item(), self._sigmas[below].item(), float(t))
        low, high, part = self._ratios[below], self._ratios[below + 1], t - below
        ratio = low / (1 - part) if high == math.inf else low * (high / low) ** part
        return _level(ratio, float(t))

    def at_ratio(self, ratio: float) -> Level:
        """The level with sigma / alpha = ratio: at's inverse. Off the table the ratio holds and t is the nearer end."""
        if ratio <= self._ratios[0]:
            return _level(ratio, 0.0)
        if ratio >= self._ratios[-1]:
            return _level(ratio, float(self.last))
        below = bisect.bisect_right(self._ratios, ratio) - 1
        low, high = self._ratios[below], self._ratios[below + 1]
        part = 1 - low / ratio if high == math.inf else math.log(ratio / low) / math.log(high / low)
        return _level(ratio, below + part)

    def draw(
        self,
        noise: Noise,
        *,
        step: int = 0,
        above: int = 0,
        share: float = 0.0,
        below: int = 0,
        device: torch.device | str | None = None,
    ) -> Level:
        """A training batch's levels, one for each row of the noise: float32 tensors [b, 1, 1, 1].

        t is uniform over the table; but in the given share of the rows it is uniform over above .. last, for what a
        picture shows is settled there. below: the table as if it ended there (0: it does not).
        """
        end = below or self.config.steps
        assert 0 < end <= self.config.steps, f"below = {below}"
        assert share == 0 or 0 <= above < end, f"above = {above}"
        assert 0 <= share <= 1, f"share = {share}"
        chosen, place = noise.uniform((2,), step=step, draw=TIME).double().unbind(1)
        low = torch.where(chosen < share, float(above), 0.0)
        t = torch.floor(low + place * (end - low))
        rows = t.long()

        def column(values: Tensor) -> Tensor:
            return values.float().reshape(-1, 1, 1, 1).to(device or "cpu")

        return Level(column(self._alphas[rows]), column(self._sigmas[rows]), column(t))

    def prior(self, level: Level, eps: Latents, data: float = 1.0) -> Latents:
        """What pure noise means at this level: x as it is when nothing is known of a picture but its size.

        sqrt(alpha**2 * data**2 + sigma**2) * eps, with data the standard deviation of latents. 1 gives unit noise, as
        DDIM, PLMS and DPM-Solver start; 0 gives sigma * eps, as k-diffusion's samplers do: 0.2 % less at the end of
        Stable Diffusion's table, and the same at a zero-terminal one.
        """
        return (level.alpha**2 * data**2 + level.sigma**2) ** 0.5 * eps


def _level(ratio: float, t: float) -> Level:
    """The variance-preserving level with this ratio."""
    if ratio == math.inf:
        return Level(0.0, 1.0, t)
    length = math.hypot(1.0, ratio)
    return Level(1.0 / length, ratio / length, t)


def _signal(config: ScheduleConfig) -> Float[Tensor, " steps"]:
    """alpha-bar = alpha**2, the share of variance that is picture, at each time of the table, in float64."""
    if config.kind not in BETAS:
        raise unknown("noise schedule", config.kind, BETAS)
    if config.steps < 2:
        raise UserError(
            f"a noise schedule of {config.steps} steps.", "It takes at least 2.", "Stable Diffusion has 1000."
        )
    if not 0 < config.start <= config.end < 1:
        raise UserError(
            f"a noise schedule from beta {config.start} to {config.end}.",
            "It takes betas that rise, between 0 and 1.",
            "Stable Diffusion's go from 0.00085 to 0.012.",
        )
    signal = torch.cumprod(1 - BETAS[config.kind](config), 0)
    return _to_zero(signal) if config.zero_terminal else signal


def _to_zero(signal: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
    """The table stretched to end at alpha = 0 and begin where it did (Lin et al. 2023, algorithm 1)."""
    alphas = signal.sqrt()
    first, last = alphas[0], alphas[-1]
    return ((alphas - last) * (first / (first - last))) ** 2


def _scaled_linear(config: ScheduleConfig) -> Tensor:
    return torch.linspace(config.start**0.5, config.end**0.5, config.steps, dtype=torch.float64) ** 2


def _linear(config: ScheduleConfig) -> Tensor:
    return torch.linspace(config.start, config.end, config.steps, dtype=torch.float64)


def _cosine(config: ScheduleConfig) -> Tensor:
    """alpha-bar follows a squared cosine, and no beta exceeds 0.999 (Nichol and Dhariwal 2021, equation 17)."""
    time = torch.arange(config.steps + 1, dtype=torch.float64) / config.steps
    signal = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - signal[1:] / signal[:-1]).clamp(max=0.999)


BETAS = {
    "scaled_linear": _scaled_linear,
    "linear": _linear,
    "cosine": _cosine,
}
