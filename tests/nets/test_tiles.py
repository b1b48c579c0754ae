"""Nets by tiles: the whole picture's numbers to rounding, norms and edges that meet included."""

import pytest
import torch
from tests.parity.peers import noise, randomise
from torch import nn

from aquatint.families import POCKET, TINY
from aquatint.nets.autoencoder import Autoencoder, AutoencoderConfig
from aquatint.nets.seamless import seamless
from aquatint.nets.tiled_autoencoder import decode_tiled, encode_tiled
from aquatint.nets.tiles import by_tiles, measured

FAR = 2e-5  # of the output's standard deviation
SD = AutoencoderConfig(encoder=(32, 64, 128, 128), decoder=(32, 64, 128, 128))  # its shape, a quarter of its widths
CONFIGS = {"pocket": POCKET.autoencoder, "tiny": TINY.autoencoder, "sd": SD}


def built(name: str) -> Autoencoder:
    net = Autoencoder(CONFIGS[name])
    randomise(net)
    return net.eval()


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.std())


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tile", [64, 72, 4096])
def test_the_autoencoder_by_tiles_is_the_autoencoder(name: str, tile: int) -> None:
    net, pictures = built(name), noise(1, 3, 136, 200).clamp(-1, 1)
    latents = net.encode(pictures)
    assert apart(encode_tiled(net, pictures, tile), latents) < FAR
    assert apart(decode_tiled(net, latents, tile), net.decode(latents)) < FAR


@torch.no_grad()
def test_no_seam_is_where_the_tiles_meet() -> None:
    """What differs by rounding differs no more at the tiles' edges than elsewhere."""
    net, latents = built("sd"), noise(1, 4, 24, 24)
    delta = (decode_tiled(net, latents, 64) - net.decode(latents)).abs().mean(dim=(0, 1))
    edges = torch.zeros(192, dtype=torch.bool)
    edges[[63, 64, 127, 128]] = True
    assert delta[edges].mean() < 3 * delta[~edges].mean()


@torch.no_grad()
def test_without_the_surroundings_there_are_seams() -> None:
    """The control: tiles that see only themselves are far off, so the tests above can fail."""
    net, latents = built("sd"), noise(1, 4, 24, 24)
    naive = torch.cat([net.decode(part) for part in latents.split(8, dim=3)], dim=3)
    assert apart(naive, net.decode(latents)) > 0.1


@torch.no_grad()
def test_norms_have_the_whole_pictures_numbers() -> None:
    """Two norms, the second of which sees what the first makes; a picture whose left differs from its right."""
    piece = nn.Sequential(nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(4, 4))
    randomise(piece)
    x = noise(2, 4, 20, 32)
    x[..., 16:] = 3 * x[..., 16:] + 5
    ready = measured(piece, x, 8, 2)
    assert apart(by_tiles(ready, x, 8, 2), piece(x)) < FAR
    assert isinstance(piece[0], nn.GroupNorm)  # the original is as it was


@torch.no_grad()
def test_half_precision_is_as_near_as_half_precision_is() -> None:
    net, latents = built("sd").bfloat16(), noise(1, 4, 16, 24)
    whole, tiled = net.decode(latents), decode_tiled(net, latents, 64)
    exact = built("sd").decode(latents)
    assert tiled.dtype == torch.float32
    assert (tiled - exact).square().mean() < 1.5 * (whole - exact).square().mean()


@torch.no_grad()
def test_by_tiles_takes_any_size() -> None:
    piece = nn.Conv2d(3, 5, 5, padding=2)
    for height, width in ((1, 1), (7, 40), (16, 16), (33, 3)):
        x = noise(1, 3, height, width)
        torch.testing.assert_close(by_tiles(piece, x, 8, 2), piece(x), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("meets", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("name", ["pocket", "sd"])
def test_edges_that_meet_meet_by_tiles_too(name: str, meets: tuple[bool, bool]) -> None:
    net = seamless(built(name), *meets)
    pictures = noise(1, 3, 128, 192).clamp(-1, 1)
    latents = net.encode(pictures)
    assert apart(encode_tiled(net, pictures, 64, meets), latents) < FAR
    assert apart(decode_tiled(net, latents, 64, meets), net.decode(latents)) < FAR
