"""Tiny autoencoders: equal to diffusers' with the same weights, from every layout of their files."""

from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.peers import difference, noise, randomise

from aquatint.base.errors import UserError
from aquatint.weights.tiny import open_tiny

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def peer() -> diffusers.AutoencoderTiny:
    """diffusers' own, at the published shape, with random weights."""
    made = diffusers.AutoencoderTiny().eval()
    randomise(made)
    return made


def numbered(state: State) -> tuple[State, State]:
    """(decoder, encoder) as the original's two files have them: the decoder's entry counts as a layer."""
    decoder, encoder = State(), State()
    for name, tensor in state.items():
        half, _, layer, rest = name.split(".", 3)
        if half == "decoder":
            decoder[f"{int(layer) + 1}.{rest}"] = tensor
        else:
            encoder[f"{layer}.{rest}"] = tensor
    return decoder, encoder


@torch.no_grad()
def test_it_is_diffusers_tiny_autoencoder(peer: diffusers.AutoencoderTiny, tmp_path: Path) -> None:
    peer.save_pretrained(tmp_path / "taesd")
    latents, pictures = noise(1, 4, 16, 24), noise(1, 3, 64, 96).clamp(-1, 1)
    for path in (tmp_path / "taesd", tmp_path / "taesd" / "diffusion_pytorch_model.safetensors"):
        net = open_tiny(path).net
        assert difference(net.decode(latents), peer.decode(latents).sample).within
        assert difference(net.encode(pictures), peer.encode(pictures).latents).within


@torch.no_grad()
@pytest.mark.parametrize("layout", ["decoder.pth", "decoder.safetensors", "both.safetensors"])
def test_the_originals_files(peer: diffusers.AutoencoderTiny, tmp_path: Path, layout: str) -> None:
    decoder, encoder = numbered(peer.state_dict())
    path, latents = tmp_path / f"taesd_{layout}", noise(1, 4, 16, 24)
    if layout.startswith("both"):
        both = {f"taesd_decoder.{name}": tensor for name, tensor in decoder.items()}
        save_file(both | {f"taesd_encoder.{name}": tensor for name, tensor in encoder.items()}, path)
    elif path.suffix == ".pth":
        torch.save(decoder, path)
    else:
        save_file(decoder, path)
    tiny = open_tiny(path)
    assert difference(tiny.net.decode(latents), peer.decode(latents).sample).within
    assert (tiny.net.encoder is not None) == layout.startswith("both")
    assert tiny.name == path.stem


def test_what_is_no_decoder_is_refused(peer: diffusers.AutoencoderTiny, tmp_path: Path) -> None:
    decoder, encoder = numbered(peer.state_dict())
    bad = {
        "encoder": (encoder, "no decoder"),
        "lacking": ({name: tensor for name, tensor in decoder.items() if name != "3.conv.2.bias"}, "lacks 1"),
        "longer": (decoder | {"99.weight": torch.ones(1)}, "has 1 more"),
        "shape": (decoder | {"3.conv.2.bias": torch.ones(3)}, r"3.conv.2.bias is \[3\]"),
        "nan": (decoder | {"3.conv.2.bias": torch.full((64,), float("inf"))}, "not finite"),
        "other": ({"conv_first.weight": torch.ones(3)}, "conv_first"),
    }
    for name, (state, told) in bad.items():
        save_file(state, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=told):
            open_tiny(tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="no file"):
        open_tiny(tmp_path / "nowhere.pth")
    assert load_file(tmp_path / "encoder.safetensors").keys() == encoder.keys()
