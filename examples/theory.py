"""The theory without a network: sampling from one Gaussian, whose best denoiser is known in closed form."""

import torch

from aquatint.base.noise import Noise
from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import Level, NoiseSchedule, ScheduleConfig

MEAN, WIDTH = 2.0, 0.5


def denoise(x: torch.Tensor, level: Level) -> torch.Tensor:
    """E[x0 | x] for x0 ~ N(MEAN, WIDTH^2)."""
    gain = level.alpha * WIDTH**2 / (level.alpha**2 * WIDTH**2 + level.sigma**2)
    return MEAN + gain * (x - level.alpha * MEAN)


schedule = NoiseSchedule(ScheduleConfig(zero_terminal=True))
noise = Noise(range(1000))
for steps in (5, 10, 20, 40):
    levels = GRIDS["trailing"](schedule, steps)
    *_, last = SAMPLERS["dpmpp_2m"](denoise, schedule.prior(levels[0], noise.normal((1, 1, 1))), levels, noise)
    print(f"{steps:3d} steps: mean {last.x.mean():.4f} (2), deviation {last.x.std():.4f} (0.5)")
