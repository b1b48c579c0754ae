"""Layers that learn a low-rank change: what they compute, where they stand, and what stays as it was."""

from pathlib import Path

import pytest
import torch

from aquatint.base.errors import UserError
from aquatint.families import TINY
from aquatint.nets.grown import KINDS, REACHES, Growth, grow, layers_of, player
from aquatint.nets.lora import Change, attach
from aquatint.nets.text import TextEncoder
from aquatint.nets.unet import UNet
from aquatint.training.start import start
from aquatint.weights.adapter_names import spellings
from aquatint.weights.lora_writer import save_lora
from aquatint.weights.loras import fit, open_lora


@pytest.fixture(scope="module")
def unet() -> UNet:
    net = UNet(TINY.unet)
    start(net, 1)
    with torch.no_grad():
        for index, weight in enumerate(net.parameters()):
            if not weight.any():
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(index)) * 0.05)
    return net


def said(net: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x, context = (
        torch.randn(2, 4, 8, 8, generator=generator),
        torch.randn(2, 77, TINY.unet.context, generator=generator),
    )
    with torch.no_grad():
        out: torch.Tensor = net(x, torch.tensor([3.0, 700.0]), context)
    return out


def taught(growth: Growth) -> None:
    """As if it had learned something."""
    with torch.no_grad():
        for index, change in enumerate(growth.changes.values()):
            change.up.copy_(torch.randn(change.up.shape, generator=torch.Generator().manual_seed(index)) * 0.1)
            if change.lengths is not None:
                change.lengths.mul_(1.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reach", REACHES)
def test_it_computes_as_the_adapters_that_it_gives(kind: str, reach: str, unet: UNet, tmp_path: Path) -> None:
    growth = grow(unet, rank=3, alpha=2.0, kind=kind, reach=reach, seed=4)
    plain = said(unet)
    torch.testing.assert_close(said(growth.net), plain, rtol=0, atol=2e-6)  # it starts as it was
    taught(growth)
    attached = attach(unet, {name: [Change(adapter)] for name, adapter in growth.adapters().items()})
    torch.testing.assert_close(said(growth.net), said(attached), rtol=0, atol=5e-6)
    assert (said(growth.net) - plain).abs().max() > 0.1
    assert torch.equal(said(unet), plain)
    path = save_lora(tmp_path / "grown.safetensors", {"unet": growth.adapters()}, TINY)
    found = fit(open_lora(path), TINY).adapters["unet"]
    again = attach(unet, {name: [Change(adapter)] for name, adapter in found.items()})
    torch.testing.assert_close(said(again), said(attached), rtol=0, atol=1e-6)


def test_every_layer_in_reach_has_a_name_in_files(unet: UNet) -> None:
    text = TextEncoder(TINY.text)
    attention, every = layers_of(unet, "attention"), layers_of(unet, "all")
    assert set(attention) < set(every)
    assert set(every) <= set(spellings(TINY.unet))
    assert set(layers_of(text, "attention")) <= set(spellings(TINY.text))
    assert len(layers_of(text, "attention")) == 6 * TINY.text.layers


def test_only_the_changes_learn(unet: UNet) -> None:
    growths = {"unet": grow(unet, rank=2, reach="attention", seed=0)}
    learning = {id(weight) for weight in growths["unet"].net.parameters() if weight.requires_grad}
    assert learning == {id(weight) for weight in player(growths).parameters()}
    assert sum(weight.numel() for weight in player(growths).parameters()) < 0.2 * sum(
        w.numel() for w in unet.parameters()
    )


def test_chance_is_a_function_of_the_seed(unet: UNet) -> None:
    one, same, other = (grow(unet, rank=2, reach="attention", seed=seed) for seed in (1, 1, 2))
    for name, change in one.changes.items():
        assert torch.equal(change.down, same.changes[name].down)
        assert not torch.equal(change.down, other.changes[name].down)


@pytest.mark.parametrize(
    ("wrong", "told"), [({"rank": 0}, "rank = 0"), ({"kind": "loha"}, "kind of adapter"), ({"reach": "some"}, "reach")]
)
def test_what_cannot_be_grown_is_refused(wrong: dict[str, object], told: str, unet: UNet) -> None:
    with pytest.raises(UserError, match=told):
        grow(unet, **({"rank": 2, "reach": "all", "seed": 0} | wrong))  # type: ignore[arg-type]
