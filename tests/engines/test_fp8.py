"""8-bit floats: what a row keeps, what a product is off by, and which layers multiply so."""

import copy

import pytest
import torch
from torch import nn

from aquatint.base.noise import Noise
from aquatint.engines.fp8 import Short, shorten, shortened
from aquatint.nets.blocks import GatedFeed, TransformerLayer

pytestmark = pytest.mark.usefixtures("still")


@pytest.fixture
def still():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_keep_their_size_and_four_bits(dtype: torch.dtype) -> None:
    rows = (Noise([1, 2, 3]).normal((160,)) * torch.tensor([[1e-3], [1.0], [300.0]])).to(dtype)
    short, scale = shortened(rows)
    assert short.dtype is torch.float8_e4m3fn
    assert (short.float().abs().amax(1) == 448).all()
    back = short.float() * scale[:, None]
    least = scale[:, None] * 2.0**-10  # half of the smallest step
    assert ((back - rows.float()).abs() <= rows.float().abs() / 16 + least).all()
    assert (back - rows.float()).norm() / rows.float().norm() < 0.03


def test_nothing_and_no_number() -> None:
    rows = torch.zeros(4, 32)
    rows[1, 3], rows[2, 4] = float("nan"), float("inf")
    short, scale = shortened(rows)
    back = short.float() * scale[:, None]
    assert (back[[0, 3]] == 0).all()
    assert not back[1].isfinite().any()
    assert not back[2].isfinite().any()


def test_feed_forwards_only_and_close() -> None:
    torch.manual_seed(0)
    layer = TransformerLayer(48, 32, 2).to(torch.bfloat16)
    short = copy.deepcopy(layer)
    shorten(short)
    assert [name for name, part in short.named_modules() if isinstance(part, Short)] == ["feed.enter", "feed.leave"]
    assert short.state_dict().keys() == layer.state_dict().keys()
    noise = Noise([1, 2])
    x, context = noise.normal((6, 48)).to(torch.bfloat16), noise.normal((5, 32), draw=1).to(torch.bfloat16)
    want, got = layer.feed(x).float(), short.feed(x).float()
    assert 1e-3 < (got - want).norm() / want.norm() < 0.08
    assert short(x, context).shape == x.shape
    assert got[0].equal(short.feed(x[:1])[0].float())  # no row depends on its company
    odd = GatedFeed(9)
    shorten(odd)
    assert type(odd.enter) is nn.Linear
