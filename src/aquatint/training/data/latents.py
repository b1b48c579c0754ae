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
from aquatint.base.runtime import DTYPES
from aquatint.nets.autoencoder import Autoencoder
from aquatint.training.data.pool import Pool


def pixels(pictures: np.ndarray) -> Float[Tensor, "b 3 h w"]:
    """uint8 [b, h, w, 3] -> float32 [b, 3, h, w] in [-1, 1]."""
    return images.from_bytes(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())


@dataclass(frozen=True)
class Latents:
    """Encoded scenes 0..n-1 of a pool: their posteriors' means and deviations, [n, c, h, w] each."""

    means: Float[Tensor, "n c h w"]
    deviations: Float[Tensor, "n c h w"]

    def draw(self, rows: Int[Tensor, " b"], noise: Noise) -> Float[Tensor, "b c h w"]:
        """Latents of these scenes, drawn from their posteriors: float32 [b, c, h, w]."""
        eps = noise.normal(tuple(self.means.shape[1:]), draw=POSTERIOR, device=self.means.device)
        return self.means[rows].float() + self.deviations[rows].float() * eps

    def settled(self, centre: Float[Tensor, " c"], width: Float[Tensor, " c"]) -> "Latents":
        """The same with each channel's centre taken away and its width brought to 1."""
        shape = (1, -1, 1, 1)
        return Latents((self.means - centre.view(shape)) / width.view(shape), self.deviations / width.view(shape))

    def to(self, device: torch.device | str) -> "Latents":
        """The cache on a device, whole."""
        return Latents(self.means.to(device), self.deviations.to(device))

    def save(self, path: Path) -> None:
        """Write the cache, as float16."""
        tensors = {"means": self.means.half().contiguous(), "deviations": self.deviations.half().contiguous()}
        files.write(path, save(tensors))

    @staticmethod
    def load(path: Path) -> "Latents":
        """Read a cache back."""
        tensors = load_file(path)
        return Latents(tensors["means"], tensors["deviations"])


@torch.no_grad()
def encode(autoencoder: Autoencoder, pool: Pool, batch: int = 64, dtype: str = "float32") -> Latents:
    """The pool's pictures encoded on its device, computing in `dtype`: means and deviations as the encoder gives them,
    float32, before scale and shift."""
    device, found = pool.pictures.device, []
    with torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32"):
        for rows in torch.arange(len(pool), device=device).split(batch):
            posterior = autoencoder.posterior(pool.whole(rows))
            found.append((posterior.mean.float(), torch.exp(0.5 * posterior.log_variance.float())))
    means, deviations = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Latents(means, deviations)
