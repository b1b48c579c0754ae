"""Joined products: what a net is told once, one product where there were many, the net itself untouched."""

from collections import Counter

import pytest
import torch
from tests.engines.traced import Watching

from aquatint.base.noise import Noise
from aquatint.engines.projections import Joined, Told, parted
from aquatint.families import SD15, TINY
from aquatint.nets.attention import Attention
from aquatint.nets.blocks import ResBlock, TransformerLayer
from aquatint.nets.picture_prompt import PictureConfig, PicturePrompt, crossings, prompted
from aquatint.nets.unet import UNet


class Counting(Watching):
    """How many products of matrices there are."""

    def __enter__(self) -> "Counting":
        self.seen: Counter[str] = Counter()
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def products(self) -> int:
        return self.seen["mm"] + self.seen["addmm"] + self.seen["bmm"]


def kinds(net: UNet) -> Counter[type]:
    return Counter(type(part) for part in net.modules() if isinstance(part, Attention))


@torch.no_grad()
def test_one_product_where_there_were_many() -> None:
    net = UNet(TINY.unet)
    tell, step, twin = parted(net)
    x, t, context = torch.zeros(2, 4, 8, 8), torch.zeros(2), torch.zeros(2, 7, 32)
    with Counting() as whole:
        net(x, t, context)
    with Counting() as once:
        told = tell(context)
    with Counting() as rest:
        step(x, t, told, None)
    layers, blocks = (sum(isinstance(part, kind) for part in net.modules()) for kind in (TransformerLayer, ResBlock))
    assert once.products == 1
    assert whole.products - rest.products == 2 * layers + (blocks - 1) + 2 * layers
    assert kinds(net) == {Attention: 2 * layers}
    assert kinds(twin) == {Joined: layers, Told: layers}


@pytest.mark.slow
@torch.no_grad()
def test_the_numbers_in_the_docstrings() -> None:
    """What Stable Diffusion 1.5 has of small products, and the megabytes of the joined ones in float16."""
    with torch.device("meta"):
        net = UNet(SD15.unet)
        tell, step, twin = parted(net)
    assert kinds(twin) == {Joined: 16, Told: 16}
    assert sum(isinstance(part, ResBlock) for part in net.modules()) == 22
    joined = [tell.args[0], *step.args[1:], *(part.weight for part in twin.modules() if isinstance(part, Joined))]
    assert round(2 * sum(weight.numel() for weight in joined) / 1e6) == 164


@torch.no_grad()
def test_a_net_that_reads_pictures_is_told_its_context_as_it_is() -> None:
    torch.manual_seed(0)
    widths = tuple(width for _, width in crossings(TINY.unet))
    net = PicturePrompt(PictureConfig(widths, context=TINY.unet.context, tokens=2))
    looking = prompted(UNet(TINY.unet), [(net, 0.8)])
    noise = Noise([1, 2])
    x, context, t = noise.normal((4, 8, 8)), noise.normal((9, 32), draw=1), torch.tensor([5.0, 700.0])
    tell, step, twin = parted(looking)
    assert tell(context) is context
    torch.testing.assert_close(step(x, t, context, None), looking(x, t, context), rtol=1e-5, atol=1e-5)
    assert kinds(twin)[Told] == 0
    assert kinds(twin)[Joined] == sum(isinstance(part, TransformerLayer) for part in twin.modules())


@torch.no_grad()
def test_joined_attention_to_something_else_is_attention() -> None:
    net = UNet(TINY.unet)
    name = "middle.first.attend.layers.0.among"
    plain, joined = net.get_submodule(name), parted(net).twin.get_submodule(name)
    assert isinstance(joined, Joined)
    x, context = (Noise([1]).normal((n, plain.q.in_features), draw=n) for n in (5, 3))
    for given in ((x,), (x, x), (x, context)):
        torch.testing.assert_close(joined(*given), plain(*given), rtol=1e-5, atol=1e-5)
