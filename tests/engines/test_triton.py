"""Kernels for cards, run on the CPU by Triton's interpreter, against float64; and compiled for two kinds of card.

The interpreter rounds to bfloat16 and to 8-bit floats wrongly where the fraction overflows, and multiplies bfloat16
matrices as if they were whole numbers (triton 3.7); the bounds for those are wide, and convolutions go without.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

import torch
from tests.engines.traced import Traced
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.engines import fused, triton_kernels, triton_norm
from aquatint.engines.cuda import Cuda, compiler, proof
from aquatint.engines.fp8 import shortened
from aquatint.engines.fused import FUSED, SplitConv, fuse
from aquatint.families import TINY, TINY_XL
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.seamless import seamless
from aquatint.nets.tiled_autoencoder import decode_tiled
from aquatint.nets.unet import UNet

pytestmark = [
    pytest.mark.usefixtures("still"),
    pytest.mark.skipif(not triton_kernels.INTERPRETED, reason="with a card, kernels do not run on the CPU"),
]
LIMIT = {torch.float32: 5e-7, torch.float16: 4e-4, torch.bfloat16: 6e-3}  # of the rms


@pytest.fixture
def still():
    with torch.no_grad():
        yield


def numbers(*shape: int, draw: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return Noise(range(shape[0])).normal(shape[1:], draw=draw).to(dtype)


def off(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


# rows, channels, height, width, groups: one channel a group and odd ones, more groups than a block has, pictures of one
# pixel, of less than a block, of several, and of more than one program measures
SHAPES = [(2, 12, 5, 7, 4), (1, 9, 1, 1, 3), (2, 4, 9, 8, 4), (1, 66, 3, 5, 33), (1, 200, 2, 3, 1)]
SLOW = [(2, 6, 17, 19, 3), (2, 320, 9, 8, 32), (1, 640, 16, 17, 32), (1, 12, 40, 41, 4), (1, 1920, 4, 4, 32)]


NORMS = [(SHAPES[0], torch.float16), (SHAPES[1], torch.bfloat16), *((shape, torch.float32) for shape in SHAPES)]
MORE = [pair for pair in itertools.product([*SHAPES, *SLOW], LIMIT) if pair not in NORMS]


@pytest.mark.parametrize(
    ("shape", "dtype"), [*NORMS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in MORE)], ids=str
)
def test_a_norm_is_right(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    rows, channels, height, width, groups = shape
    x = (3 * numbers(rows, channels, height, width) + 5).to(dtype)
    weight, bias = numbers(2, channels, draw=1, dtype=dtype)
    add = numbers(rows, channels, draw=2, dtype=dtype) if rows == 2 or channels == 9 else None
    eps = 1e-5 if channels % 4 else 0.1
    for silu in (True, False):
        got = triton_norm.norm_silu(x, groups, weight, bias, eps, add, silu)
        wide = x.double() if add is None else x.double() + add.double()[:, :, None, None]
        want = F.group_norm(wide, groups, weight.double(), bias.double(), eps)
        assert got.dtype is dtype
        assert got.is_contiguous(memory_format=torch.channels_last)
        assert off(got, F.silu(want) if silu else want) < LIMIT[dtype] * (10 if channels == groups == 9 else 1)


def test_a_norm_measures_in_parts_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_norm, "SPLITS", 3)
    x = numbers(1, 4, 17, 19) + 1000  # whose mean would drown a sum of squares in float32
    one, none = torch.ones(4), torch.zeros(4)
    got = triton_norm.norm_silu(x, 2, one, none, 1e-5, None, False)
    assert off(got, F.group_norm(x.double(), 2)) < 1e-4


def test_a_norm_does_not_depend_on_its_company_and_keeps_what_is_no_number() -> None:
    weight, bias = numbers(2, 8, draw=1)
    for height, width in ((5, 5), (7, 37)):
        x = numbers(2, 8, height, width)
        both = triton_norm.norm_silu(x, 2, weight, bias, 1e-5)
        assert triton_norm.norm_silu(x[1:], 2, weight, bias, 1e-5).equal(both[1:])
        x[0, 1, 2, 3] = float("nan")
        spoilt = triton_norm.norm_silu(x, 2, weight, bias, 1e-5)
        assert spoilt[0, :4].isnan().all()
        assert spoilt[0, 4:].equal(both[0, 4:])
        assert spoilt[1].equal(both[1])
    assert triton_norm.norm_silu(x[:0], 2, weight, bias, 1e-5).shape == (0, 8, 7, 37)
    with pytest.raises(UserError, match="3 groups"):
        triton_norm.norm_silu(x, 3, weight, bias, 1e-5)


@pytest.mark.parametrize("dtype", LIMIT, ids=str)
def test_gates_and_sums_are_right(dtype: torch.dtype) -> None:
    x = 3 * numbers(2, 11, 2 * 70, dtype=dtype)
    value, gate = x.double().chunk(2, dim=-1)
    assert off(triton_kernels.geglu(x), value * F.gelu(gate)) < LIMIT[dtype]
    a, b = numbers(2, 70, 3, 4, dtype=dtype), numbers(2, 70, 3, 4, draw=1, dtype=dtype)
    bias = numbers(1, 70, draw=2, dtype=dtype)[0]
    got = triton_kernels.summed(a, b.contiguous(memory_format=torch.channels_last), bias)
    assert off(got, a.double() + b.double() + bias.double()[:, None, None]) < LIMIT[dtype]
    assert off(triton_kernels.summed(a, b, None), a.double() + b.double()) < LIMIT[dtype]
    spoilt = triton_kernels.geglu(torch.tensor([[1.0, 2.0, float("nan"), 3.0]]))
    assert spoilt.isnan().tolist() == [[True, False]]


LATER = [(2, 40, 24, 5, 4, 3, 1, 1), (1, 33, 70, 7, 6, 3, 2, 1)]
CONVS = [(1, 20, 9, 3, 3, 1, 1, 0), *(pytest.param(shape, marks=pytest.mark.slow) for shape in LATER)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", CONVS, ids=str)
def test_a_convolution_in_parts_is_right(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    rows, inside, outside, height, width, taps, stride, padding = shape
    x, bias = numbers(rows, inside, height, width, dtype=dtype), numbers(1, outside, draw=2, dtype=dtype)[0]
    weight = (numbers(outside, inside, taps, taps, draw=1) / (taps * inside**0.5)).to(dtype)
    want = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding)
    for splits in (1, 4, 9):
        got = triton_kernels.convolved(x, weight, bias, stride, padding, splits)
        assert off(got, want) < LIMIT[dtype]
    bare = triton_kernels.convolved(x, weight, None, stride, padding)
    assert off(bare, want - bias.double()[:, None, None]) < LIMIT[dtype]


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_rows_are_shortened_as_the_formula_says() -> None:
    rows = numbers(3, 100)
    (got, scale), (want, unit) = triton_kernels.shortened(rows), shortened(rows)
    torch.testing.assert_close(scale, unit)
    assert (got.float() != want.float()).float().mean() < 0.06  # the interpreter's rounding
    rows[1, 2], rows[2, 3] = float("inf"), float("nan")
    assert triton_kernels.shortened(rows)[1].isfinite().tolist() == [True, False, False]


def made(kind: type[nn.Module], config: object) -> nn.Module:
    torch.manual_seed(1)
    net = kind(config).eval()
    for part in net.modules():
        if isinstance(part, nn.GroupNorm):
            part.weight.uniform_(0.5, 1.5), part.bias.uniform_(-0.5, 0.5)
    return net


class Refusing(Traced):
    """What the interpreter does cannot be traced."""

    def record(self, call):
        raise RuntimeError("not here")


@pytest.mark.slow
@pytest.mark.parametrize("family", [TINY, TINY_XL], ids=["TINY", "TINY_XL"])
def test_a_fused_unet_answers_alike(family) -> None:
    net = made(UNet, family.unet)
    vector = numbers(2, family.unet.vector) if family.unet.vector else None
    given = numbers(2, 4, 8, 8), torch.tensor([5.0, 700.0]), numbers(2, 7, family.unet.context, draw=1), vector
    want, names = net(*given), list(net.state_dict())
    engine = Cuda(Refusing(), compiler())
    assert engine.name.startswith("cuda 1 graphs triton 3.")
    engine.prepare(net)
    assert {type(part) for part in net.modules()}.isdisjoint(FUSED)
    assert list(net.state_dict()) == names
    torch.testing.assert_close(net(*given), want, rtol=1e-4, atol=1e-5)
    quick = engine.quick(net)
    torch.testing.assert_close(quick(*given), want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_fused_autoencoder_answers_alike_also_seamless_and_by_tiles() -> None:
    net = made(Autoencoder, TINY.autoencoder)
    z, picture = numbers(1, 4, 4, 4), numbers(1, 3, 16, 16)
    calls = {
        "decode": lambda net: net.decode(z),
        "encode": lambda net: net.encode(picture),
        "seamless": lambda net: seamless(net, True, True).decode(z),
        "tiles": lambda net: decode_tiled(net, z, 16),
    }
    want = {name: call(net) for name, call in calls.items()}
    fuse(net)
    for name, call in calls.items():
        torch.testing.assert_close(call(net), want[name], rtol=1e-4, atol=1e-5)


def test_only_known_modules_are_changed_and_gradients_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    net = made(UNet, TINY.unet)
    assert not any(isinstance(part, SplitConv) for part in net.modules())
    monkeypatch.setattr(fused, "WIDE", 16)
    fuse(net, split=True)
    assert any(isinstance(part, SplitConv) for part in net.modules())
    given = numbers(1, 4, 8, 8).requires_grad_(), torch.tensor([5.0]), numbers(1, 7, 32, draw=1)
    with torch.enable_grad():
        got = net(*given)
        got.sum().backward()
    assert given[0].grad is not None
    assert got.equal(made(UNet, TINY.unet)(*given))


def test_kernels_are_proved_before_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = triton_kernels.geglu
    for wrong, why in (
        (lambda x: 1.1 * right(x), "gate in torch.float32 is not"),
        (lambda x: right(x) / 0, "gate in torch.float32 is not"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
    ):
        monkeypatch.setattr(triton_kernels, "geglu", wrong)
        monkeypatch.setattr(triton_norm, "norm_silu", plain)
        assert why in proof(torch.device("cpu"), torch.float32)


def plain(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, add: Tensor) -> Tensor:
    return F.silu(F.group_norm(x + add[:, :, None, None], groups, weight, bias, eps))


@pytest.mark.slow
def test_the_proof_holds_here() -> None:
    assert [proof(torch.device("cpu"), dtype) for dtype in LIMIT] == ["", "", ""]


@pytest.mark.slow
def test_kernels_compile_for_cards(tmp_path: Path) -> None:
    """For an A100 and an H100, by Triton, which needs no card: no register is spilled to memory."""
    script = Path(__file__).with_name("compiling.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 2 * 8 + 1
    assert all(row["stack"] == 0 and row["bytes"] > 0 for row in rows), rows
