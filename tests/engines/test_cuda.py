"""Which engine a device gets, and what it says of itself; no card is needed to decide."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.engines.traced import Traced
from tests.fixtures import tiny_bundle

from aquatint.apps.cli.info import engine_facts
from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.engines import cuda, plain
from aquatint.engines.choice import Engine, choose_engine
from aquatint.engines.cuda import Cuda, engine, fits
from aquatint.families import TINY
from aquatint.nets.unet import UNet
from aquatint.pipelines.approximations import Approximations, Reuse

CARD, HALF = torch.device("cuda"), torch.float16


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch):
    """A card as torch and the machine would describe it."""

    def described(capability=(9, 0), build: str | None = "13.0", triton: str = "triton 3", wrong: str = "") -> None:
        fits.cache_clear()
        monkeypatch.setattr(torch.version, "cuda", build)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(cuda, "compiler", lambda: triton)
        monkeypatch.setattr(cuda, "proof", lambda device, dtype: wrong)

    yield described
    fits.cache_clear()


@pytest.mark.parametrize("kind", ["cpu", "mps", "xpu"])
def test_other_devices_are_plain(kind: str) -> None:
    assert engine(torch.device(kind), HALF) is None


def test_cards(card) -> None:
    card()
    assert fits(CARD, HALF) == (True, "triton 3", "")
    for old in ((7, 5), (6, 1)):
        card(old)
        assert engine(CARD, HALF) is None
        assert f"{old[0]}.{old[1]}" in fits(CARD, HALF).reason
    card(build=None)  # ROCm
    assert engine(CARD, HALF) is None
    card(triton="")
    found = engine(CARD, HALF)
    assert found is not None
    assert not found.compiler
    assert found.name == "cuda 1 graphs"
    card(wrong="Triton's norm is not torch's.")
    assert fits(CARD, HALF) == (True, "", "Triton's norm is not torch's.")
    found = engine(CARD, HALF)
    assert found is not None
    assert not found.compiler


def test_short_floats_are_for_cards_that_have_them(card) -> None:
    card((8, 0))
    with pytest.raises(UserError, match="8-bit"):
        engine(CARD, HALF, fp8=True)
    card((9, 0), wrong="no")
    with pytest.raises(UserError, match="no"):
        engine(CARD, HALF, fp8=True)
    with pytest.raises(UserError, match="for CUDA"):
        engine(torch.device("cpu"), HALF, fp8=True)
    card((8, 9))
    found = engine(CARD, HALF, fp8=True)
    assert found is not None
    assert found.fp8


def test_without_kernels_a_net_is_prepared_as_plain_does(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = UNet(TINY.unet), []
    monkeypatch.setattr(plain, "prepare", seen.append)
    Cuda(Traced()).prepare(net)
    assert seen == [net]
    assert type(net) is UNet


def test_a_bundles_engine_on_a_card(card) -> None:
    card()
    assert choose_engine("auto", CARD, HALF).name == "torch"  # until it has run on one
    found = choose_engine("kernels", CARD, HALF)
    assert found.card is not None
    assert found.name == found.card.name
    assert found.name == "cuda 1 graphs triton 3"
    assert choose_engine("torch", CARD, HALF).card is None
    short = choose_engine("fp8", CARD, HALF)
    assert short.card is not None
    assert short.name == "cuda 1 graphs triton 3 fp8"
    card((7, 5))
    assert choose_engine("auto", CARD, HALF).name == "torch"
    with pytest.raises(UserError, match="capability 8"):
        choose_engine("kernels", CARD, HALF)
    for dtype in (torch.float32, HALF):
        with pytest.raises(UserError, match="8-bit"):
            choose_engine("fp8", torch.device("cpu"), dtype)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_card_that_is_here() -> None:
    """Its kernels are torch's, a U-Net by graphs is the plain one to rounding, and its bits repeat."""
    card = torch.device("cuda", 0)
    for dtype, most in ((torch.float32, 1e-4), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)):
        assert fits(card, dtype).reason == "" or torch.cuda.get_device_capability(card) < cuda.OLDEST
        net = tiny_bundle(TINY).unet.to(card, dtype)
        noise = Noise([1, 2])
        given = (
            noise.normal((4, 8, 8)).to(card),
            torch.tensor([5.0, 700.0]).to(card),
            noise.normal((7, 32)).to(card),
            None,
        )
        with torch.no_grad():
            want = net(*given)
            found = choose_engine("kernels", card, dtype)
            found.prepare(net)
            got = [found.quick(net)(*given) for _ in range(3)]
        assert (got[0] - want).norm() <= most * want.norm()
        assert got[1].equal(got[0])
        assert got[2].equal(got[0])


def test_what_is_not_used_is_said(card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aquatint.base.runtime.choose_device", lambda name="auto": CARD)
    monkeypatch.setenv("AQUATINT_ENGINE", "kernels")
    card(wrong="Triton's gate is not torch's.")
    assert engine_facts()["engine"] == "cuda 1 graphs"
    assert engine_facts()["note"] == "without our kernels for cards, slower: Triton's gate is not torch's."
    card((7, 5))
    with pytest.raises(UserError, match=r"The card's capability is 7\.5"):
        engine_facts()
    card()
    assert "note" not in engine_facts()
    card((7, 5))
    assert choose_engine("torch", CARD, HALF).note == ""


def test_a_bundle_paints_by_graphs() -> None:
    """The public way, with a traced double for the card: text is told once, every step is a replay, bits repeat."""
    recorder = Traced()
    card = Cuda(recorder)
    usual = tiny_bundle(TINY)
    bundle = replace(usual, engine=Engine(card.name, card=card))
    how = {"width": 64, "height": 64, "steps": 3, "sampler": "euler", "guidance": 3.0}
    first = bundle.paint("two cats", seed=5, **how)
    assert (recorder.recorded, recorder.replays) == (2, 1 + 3)
    apart = np.asarray(first.image).astype(int) - np.asarray(usual.paint("two cats", seed=5, **how).image)
    assert np.abs(apart).max() <= 1
    again = bundle.paint("two cats", seed=5, **how)
    assert np.array_equal(np.asarray(again.image), np.asarray(first.image))
    assert (recorder.recorded, recorder.replays) == (2, 2 * (1 + 3))  # other pictures of the shape need no new graphs
    assert first.record.key.engine == "cuda 1 graphs"
    merging = bundle.paint("two cats", seed=5, **how, approximations=Approximations(merge=0.25))
    assert recorder.recorded == 4
    assert not np.array_equal(np.asarray(merging.image), np.asarray(first.image))
    usually, here = (
        np.asarray(it.paint("two cats", seed=5, **how, approximations=Approximations(Reuse(2))).image).astype(int)
        for it in (usual, bundle)
    )
    assert recorder.recorded == 4  # what Python keeps from step to step cannot be in a graph
    assert np.abs(usually - here).max() <= 1
