"""Encoded scenes: what the cache holds, and that it comes back."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aquatint.base.noise import POSTERIOR, Noise
from aquatint.families import TINY
from aquatint.nets.autoencoder import Autoencoder
from aquatint.training.data.latents import Latents, encode, pixels
from aquatint.training.data.render import has_font
from aquatint.training.data.stream import Stream
from aquatint.training.data.world import SMALL
from aquatint.training.start import start


@pytest.mark.skipif(not has_font(), reason="scenes are drawn with fonts-noto-color-emoji")
def test_scenes_are_encoded_scaled_saved_and_drawn(tmp_path: Path) -> None:
    net = Autoencoder(replace(TINY.autoencoder, scale=2.0, shift=0.25))
    start(net, 3)
    stream = Stream(SMALL, 1, size=32)
    means, deviations = encode(net, stream, range(4, 9), batch=2)
    with torch.no_grad():
        alone = net.encode(pixels(stream.batch([6])[0]))
    torch.testing.assert_close(means[2:3], alone, rtol=1e-4, atol=1e-5)
    assert means.shape == deviations.shape == (5, 4, 4, 4)

    Latents(means, deviations).save(tmp_path / "cache.safetensors")
    cache = Latents.load(tmp_path / "cache.safetensors")
    noise, rows = Noise([1, 1], [5, 6]), torch.tensor([4, 0])
    expected = means[rows].half().float() + deviations[rows].half().float() * noise.normal((4, 4, 4), draw=POSTERIOR)
    torch.testing.assert_close(cache.draw(rows, noise), expected)
