"""Seamless nets: rolling the picture rolls the answer, and the weights are those of the net itself."""

import pytest
import torch
from tests.parity.peers import noise, randomise

from aquatint.families import POCKET, TINY
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.seamless import seamless
from aquatint.nets.tiny import TinyAutoencoder, TinyConfig
from aquatint.nets.unet import UNet

FAR = 2e-5  # of the output's standard deviation


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.std())


def unet(x: torch.Tensor, net: UNet, width: int) -> torch.Tensor:
    return net(x, torch.tensor([500.0]), noise(1, 77, width, seed=3), None)


@torch.no_grad()
@pytest.mark.parametrize("family", [TINY, POCKET], ids=lambda family: family.name)
def test_the_unet_rolls(family: object) -> None:
    net = UNet(family.unet).eval()  # type: ignore[attr-defined]
    randomise(net)
    width, x = net.config.context, noise(1, 4, 16, 24)
    both, across = seamless(net, True, True), seamless(net, False, True)
    plain = unet(x, net, width)
    for shifts in ((4, 8), (12, 0), (0, 20)):
        rolled = unet(x.roll(shifts, (2, 3)), both, width)
        assert apart(rolled, unet(x, both, width).roll(shifts, (2, 3))) < FAR
    assert apart(unet(x.roll(8, 3), across, width), unet(x, across, width).roll(8, 3)) < FAR
    assert apart(unet(x.roll(8, 2), across, width), unet(x, across, width).roll(8, 2)) > 0.01  # the other way it ends
    assert apart(unet(x.roll(8, 3), net, width), plain.roll(8, 3)) > 0.01  # and the net itself ends at both
    assert torch.equal(unet(x, net, width), plain)


@torch.no_grad()
@pytest.mark.parametrize("family", [TINY, POCKET], ids=lambda family: family.name)
def test_the_autoencoder_rolls(family: object) -> None:
    net = Autoencoder(family.autoencoder).eval()  # type: ignore[attr-defined]
    randomise(net)
    twin, pictures = seamless(net, True, True), noise(1, 3, 64, 96).clamp(-1, 1)
    latents = twin.encode(pictures)
    assert apart(twin.encode(pictures.roll((16, 40), (2, 3))), latents.roll((2, 5), (2, 3))) < FAR
    assert apart(twin.decode(latents.roll((2, 5), (2, 3))), twin.decode(latents).roll((16, 40), (2, 3))) < FAR
    assert apart(net.encode(pictures.roll(16, 2)), net.encode(pictures).roll(2, 2)) > 0.01


@torch.no_grad()
def test_the_tiny_autoencoder_rolls() -> None:
    net = TinyAutoencoder(TinyConfig(width=16)).eval()
    randomise(net)
    twin, pictures = seamless(net, True, True), noise(1, 3, 64, 64).clamp(-1, 1)
    latents = twin.encode(pictures)
    # its strided convolutions begin one pixel before the picture, so they roll by whole latents too
    assert apart(twin.encode(pictures.roll(24, 3)), latents.roll(3, 3)) < FAR
    assert apart(twin.decode(latents.roll(3, 3)), twin.decode(latents).roll(24, 3)) < FAR


def test_weights_are_shared_and_modules_are_not() -> None:
    net = UNet(TINY.unet)
    twin = seamless(net, True, False)
    assert {name: tensor.data_ptr() for name, tensor in net.state_dict().items()} == {
        name: tensor.data_ptr() for name, tensor in twin.state_dict().items()
    }
    assert type(net.enter) is torch.nn.Conv2d
    assert net.enter.padding == (1, 1)
