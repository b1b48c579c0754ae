"""Scenes already encoded: their latents' means and deviations in one file, so that the U-Net never waits for pixels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save
from torch import Tensor

from aquatint.base import files, images
from aquatint.base.noise import POSTERIOR, Noise
from aquatint.nets.autoencoder import Autoencoder
from aquatint.training.data.stream import Stream


def pixels(pictures: np.ndarray) -> Float[Tensor, "b 3 h w"]:
    """uint8 [b, h, w, 3] -> float32 [b, 3, h, w] in [-1, 1]."""
    return images.from_bytes(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())


@dataclass(frozen=True)
class Latents:
    """Encoded scenes 0..n-1 of a stream: scaled means and deviations, float16 [n, c, h, w] each."""

    means: Float[Tensor, "n c h w"]
    deviations: Float[Tensor, "n c h w"]

    def draw(self, rows: Int[Tensor, " b"], noise: Noise) -> Float[Tensor, "b c h w"]:
        """Latents of these scenes, drawn from their posteriors: float32 [b, c, h, w]."""
        eps = noise.normal(tuple(self.means.shape[1:]), draw=POSTERIOR)
        return self.means[rows].float() + self.deviations[rows].float() * eps

    def save(self, path: Path) -> None:
        """Write the cache."""
        tensors = {"means": self.means.half().contiguous(), "deviations": self.deviations.half().contiguous()}
        files.write(path, save(tensors))

    @staticmethod
    def load(path: Path) -> "Latents":
        """Read a cache back."""
        tensors = load_file(path)
        return Latents(tensors["means"], tensors["deviations"])


@torch.no_grad()
def encode(
    autoencoder: Autoencoder, stream: Stream, indices: range, batch: int = 32
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
    """Means and deviations, scaled, of the stream's scenes `indices`; float32 [n, 4, h / 8, w / 8] each."""
    scale, shift = autoencoder.config.scale, autoencoder.config.shift
    side = (stream.size or stream.world.canvas) // autoencoder.config.factor
    # Made once and filled: small results kept between large passing ones left 2.5 MB of holes a batch in the heap.
    means, deviations = torch.empty(2, len(indices), autoencoder.config.latents, side, side)
    for first in range(0, len(indices), batch):
        rows = slice(first, first + batch)
        posterior = autoencoder.posterior(pixels(stream.batch(indices[rows])[0]))
        means[rows] = (posterior.mean - shift) * scale
        deviations[rows] = torch.exp(0.5 * posterior.log_variance) * scale
    return means, deviations
