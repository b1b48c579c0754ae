"""Encoded scenes: what the cache holds, and that it comes back."""

from pathlib import Path

import pytest
import torch

from aquatint.base.noise import POSTERIOR, Noise
from aquatint.families import TINY
from aquatint.nets.autoencoder import Autoencoder
from aquatint.training.data.latents import Latents, encode, pixels
from aquatint.training.data.pool import Pool
from aquatint.training.data.render import has_font
from aquatint.training.data.stream import Stream
from aquatint.training.data.world import SMALL
from aquatint.training.start import start


@pytest.mark.skipif(not has_font(), reason="scenes are drawn with fonts-noto-color-emoji")
def test_scenes_are_encoded_scaled_saved_and_drawn(tmp_path: Path) -> None:
    net = Autoencoder(TINY.autoencoder)
    start(net, 3)
    pictures = torch.from_numpy(Stream(SMALL, 1, size=32).batch(range(4, 9))[0])
    pool = Pool(pictures, torch.zeros(5, 1, 77, dtype=torch.int16))
    found = encode(net, pool, batch=2)
    with torch.no_grad():
        alone = net.posterior(pixels(pictures[2:3].numpy()))
    torch.testing.assert_close(found.means[2:3], alone.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.deviations[2:3], torch.exp(0.5 * alone.log_variance), rtol=1e-4, atol=1e-5)

    centre, width = torch.tensor([1.0, 0.0, -1.0, 0.5]), torch.tensor([2.0, 1.0, 0.5, 4.0])
    means, deviations = found.settled(centre, width).means, found.settled(centre, width).deviations
    torch.testing.assert_close(means[:, 3], (found.means[:, 3] - 0.5) / 4)
    torch.testing.assert_close(deviations[:, 0], found.deviations[:, 0] / 2)
    assert means.shape == deviations.shape == (5, 4, 4, 4)

    Latents(means, deviations).save(tmp_path / "cache.safetensors")
    cache = Latents.load(tmp_path / "cache.safetensors")
    noise, rows = Noise([1, 1], [5, 6]), torch.tensor([4, 0])
    expected = means[rows].half().float() + deviations[rows].half().float() * noise.normal((4, 4, 4), draw=POSTERIOR)
    torch.testing.assert_close(cache.draw(rows, noise), expected)
