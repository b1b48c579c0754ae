"""Copies of a U-Net for guidance: they share its tensors and leave it as it was; FreeU by its formula."""

from dataclasses import replace

import pytest
import torch
from tests.fixtures import tiny_with
from tests.parity.peers import noise, randomise
from tests.weights import control_files
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.families import TINY
from aquatint.nets.attention import attention_weights, set_attention
from aquatint.nets.freeu import freed, lowest, shown
from aquatint.nets.perturbed import middle_size, perturbed, watched
from aquatint.nets.picture_prompt import prompted
from aquatint.nets.unet import Stage, UNet, UNetConfig

CONFIG = replace(TINY.unet, stages=(Stage(16, 2), Stage(32, 4), Stage(32, 4, depth=0)), blocks=1)
X, T, CONTEXT = noise(2, 4, 13, 10), torch.tensor([900.0, 30.0]), noise(2, 7, CONFIG.context, seed=2)


def made(config: UNetConfig = CONFIG) -> UNet:
    unet = UNet(config).eval().requires_grad_(False)
    randomise(unet)
    return unet


def said(net: UNet) -> Tensor:
    return net(X, T, CONTEXT)


def test_the_net_stays_as_it_is_and_gives_its_tensors_to_all() -> None:
    net = made()
    before, state = said(net), {name: tensor.data_ptr() for name, tensor in net.state_dict().items()}
    copies = [freed(net, (1.2, 1.4), (0.9, 0.2)), perturbed(net, ["middle"]), watched(net)[0]]
    answers = [said(copy) for copy in copies]
    assert torch.equal(said(net), before)
    assert {name: tensor.data_ptr() for name, tensor in net.state_dict().items()} == state
    for copy in copies:
        assert {tensor.data_ptr() for tensor in copy.state_dict().values()} == set(state.values())
    assert not torch.equal(answers[0], before)
    assert not torch.equal(answers[1], before)
    assert torch.equal(answers[2], before)


def test_neutral_freeu_is_the_net_itself() -> None:
    net = made()
    assert freed(net, (1.0, 1.0), (1.0, 1.0)) is net


def test_every_part_of_freeu_counts() -> None:
    net = made()
    rows = [((1.2, 1.0), (1.0, 1.0)), ((1.0, 1.2), (1.0, 1.0)), ((1.0, 1.0), (0.5, 1.0)), ((1.0, 1.0), (1.0, 0.5))]
    answers = [said(net), *(said(freed(net, b, s, version)) for b, s in rows for version in (1, 2))]
    apart = [[torch.equal(one, two) for two in answers] for one in answers]
    assert sum(map(sum, apart)) == len(answers) + 4  # the versions differ in b alone


def test_a_net_of_one_stage() -> None:
    net = made(replace(CONFIG, stages=(Stage(16, 2),)))
    assert not torch.equal(said(freed(net, (1.2, 1.4), (0.9, 0.2))), said(net))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 4), (8, 8)])
def test_the_lowest_frequencies(size: tuple[int, int]) -> None:
    """The sum over the four waves, written out."""
    x = noise(2, 3, *size)
    height, width = size
    want = torch.zeros(2, 3, *size, dtype=torch.complex128)
    for row in {0, -1 % height}:
        for column in {0, -1 % width}:
            down, right = torch.arange(height)[:, None] * row / height, torch.arange(width) * column / width
            wave = torch.exp(2j * torch.pi * (down + right).double())
            want += (x * wave.conj()).sum((2, 3), keepdim=True) / (height * width) * wave
    torch.testing.assert_close(lowest(x).double(), want.real, rtol=1e-5, atol=1e-6)


def test_the_second_version_amplifies_where_the_mean_is_high() -> None:
    x = noise(2, 6, 5, 4)
    mean = x.double().mean(1)
    for row, found in zip(mean, shown(x)[:, 0], strict=True):
        torch.testing.assert_close(found.double(), (row - row.min()) / (row.max() - row.min()), rtol=1e-5, atol=1e-6)
    assert torch.equal(shown(torch.ones(1, 4, 3, 3)), torch.zeros(1, 1, 3, 3))


@pytest.mark.parametrize("version", [1, 2])
def test_a_cell_of_freeu(version: int) -> None:
    """Its input, as the cell in it gets it, against the formula."""
    net, heard = made(), []
    twin = freed(net, (1.3, 1.4), (0.9, 0.2), version)
    freeu = twin.ascent[1].cells[0]  # type: ignore[union-attr,index]
    freeu.cell.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    x = noise(2, freeu.cell.res.conv1.in_channels, 6, 6, seed=3)
    freeu(x, noise(2, CONFIG.time), CONTEXT)
    body, skip = x[:, :32], x[:, 32:]
    by = 1.4 if version == 1 else 1 + 0.4 * shown(body)
    want = torch.cat([body[:, :16] * by, body[:, 16:], skip + (0.2 - 1) * lowest(skip)], 1)
    assert skip.shape[1] in (16, 32)
    torch.testing.assert_close(heard[0], want)


def test_pictures_as_prompts_find_their_way_through_freeu() -> None:
    net, prompt = made(), control_files.prompt(tiny_with(unet=CONFIG), 4)
    context = torch.cat([CONTEXT, noise(2, 4, CONFIG.context, seed=3)], 1)
    b, s = (1.2, 1.4), (0.9, 0.2)
    one = prompted(freed(net, b, s), [(prompt, 0.6)])(X, T, context)
    assert torch.equal(one, freed(prompted(net, [(prompt, 0.6)]), b, s)(X, T, context))
    assert not torch.equal(one, prompted(net, [(prompt, 0.6)])(X, T, context))


@pytest.mark.parametrize("places", [["middle"], ["descent.0"], ["ascent.1.cells.1"], ["middle", "descent.1"]])
def test_perturbed_self_attention_is_the_values(places: list[str]) -> None:
    """As attention whose weights are the identity."""
    net = made()
    twin = perturbed(net, places)
    assert not torch.equal(said(twin), said(net))
    whole = made()
    for name, part in whole.named_modules():
        if name.endswith(".among") and any(name.startswith(place + ".") for place in places):
            part.attend = lambda q, k, v, causal: torch.eye(q.shape[2]) @ v  # type: ignore[assignment]
    torch.testing.assert_close(said(twin), said(whole), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", ["descent.2", "ascent.0", "descent.9", "mid", "descent.0.cells.7"])
def test_a_place_without_attention_is_refused(place: str) -> None:
    with pytest.raises(UserError, match=r"It has in: ascent\.1, ascent\.2, descent\.0, descent\.1, middle"):
        perturbed(made(), ["middle", place])


def test_what_the_middle_looks_at() -> None:
    net, kept = made(), []
    among = net.middle.first.attend.layers[0].among  # type: ignore[union-attr]

    def keep(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        kept.append(attention_weights(q, k))
        return attention_weights(q, k) @ v

    twin, seen = watched(net)
    said(twin)
    among.attend = keep
    said(net)
    assert len(seen) == 1
    height, width = middle_size(net, 13, 10)
    assert (height, width) == (4, 3)
    assert seen[0].shape == (2, height * width)
    torch.testing.assert_close(seen[0], kept[0].mean(1).sum(1))
    torch.testing.assert_close(seen[0].mean(1), torch.ones(2))


def test_a_middle_that_does_not_attend_is_refused() -> None:
    with pytest.raises(UserError, match="no self-attention in its middle"):
        watched(made(replace(CONFIG, middle=0)))


def test_any_way_of_attention_is_watched() -> None:
    net = made()
    set_attention(net, "written_out")
    twin, seen = watched(net)
    assert torch.equal(said(twin), said(net))
    assert len(seen) == 1
