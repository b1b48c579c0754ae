"""Upscalers' files: every layout is read, the net is ESRGAN's as written out apart, tiles are exact, others refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.parity.peers import difference, noise
from tests.weights.upscaler_files import (
    State,
    compact_enlarged,
    compact_layout,
    enlarged,
    new_layout,
    old_layout,
    second_layout,
)

from aquatint.base.errors import UserError
from aquatint.nets.rrdb import RRDBConfig, RRDBNet
from aquatint.weights.upscalers import open_upscaler

X = (noise(1, 3, 24, 36) / 4).clamp(-1, 1)


def saved(state: State, path: Path, wrapper: str = "") -> Path:
    """As torch.save or safetensors writes it, alone or under a key beside another."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        other = {name: 0 * tensor for name, tensor in state.items()}
        torch.save({"params": other, wrapper: state} if wrapper else state, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("layout", [lambda state: state, second_layout, old_layout], ids=["new", "second", "old"])
def test_each_layout_is_the_net_written_out(tmp_path: Path, layout: Callable[[State], State], suffix: str) -> None:
    state = new_layout()
    upscaler = open_upscaler(saved(layout(state), tmp_path / f"x4plus{suffix}"))
    assert (upscaler.name, upscaler.scale) == ("x4plus", 4)
    ours, theirs = upscaler(X), 2 * enlarged(state, (X + 1) / 2) - 1
    assert difference(ours, theirs).within


@pytest.mark.parametrize("fold", [2, 4])
def test_pixels_that_are_folded_first(tmp_path: Path, fold: int) -> None:
    state = new_layout(fold=fold)
    upscaler = open_upscaler(saved(state, tmp_path / "x2plus.pth", "params_ema"))
    assert upscaler.scale == 4 // fold
    assert difference(upscaler(X), 2 * enlarged(state, (X + 1) / 2, fold) - 1).within
    assert upscaler(X[:, :, :23, :35]).shape == (1, 3, 23 * upscaler.scale, 35 * upscaler.scale)


@pytest.mark.parametrize("doublings", [0, 1, 2])
def test_old_nets_of_other_scales(tmp_path: Path, doublings: int) -> None:
    state = new_layout()
    upscaler = open_upscaler(saved(old_layout(state, doublings), tmp_path / "old.pth"))
    assert upscaler.scale == 2**doublings
    assert difference(upscaler(X), 2 * enlarged(state, (X + 1) / 2, doublings=doublings) - 1).within


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_small_net(tmp_path: Path, scale: int) -> None:
    state = compact_layout(scale=scale)
    upscaler = open_upscaler(saved(state, tmp_path / "realesr.pth", "params_ema"))
    assert upscaler.scale == scale
    assert difference(upscaler(X), 2 * compact_enlarged(state, (X + 1) / 2, scale) - 1).within
    torch.testing.assert_close(upscaler(X, tile=12), upscaler(X), rtol=0, atol=1e-5)


def test_the_published_shape() -> None:
    """23 blocks, 64 features, 32 of growth: 16.7 million weights, as RealESRGAN_x4plus has."""
    with torch.device("meta"):
        net = RRDBNet(RRDBConfig())
    assert sum(tensor.numel() for tensor in net.parameters()) == 16_697_987


def test_tiles_are_the_whole(tmp_path: Path) -> None:
    upscaler = open_upscaler(saved(new_layout(blocks=4), tmp_path / "x4.pth"))
    x = (noise(1, 3, 70, 90) / 4).clamp(-1, 1)
    whole = upscaler(x)
    assert difference(upscaler(x, tile=32), whole).max < 2e-5
    rolled = upscaler(x.roll((13, 41), (2, 3)), tile=32, around=(True, True))
    assert difference(rolled, upscaler(x, tile=32, around=(True, True)).roll((52, 164), (2, 3))).max < 2e-5


def without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (without(new_layout(), "body.1.rdb2.conv3.bias"), r"lacks 1 \(as blocks.1.parts.1.convs.2.bias"),
        (new_layout() | {"conv_extra.weight": torch.ones(1)}, "conv_extra.weight"),
        (new_layout() | {"body.0.rdb1.conv2.weight": torch.ones(8, 24, 1, 1)}, r"rdb1.conv2.weight is \[8, 24, 1, 1\]"),
        (new_layout() | {"conv_hr.bias": torch.full((16,), float("nan"))}, "conv_hr.bias holds values"),
        (new_layout() | {"conv_hr.bias": torch.ones(16, dtype=torch.int64)}, "I64"),
        (new_layout() | {"conv_first.weight": torch.ones(16, 1, 3, 3)}, "turns 1 channels into 3"),
        (without(new_layout(), "conv_last.weight"), "no upscaler"),
        ({"layers.0.weight": torch.ones(3, 3)}, "no upscaler"),
        ({"body.0.weight": torch.ones(16, 3, 3, 3)}, "no upscaler"),
        (new_layout() | {"body.99999999999.rdb1.conv1.bias": torch.ones(8)}, "no upscaler"),
        (new_layout() | {f"conv_up{k}.bias": torch.ones(16) for k in (4, 5)}, "has a net of"),
        ({"body.0.weight": torch.ones(16, 3, 3, 3), "body.88888888.weight": torch.ones(48, 16, 3, 3)}, "no upscaler"),
        ({}, "no tensors"),
    ],
)
def test_what_is_no_upscaler_is_refused(tmp_path: Path, state: State, told: str) -> None:
    with pytest.raises(UserError, match=told):
        open_upscaler(saved(state, tmp_path / "odd.pth"))


def test_no_file_is_no_upscaler(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        open_upscaler(tmp_path / "nowhere.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError):
        open_upscaler(tmp_path / "text.pth")
