"""Attach, detach, merge, extract: the net below is never touched, whatever happens."""

import hashlib
import random
import time

import pytest
import torch
from torch import Tensor, nn

from aquatint.base.errors import UserError
from aquatint.families import TINY
from aquatint.nets.adapters import Adapter, Difference, LowRank, Rotation, Scaling
from aquatint.nets.lora import Change, attach, detach, extract, merge
from aquatint.nets.shared import shared_copy
from aquatint.nets.unet import UNet


@pytest.fixture(scope="module")
def net() -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(TINY.unet).eval().requires_grad_(False)


def digest(net: nn.Module) -> str:
    """Of every name and every byte."""
    sums = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        sums.update(name.encode() + tensor.numpy().tobytes())
    return sums.hexdigest()


def adapters(net: nn.Module, chance: random.Random) -> dict[str, list[Change]]:
    """A random handful of changes."""
    generator = torch.Generator().manual_seed(chance.randrange(2**32))

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.1

    chosen = chance.sample(sorted(net.state_dict().items()), 6)
    changes: dict[str, list[Change]] = {}
    for name, weight in chosen:
        made: list[Adapter] = [Difference(noise(*weight.shape))]
        if weight.ndim > 1:
            rank, ones = chance.randint(1, 4), [1] * (weight.ndim - 2)
            made.append(LowRank(noise(rank, *weight.shape[1:]), noise(weight.shape[0], rank, *ones)))
            made.append(Scaling(noise(weight.shape[0])))
            made.append(Rotation(noise(weight.shape[0] // 4, 4, 4)) if weight.shape[0] % 4 == 0 else made[-1])
        rows = chance.choices(made, k=chance.randint(1, 3))
        changes[name] = [Change(adapter, chance.choice([0.0, 1.0, -0.5, 0.3])) for adapter in rows]
    return changes


def asked(net: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 7, 32, generator=generator)
    with torch.no_grad():
        out: Tensor = net(x, torch.tensor([500.0]), context)
    return out


def test_a_thousand_round_trips(net: UNet) -> None:
    """With failures in between: a wrong name, a wrong shape, a sum that is not finite, an adapter that raises."""
    chance, before, answer = random.Random(0), digest(net), asked(net)
    began = time.perf_counter()
    failures = 0
    for trip in range(1000):
        changes = adapters(net, chance)
        name = next(iter(changes))
        if trip % 5 == 1:
            changes["nowhere.weight"] = [Change(Difference(torch.ones(1)))]
        elif trip % 5 == 2:
            changes[name] = [Change(Difference(torch.ones(3, 5, 7)))]
        elif trip % 5 == 3:
            changes[name] = [Change(Difference(torch.full_like(net.state_dict()[name], torch.inf)))]
        elif trip % 5 == 4:
            changes[name] = [Change(Broken(torch.ones(1)))]
        try:
            attached = attach(net, changes)
        except (UserError, Breakdown):
            failures += 1
            continue
        if trip % 50 == 0:
            assert not torch.equal(asked(attached), answer)
        assert detach(attached) is net
    print(f"1,000 round trips: {time.perf_counter() - began:.2f} s")
    assert failures == 800
    assert digest(net) == before
    assert torch.equal(asked(net), answer)


class Breakdown(Exception):
    pass


class Broken(Difference):
    """An adapter that fails in the middle of the work."""

    def misfit(self, shape: tuple[int, ...]) -> str:
        return ""

    def delta(self, weight: Tensor) -> Tensor:
        raise Breakdown


def test_only_what_is_hit_is_new(net: UNet) -> None:
    name = "middle.second.conv1.weight"
    attached = attach(net, {name: [Change(Difference(torch.ones_like(net.state_dict()[name])))]})
    for other, tensor in attached.state_dict().items():
        shared = tensor.data_ptr() == net.state_dict()[other].data_ptr()
        assert shared == (other != name), other
    assert torch.equal(attached.state_dict()[name], net.state_dict()[name] + 1)
    assert not attached.state_dict(keep_vars=True)[name].requires_grad
    again = attach(attached, {name: [Change(Difference(torch.ones_like(net.state_dict()[name])), 2.0)]})
    assert detach(again) is attached
    assert detach(detach(again)) is net
    assert list(again.state_dict()) == list(net.state_dict())


def test_layouts_and_formats_are_kept(net: UNet) -> None:
    name = "middle.second.conv1.weight"
    half = shared_copy(net).to(torch.bfloat16)
    part = half.get_submodule("middle.second.conv1")
    part.weight = nn.Parameter(part.weight.data.to(memory_format=torch.channels_last), requires_grad=False)
    made = attach(half, {name: [Change(Difference(torch.ones(32, 32, 3, 3)))]}).state_dict()[name]
    assert made.dtype == torch.bfloat16
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_strength_is_linear_and_zero_is_nothing(net: UNet) -> None:
    chance = random.Random(1)
    changes = {name: rows[-1:] for name, rows in adapters(net, chance).items()}
    nothing = attach(net, {name: [Change(row.adapter, 0.0) for row in rows] for name, rows in changes.items()})
    for name, tensor in nothing.state_dict().items():
        assert tensor.data_ptr() == net.state_dict()[name].data_ptr()
    one = attach(net, {name: [Change(row.adapter, 1.0) for row in rows] for name, rows in changes.items()})
    two = attach(net, {name: [Change(row.adapter, 2.0) for row in rows] for name, rows in changes.items()})
    for name, base in net.state_dict().items():
        first, second = one.state_dict()[name] - base, two.state_dict()[name] - base
        assert torch.allclose(2 * first, second, atol=1e-5)


def test_a_copy_does_not_reach_the_original(net: UNet) -> None:
    before, twin = digest(net), shared_copy(net)
    twin.middle.second.conv1 = nn.Conv2d(1, 1, 1)
    twin.enter.weight = nn.Parameter(torch.zeros(1))
    twin.train()
    twin.register_forward_hook(lambda *_: None)
    assert digest(net) == before
    assert not net.training
    assert not net.middle.training
    assert not net._forward_hooks


def test_merge_owns_its_tensors(net: UNet) -> None:
    changes = adapters(net, random.Random(2))
    merged, attached = merge(net, changes), attach(net, changes)
    assert digest(merged) == digest(attached)
    ours = {tensor.data_ptr() for tensor in net.state_dict().values()}
    assert not ours & {tensor.data_ptr() for tensor in merged.state_dict().values()}
    for alone in (merged, net):
        with pytest.raises(UserError, match="no adapter"):
            detach(alone)


def test_extract_finds_what_was_attached(net: UNet) -> None:
    changes = adapters(net, random.Random(3))
    low = {name: rows for name, rows in changes.items() if net.state_dict()[name].ndim > 1}
    low = {name: [Change(_low(net.state_dict()[name]))] for name in low}
    found = extract(net, attach(net, low), rank=3)
    assert found.adapters.keys() == low.keys()
    assert found.kept > 1 - 1e-6
    back = attach(net, {name: [Change(adapter)] for name, adapter in found.adapters.items()}).state_dict()
    for name, tensor in attach(net, low).state_dict().items():
        assert torch.allclose(back[name], tensor, atol=1e-5)
    less = extract(net, attach(net, low), rank=1)
    assert 0 < less.kept < found.kept
    assert all(adapter.rank == 1 for adapter in less.adapters.values())


def test_extract_of_biases(net: UNet) -> None:
    name = "middle.second.norm1.weight"
    tuned = attach(net, {name: [Change(Difference(torch.full((32,), 0.5)))]})
    assert extract(net, tuned, 2).left == (name,)
    assert not extract(net, tuned, 2).adapters
    assert torch.allclose(extract(net, tuned, 2, rest=True).adapters[name].delta(torch.zeros(32)), torch.tensor(0.5))
    with pytest.raises(UserError, match="rank"):
        extract(net, tuned, 0)
    with pytest.raises(UserError, match="different shapes"):
        extract(net, net.middle, 1)


def _low(weight: Tensor) -> LowRank:
    generator = torch.Generator().manual_seed(5)
    ones = [1] * (weight.ndim - 2)
    down = torch.randn(3, *weight.shape[1:], generator=generator)
    return LowRank(down, torch.randn(weight.shape[0], 3, *ones, generator=generator) * 0.1)
