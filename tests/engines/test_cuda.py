"""Which engine a device gets, and what it says of itself; no card is needed to decide."""

from importlib.machinery import ModuleSpec

import pytest
import torch
from tests.engines.traced import Traced

from aquatint.base.errors import UserError
from aquatint.engines import cuda, plain
from aquatint.engines.cuda import Cuda, engine, fits
from aquatint.families import TINY
from aquatint.nets.unet import UNet

CARD = torch.device("cuda")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch):
    """A card as torch and the machine would describe it."""

    def described(capability=(9, 0), build: str | None = "13.0", triton: bool = True, wrong: str = "") -> None:
        fits.cache_clear()
        monkeypatch.setattr(torch.version, "cuda", build)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(cuda, "find_spec", lambda name: ModuleSpec(name, None) if triton else None)
        monkeypatch.setattr(cuda, "proof", lambda device: wrong)

    yield described
    fits.cache_clear()


@pytest.mark.parametrize("kind", ["cpu", "mps", "xpu"])
def test_other_devices_are_plain(kind: str) -> None:
    assert engine(torch.device(kind)) is None


def test_cards(card) -> None:
    card()
    assert fits(CARD) == (True, True, "")
    for old in ((7, 5), (6, 1)):
        card(old)
        assert engine(CARD) is None
        assert f"{old[0]}.{old[1]}" in fits(CARD).reason
    card(build=None)  # ROCm
    assert engine(CARD) is None
    card(triton=False)
    found = engine(CARD)
    assert found is not None
    assert not found.kernels
    assert found.name == "cuda 1 graphs"
    card(wrong="Triton's norm is not torch's.")
    assert fits(CARD) == (True, False, "Triton's norm is not torch's.")
    found = engine(CARD)
    assert found is not None
    assert not found.kernels


def test_short_floats_are_for_cards_that_have_them(card) -> None:
    card((8, 0))
    with pytest.raises(UserError, match="8-bit"):
        engine(CARD, fp8=True)
    card((9, 0), wrong="no")
    with pytest.raises(UserError, match="no"):
        engine(CARD, fp8=True)
    with pytest.raises(UserError):
        engine(torch.device("cpu"), fp8=True)
    card((8, 9))
    found = engine(CARD, fp8=True)
    assert found is not None
    assert found.fp8


def test_without_kernels_a_net_is_prepared_as_plain_does(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = UNet(TINY.unet), []
    monkeypatch.setattr(plain, "prepare", seen.append)
    Cuda(Traced(), kernels=False).prepare(net)
    assert seen == [net]
    assert type(net) is UNet
