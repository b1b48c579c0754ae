"""The error on pictures that are not learned from, by time: a mean over all times hides what happens at each."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from aquatint.base.noise import EPS, Noise
from aquatint.diffusion.schedule import Level, NoiseSchedule
from aquatint.training.objectives.diffusion import Denoising
from aquatint.training.recipe import Batch

SEED = 900_001  # of the noise: always the same, so that what changes is the net
BINS = 10


@torch.no_grad()
def by_time(task: Denoising, batches: Sequence[Batch], bins: int = BINS) -> dict[str, float]:
    """Mean squared errors of batches' samples, {"held": over all times, "held, t 0-99": ..., ...}.

    Each sample is asked about once in every bin of the table, at a place of its own in it: sample i of n at the share
    (i + 1/2) / n. Times and noise are the same at every call.
    """
    count = sum(len(batch["latents"]) for batch in batches)
    steps, found = task.schedule.config.steps, [list[Tensor]() for _ in range(bins)]
    edges = [steps * index // bins for index in range(bins + 1)]
    for index, (low, high) in enumerate(pairwise(edges)):
        first = 0
        for batch in batches:
            latents: Tensor = batch["latents"]
            numbers = range(first, first := first + len(latents))
            times = [low + int((high - low) * (number + 0.5) / count) for number in numbers]
            eps = Noise([SEED] * len(latents), numbers).normal(
                tuple(latents.shape[1:]), step=index, draw=EPS, device=latents.device
            )
            found[index].append(task.errors(latents, eps, levels(task.schedule, times, latents.device), batch).cpu())
    rows = [torch.cat(parts).mean().item() for parts in found]
    named = {f"held, t {low}-{high - 1}": row for (low, high), row in zip(pairwise(edges), rows, strict=True)}
    return {"held": sum(rows) / bins} | named


def levels(schedule: NoiseSchedule, times: Sequence[int], device: torch.device | None = None) -> Level:
    """The levels of these times of the table, float32 [n, 1, 1, 1]."""
    found = [schedule.at(time) for time in times]

    def column(values: Sequence[float | Tensor]) -> Tensor:
        return torch.tensor([float(value) for value in values], device=device).view(-1, 1, 1, 1)

    return Level(
        column([one.alpha for one in found]), column([one.sigma for one in found]), column([one.t for one in found])
    )
