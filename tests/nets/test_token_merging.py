"""Token merging against loops that spell it out, and where it changes nothing."""

from dataclasses import replace

import pytest
import torch
from tests.parity.peers import noise, randomise
from torch import Tensor
from torch.nn import functional as F

from aquatint.base.errors import UserError
from aquatint.families import TINY
from aquatint.nets.attention import Attention, set_attention
from aquatint.nets.freeu import freed
from aquatint.nets.perturbed import perturbed
from aquatint.nets.token_merging import MergedAttention, chosen, means, merging
from aquatint.nets.unet import Stage, UNet, UNetConfig

CONFIG = replace(TINY.unet, stages=(Stage(16, 2, depth=0), Stage(32, 4), Stage(32, 4)), blocks=1)
X, T, CONTEXT = noise(2, 4, 13, 10), torch.tensor([900.0, 30.0]), noise(2, 7, CONFIG.context, seed=2)
WIDTH = 32


def made(config: UNetConfig = CONFIG) -> UNet:
    unet = UNet(config).eval().requires_grad_(False)
    randomise(unet)
    return unet


def attention() -> Attention:
    net = Attention(WIDTH, heads=4).eval().requires_grad_(False)
    randomise(net)
    return net


def by_hand(net: MergedAttention, x: Tensor) -> Tensor:
    """One picture, pixel by pixel, in float64."""
    into, others = net.into.tolist(), net.others.tolist()
    alike = F.cosine_similarity(x[:, None].double(), x[None].double(), dim=-1)
    best = {pixel: max(into, key=lambda place: float(alike[pixel, place])) for pixel in others}
    gone = sorted(others, key=lambda pixel: -float(alike[pixel, best[pixel]]))[: net.gone]
    groups = {pixel: [pixel] for pixel in (*into, *(pixel for pixel in others if pixel not in gone))}
    for pixel in gone:
        groups[best[pixel]].append(pixel)
    mean = torch.stack([x[group].double().mean(0) for group in groups.values()])
    inner = net.inner.double()
    said = inner(mean[None])[0]
    inner.float()
    out = torch.empty_like(x, dtype=torch.float64)
    for answer, group in zip(said, groups.values(), strict=True):
        out[group] = answer
    return out


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3), (2, 2)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_against_loops(height: int, width: int, share: float) -> None:
    net = MergedAttention(attention(), share, height, width, 3)
    x = noise(3, height * width, WIDTH)
    found = net(x)
    for row, answer in zip(x, found, strict=True):
        torch.testing.assert_close(answer.double(), by_hand(net, row), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(net(row[None])[0], answer, rtol=1e-5, atol=1e-5)
    assert net.gone == min(int(height * width * share), height * width - (height // 2) * (width // 2))
    assert torch.equal(found, net.inner(x)) == (not net.gone)


def test_a_side_of_one_pixel() -> None:
    net, x = MergedAttention(attention(), 0.75, 1, 9, 0), noise(2, 9, WIDTH)
    assert torch.equal(net(x), net.inner(x))


def test_pixels_that_are_alike_lose_nothing() -> None:
    """Squares of one value each, all four of every square merged: what attention says of them all."""
    small = noise(1, WIDTH, 3, 5)
    x = F.interpolate(small, scale_factor=2.0).flatten(2).transpose(1, 2)
    inner = attention()
    torch.testing.assert_close(MergedAttention(inner, 0.75, 6, 10, 0)(x), inner(x), rtol=1e-4, atol=1e-4)


def test_ties_are_settled_in_order() -> None:
    """Where all pixels are the same, the first ones go."""
    net = MergedAttention(attention(), 0.3, 4, 4, 0)
    place = net.places(torch.ones(1, 16, WIDTH))[0]
    stay = len(net.others) - net.gone
    assert net.gone == 4
    assert (place[net.others[:4]] >= stay).all()
    assert place[net.others[4:]].tolist() == list(range(stay))
    assert place[net.into].tolist() == list(range(stay, stay + 4))


def test_a_place_in_every_square() -> None:
    for height, width in ((6, 8), (7, 5)):
        rows = []
        for index in range(8):
            places = chosen(height, width, index)
            squares = {(int(place) // width // 2, int(place) % width // 2) for place in places}
            assert len(squares) == len(places) == (height // 2) * (width // 2)
            assert torch.equal(places, chosen(height, width, index))
            rows.append(tuple(places.tolist()))
        assert len(set(rows)) == 8
    corners = torch.stack([chosen(2, 2, index)[0] for index in range(100)]).bincount()
    assert corners.min() > 9  # of 25 expected: 3.7 deviations


def test_means() -> None:
    x, place = noise(2, 5, 3), torch.tensor([[0, 1, 1, 2, 0], [2, 2, 2, 0, 1]])
    found = means(x, place, 3)
    for row in range(2):
        for at in range(3):
            torch.testing.assert_close(found[row, at], x[row][place[row] == at].mean(0))


def test_a_copy_that_shares_the_tensors() -> None:
    net = made()
    before, state = net(X, T, CONTEXT), {tensor.data_ptr() for tensor in net.state_dict().values()}
    twin = merging(net, 0.5, 13, 10)
    assert {tensor.data_ptr() for tensor in twin.state_dict().values()} == state
    assert not torch.equal(twin(X, T, CONTEXT), before)
    assert torch.equal(net(X, T, CONTEXT), before)
    assert merging(net, 0.0, 13, 10) is net


def test_where() -> None:
    """In the largest stage that attends, on both ways; each layer has its own places."""
    twin = merging(made(), 0.5, 13, 10)
    found = {name: part for name, part in twin.named_modules() if isinstance(part, MergedAttention)}
    assert [name.split(".attend")[0] for name in found] == ["descent.1.cells.0", "ascent.1.cells.0", "ascent.1.cells.1"]
    assert {(len(part.into), len(part.others)) for part in found.values()} == {(3 * 2, 7 * 5 - 6)}
    assert len({tuple(part.into.tolist()) for part in found.values()}) == 3


def test_with_other_copies() -> None:
    """FreeU wraps cells, PAG blinds attention: both see the merged pixels, whichever comes first."""
    net = made()
    free = freed(merging(net, 0.5, 13, 10), (1.2, 1.4), (0.9, 0.2))
    assert torch.equal(free(X, T, CONTEXT), merging(freed(net, (1.2, 1.4), (0.9, 0.2)), 0.5, 13, 10)(X, T, CONTEXT))
    blind = merging(perturbed(net, ["descent.1"]), 0.5, 13, 10)
    assert not torch.equal(blind(X, T, CONTEXT), merging(net, 0.5, 13, 10)(X, T, CONTEXT))
    set_attention(blind, "written_out")
    torch.testing.assert_close(
        merging(perturbed(net, ["middle"]), 0.5, 13, 10)(X, T, CONTEXT),
        perturbed(merging(net, 0.5, 13, 10), ["middle"])(X, T, CONTEXT),
    )


def test_without_self_attention_it_is_refused() -> None:
    with pytest.raises(UserError, match="no self-attention to merge"):
        merging(made(replace(CONFIG, stages=(Stage(16, 2, depth=0),))), 0.5, 13, 10)
