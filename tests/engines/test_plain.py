"""The plain engine: the same numbers in the layout that convolutions like, and no copy of the other weights."""

import torch

from aquatint.base.noise import Noise
from aquatint.engines.plain import prepare
from aquatint.families import TINY
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.unet import UNet
from aquatint.training.start import start


@torch.no_grad()
def test_a_prepared_unet_answers_alike_and_keeps_its_weights() -> None:
    net = UNet(TINY.unet)
    start(net, 1)
    torch.nn.init.ones_(net.leave.weight)
    noise = Noise([1, 2])
    x, context, t = noise.normal((4, 8, 8)), noise.normal((77, 32), draw=1), torch.tensor([5.0, 700.0])
    before = net(x, t, context)
    places = {name: weight.data_ptr() for name, weight in net.named_parameters()}
    prepare(net)
    torch.testing.assert_close(net(x, t, context), before, rtol=1e-4, atol=1e-4)
    moved = [name for name, weight in net.named_parameters() if weight.data_ptr() != places[name]]
    wide = [name for name, weight in net.named_parameters() if weight.ndim == 4 and weight.shape[2] > 1]
    assert moved == wide
    assert not net.leave.weight.is_contiguous()


@torch.no_grad()
def test_activations_run_channels_last() -> None:
    net = Autoencoder(TINY.autoencoder)
    start(net, 1)
    seen = []
    net.decoder.levels[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    z = Noise([1]).normal((4, 8, 8))
    net.decode(z)
    prepare(net.decoder)
    net.decode(z)
    layouts = [out.is_contiguous(memory_format=torch.channels_last) for out in seen]
    assert layouts == [False, True]
