"""The CPU engine: what a net answers is right to rounding, whatever is kept, attached, copied or asked of it."""

import copy
import json
import pickle
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aquatint import load
from aquatint.apps.cli.lists import version
from aquatint.base import config, runtime
from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.engines import choice, cpu
from aquatint.engines.choice import Engine, choose_engine
from aquatint.engines.kernels.build import Found, found
from aquatint.engines.kernels.conv import convolve
from aquatint.families import TINY
from aquatint.nets.adapters import Difference
from aquatint.nets.autoencoder import Autoencoder, AutoencoderConfig
from aquatint.nets.lora import Change, attach
from aquatint.nets.seamless import seamless
from aquatint.nets.tiled_autoencoder import decode_tiled
from aquatint.nets.unet import Stage, UNet, UNetConfig

pytestmark = pytest.mark.skipif(found().library is None, reason=found().reason)
N = TypeVar("N", bound=nn.Module)
UNET = UNetConfig(stages=(Stage(32, 2), Stage(48, 3)), blocks=1, context=32, groups=8)
AUTOENCODER = AutoencoderConfig(encoder=(24, 40), decoder=(24, 40), blocks=1, groups=8)
ALL = 10**9  # bytes: more than these nets need


def filled(net: N) -> N:
    """The net with random weights, none of them zero, as large as keeps what goes through it."""
    for draw, weight in enumerate(net.parameters()):
        some = Noise([draw]).normal(tuple(weight.shape))[0]
        weight.copy_(some / max(weight[0].numel(), 1) ** 0.5 if weight.ndim > 1 else 1 + some / 10)
    return net


def unet(packs: cpu.Packs | None = None, *, ours: bool = True) -> UNet:
    net = filled(UNet(UNET).eval())
    if ours:
        cpu.prepare(net, packs)
    return net


def asked(net: UNet, kind: torch.dtype = torch.float32, count: int = 2) -> Tensor:
    noise = Noise(range(count))
    x, context = noise.normal((4, 24, 25)).to(kind), noise.normal((9, 32), draw=1).to(kind)
    return net(x, torch.tensor([7.0, 600.0])[:count].to(kind), context)


def off(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_a_unet_is_right_and_what_is_kept_changes_no_bit() -> None:
    want = asked(unet(ours=False).double(), torch.float64)
    packs = cpu.Packs(ALL)
    net = unet(packs)
    assert {type(part) for part in net.modules()} >= {cpu.KernelConv2d, cpu.KernelResBlock, cpu.KernelLinear}
    first = asked(net)
    assert off(first, want) < 2e-6
    kept = packs.size
    assert kept > 0
    assert asked(net).equal(first)  # from what was kept
    assert packs.size == kept
    some = cpu.Packs(kept // 2)
    half = unet(some)
    assert asked(half).equal(first)
    assert asked(half).equal(first)
    assert 0 < some.size <= kept // 2
    for other in (cpu.Packs(0), None):
        assert asked(unet(other)).equal(first)
    del net
    assert packs.size == 0


def test_an_autoencoder_is_right() -> None:
    nets = [filled(Autoencoder(AUTOENCODER).eval()) for _ in range(2)]
    cpu.prepare(nets[0])
    pictures, z = Noise([1]).normal((3, 70, 62)), Noise([1]).normal((4, 35, 31))
    for ask, x in (("encode", pictures), ("decode", z)):
        ours, plain = getattr(nets[0], ask)(x), getattr(nets[1].double(), ask)(x.double())
        assert off(ours, plain) < 2e-6
        nets[1].float()
    whole = nets[0].decode(z)
    assert off(decode_tiled(nets[0], z, 32), whole) < 1e-5


def test_an_adapter_and_writing_into_weights_are_seen() -> None:
    packs = cpu.Packs(ALL)
    net = unet(packs)
    before = asked(net)
    names = ("middle.second.conv1.weight", "descent.0.cells.0.res.conv2.weight", "ascent.0.cells.0.res.conv1.bias")
    deltas = {name: Noise([5]).normal(tuple(net.state_dict()[name].shape))[0] / 50 for name in names}
    changes = {name: [Change(Difference(delta))] for name, delta in deltas.items()}
    twin = attach(net, changes)
    want = unet(ours=False)
    for name, delta in deltas.items():
        want.get_parameter(name).add_(delta)
    wanted = asked(want.double(), torch.float64)
    assert off(asked(twin), wanted) < 2e-6
    assert asked(net).equal(before)
    assert asked(attach(net, changes)).equal(asked(twin))
    shared = packs.size
    del twin
    assert packs.size < shared
    for name, delta in deltas.items():
        net.get_parameter(name).add_(delta)
    assert off(asked(net), wanted) < 2e-6


def test_a_copy_begins_with_nothing_kept() -> None:
    packs = cpu.Packs(ALL)
    net = unet(packs)
    before, size = asked(net), packs.size
    for made in (copy.deepcopy(net), pickle.loads(pickle.dumps(net.middle.second.conv1))):
        kept = [part.held for part in made.modules() if isinstance(part, cpu.KernelConv2d)]
        assert kept
        assert not any(kept)
    assert packs.size == size
    assert asked(copy.deepcopy(net)).equal(before)


@pytest.mark.parametrize("pixels", [1, 10**6])
def test_gradients_are_right_by_the_kernels_and_by_torch(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "PIXELS", pixels)
    used = []
    monkeypatch.setattr(cpu, "convolve", lambda *given, **how: used.append(how) or convolve(*given, **how))
    ours, plain = unet(), unet(ours=False)
    for net in (ours, plain):
        with torch.enable_grad():
            asked(net.train()).square().mean().backward()
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert bool(used) == (pixels == 1)
    ours.requires_grad_(False)
    learns = ours.descent[0].cells[0].res  # one of its weights alone must not be lost in a kernel
    for leaf in (learns.conv1.bias, learns.time.weight, learns.conv2.bias):
        ours.requires_grad_(False)
        leaf.requires_grad_(True)
        leaf.grad = None
        with torch.enable_grad():
            asked(ours).square().mean().backward()
        assert leaf.grad is not None
        assert float(leaf.grad.abs().sum()) > 0


def test_meeting_edges_and_other_formats_are_torchs() -> None:
    for edges in ((True, False), (True, True)):
        assert off(asked(seamless(unet(), *edges)), asked(seamless(unet(ours=False), *edges))) < 2e-6
    assert off(asked(unet().bfloat16()), asked(unet(ours=False))) < 0.05


def test_the_tables() -> None:
    assert cpu.tile_of(320, 320, 64, 64) == 4
    assert cpu.tile_of(1280, 1280, 4, 4) == 2
    assert cpu.tile_of(4, 320, 64, 64) is None
    assert cpu.tile_of(128, 3, 512, 512) is None


def test_attention_takes_the_kernel_where_it_is_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(cpu, "attend", lambda q, k, v: calls.append(q.shape) or v)
    monkeypatch.setattr(cpu, "chosen", lambda isa: cpu.AVX512)
    many, few, wide = (Noise([1]).normal(shape) for shape in ((2, 600, 40), (2, 77, 40), (1, 600, 512)))
    for x, causal in ((many, False), (many, True), (few, False), (wide, False), (many.double(), False)):
        cpu.kernel_attention(x, x, x, causal)
    assert calls == [(1, 2, 600, 40)]
    monkeypatch.setattr(cpu, "chosen", lambda isa: 1)
    cpu.kernel_attention(many, many, many)
    assert len(calls) == 1


def test_the_engine_for_a_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("AQUATINT_ENGINE", raising=False)
    assert choose_engine().name == cpu.name() == f"kernels {cpu.NUMERICS} {cpu.ISAS[cpu.chosen(None)]}"
    assert choose_engine("torch").packs is None
    version(json=True)
    assert json.loads(capsys.readouterr().out)["engine"] == cpu.name()
    assert choose_engine(dtype=torch.bfloat16).name == "torch"
    assert choose_engine(device=torch.device("meta")).name == "torch"
    monkeypatch.setenv("AQUATINT_ENGINE", "torch")
    assert choose_engine().name == "torch"
    assert choose_engine("kernels").name == cpu.name()
    for wrong, said in (("kernel", "is not known"), ("CUDA", "is not known")):
        with pytest.raises(UserError, match=said):
            choose_engine(wrong)
    with pytest.raises(UserError, match="float32 on a CPU"):
        choose_engine("kernels", dtype=torch.float16)
    monkeypatch.delenv("AQUATINT_ENGINE")
    assert choose_engine().note == ""
    monkeypatch.setattr(choice, "found", lambda: Found(None, "There is no compiler."))
    assert choose_engine().name == "torch"
    assert "no compiler" in choose_engine().note
    assert choose_engine("torch").note == ""


def test_memory_is_what_is_left_beside_weights() -> None:
    engine = choose_engine("kernels", memory=choice.WORK + 5_000_000)
    net = unet(ours=False)
    engine.leave_room((net, net, None))
    assert engine.packs is not None
    assert engine.packs.limit == 5_000_000 - sum(weight.nbytes for weight in net.parameters())
    engine.prepare(net, often=True)
    assert asked(net).isfinite().all()
    assert 0 < engine.packs.size <= engine.packs.limit
    assert choose_engine("kernels", memory=0).packs.limit < 0  # type: ignore[union-attr]
    assert isinstance(choose_engine(engine), Engine)
    assert choose_engine(engine) is engine


def test_a_picture_says_which_engine_and_is_the_same_to_rounding_and_with_any_memory() -> None:
    pictures = {}
    for engine, memory in (("torch", None), ("kernels", "20GB"), ("kernels", 0)):
        bundle = load(engine=engine, memory=memory, device="cpu")
        made = bundle.paint("a cat", seed=3, steps=2, width=128, height=96)
        assert made.record.key.engine == bundle.key.engine == ("torch" if engine == "torch" else cpu.name())
        pictures[engine, memory] = torch.from_numpy(np.asarray(made.image).astype(np.int16))
    plain, ours, low = pictures.values()
    assert ours.equal(low)
    assert int((plain - ours).abs().max()) <= 1
    old = {name: value for name, value in config.to_data(made.record.key).items() if name != "engine"}
    assert config.from_data(runtime.Key, old).engine == "torch"  # records from before there were engines


def test_the_pocket_models_nets_are_right_on_what_they_really_see() -> None:
    """On trained weights and true activations, within the limits of issue 5."""
    plain, ours = load(engine="torch", device="cpu"), load(engine="kernels", device="cpu")
    clean = plain.paint("a red car", seed=1, steps=2, width=128, height=128)
    z = plain.encode(clean.image)
    context = plain.encode_text(["a red car"]).context
    for t in (900.0, 500.0, 50.0):
        x = z * (1 - t / 1000) + Noise([1]).normal((4, 16, 16)) * (t / 1000)
        answers = [bundle.unet(x, torch.tensor([t]), context) for bundle in (ours, plain)]
        assert off(*answers) < 2e-5
    assert off(ours.autoencoder.decode(z), plain.autoencoder.decode(z)) < 5e-5


def test_tiny_runs_by_it_too() -> None:
    net, want = filled(UNet(TINY.unet)), filled(UNet(TINY.unet))
    Engine("kernels", cpu.Packs(ALL)).prepare(net, often=True)
    noise = Noise([1])
    x, context, t = noise.normal((4, 8, 8)), noise.normal((77, 32), draw=1), torch.tensor([5.0])
    assert off(net(x, t, context), want(x, t, context)) < 1e-5
