"""A net that knows the truth, so that paths look like a trained model's without any weights."""

import numpy as np
import torch
from torch import Tensor

SIGNAL = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)  # Stable Diffusion's alpha-bar, anew


class Mixture:
    """Each place of a latent comes from one of five points in four channels, blurred by 0.3.

    prediction  what it says of a noisy picture: "epsilon", "v" or "sample"
    signal      alpha-bar at whole times; between them log(alpha / sigma) is linear, as k-diffusion takes it
    It remembers the times that it was asked at.
    """

    def __init__(self, prediction: str, signal: np.ndarray = SIGNAL) -> None:
        self.prediction, self.signal = prediction, signal
        self.points = 1.2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        self.times: list[float] = []

    def __call__(self, x: Tensor, t: Tensor, context: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        time = float(t.flatten()[0])
        self.times.append(time)
        alpha, sigma = self.level(time)
        x0 = self.x0(x.double(), alpha, sigma)
        eps = (x.double() - alpha * x0) / sigma
        return {"epsilon": eps, "v": alpha * eps - sigma * x0, "sample": x0}[self.prediction].to(x.dtype)

    def level(self, time: float) -> tuple[float, float]:
        below = min(int(time), len(self.signal) - 2)
        if time == below + 1:
            return float(self.signal[below + 1] ** 0.5), float((1 - self.signal[below + 1]) ** 0.5)
        if time == below:
            return float(self.signal[below] ** 0.5), float((1 - self.signal[below]) ** 0.5)
        logs = 0.5 * np.log((1 - self.signal[below : below + 2]) / self.signal[below : below + 2])
        ratio = float(np.exp(logs[0] + (time - below) * (logs[1] - logs[0])))
        return (1 + ratio**2) ** -0.5, ratio * (1 + ratio**2) ** -0.5

    def x0(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x0 | x]: the points, each with the part of the blur that x tells, weighed by how likely they are."""
        points = self.points[:, None, :, None, None]
        variance = (0.3 * alpha) ** 2 + sigma**2
        likely = torch.softmax(-((x - alpha * points) ** 2).sum(2, keepdim=True) / (2 * variance), dim=0)
        return (likely * (points + alpha * 0.3**2 / variance * (x - alpha * points))).sum(0)
