"""Scenes already encoded: their latents' means and deviations in one file, so that the U-Net never waits for pixels."""

from collections.abc import Iterator
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
) -> Iterator[tuple[Tensor, Tensor]]:
    """(means, deviations), scaled, of the stream's scenes `indices`, batch by batch."""
    scale, shift = autoencoder.config.scale, autoencoder.config.shift
    for first in range(indices.start, indices.stop, batch):
        pictures, _ = stream.batch(range(first, min(first + batch, indices.stop)))
        posterior = autoencoder.posterior(pixels(pictures))
        yield (posterior.mean - shift) * scale, torch.exp(0.5 * posterior.log_variance) * scale
