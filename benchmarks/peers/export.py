"""Stable Diffusion's nets for ONNX Runtime and OpenVINO, from diffusers' folder through torch; float32 stays float32.

    python -m benchmarks.peers.export onnxruntime|openvino FOLDER

Heights and widths are left open in the files and fixed where they are read. A net whose file is there is left alone.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LATENT = 32  # side of the latents of the examples


class Net(NamedTuple):
    """A net, examples of its inputs by name, and which dimensions of each are open."""

    build: Callable[[], nn.Module]
    inputs: dict[str, Tensor]
    open: dict[str, dict[int, str]]


class Call(nn.Module):
    """A function of a module, as a module."""

    def __init__(self, inner: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the function answers."""
        return self.function(self.inner, *inputs)


def nets(folder: Path) -> dict[str, Net]:
    """The four that a picture needs, guided steps as batches of two; latents are scaled, pixels in [-1, 1]."""
    config = json.loads((folder / "unet" / "config.json").read_text())
    scale = json.loads((folder / "vae" / "config.json").read_text())["scaling_factor"]

    def vae(function: Callable[..., Tensor]) -> nn.Module:
        from diffusers import AutoencoderKL

        return Call(AutoencoderKL.from_pretrained(folder / "vae").eval(), function)

    def unet() -> nn.Module:
        from diffusers import UNet2DConditionModel

        net = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
        return Call(net, lambda inner, x, t, told: inner(x, t, told, return_dict=False)[0])

    def text() -> nn.Module:
        from transformers import CLIPTextModel

        net = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
        return Call(net, lambda inner, ids: inner(ids, return_dict=False)[0])

    x, told = torch.zeros(2, 4, LATENT, LATENT), torch.zeros(2, 77, config["cross_attention_dim"])
    tall = {2: "height", 3: "width"}
    return {
        "text": Net(text, {"ids": torch.zeros(2, 77, dtype=torch.int64)}, {}),
        "decoder": Net(
            lambda: vae(lambda inner, z: inner.decode(z / scale, return_dict=False)[0]), {"x": x[:1]}, {"x": tall}
        ),
        "encoder": Net(
            lambda: vae(lambda inner, p: inner.encode(p, return_dict=False)[0].mean * scale),
            {"x": torch.zeros(1, 3, 8 * LATENT, 8 * LATENT)},
            {"x": tall},
        ),
        "unet": Net(unet, {"x": x, "t": torch.tensor(500.0), "told": told}, {"x": tall}),
    }


@torch.no_grad()
def to_onnx(net: Net, path: Path) -> None:
    """An ONNX file, its weights in one file beside it."""
    torch.onnx.export(
        net.build(), tuple(net.inputs.values()), str(path), input_names=list(net.inputs), output_names=["out"],
        dynamic_axes=net.open, dynamo=False, opset_version=18,
    )  # fmt: skip
    import onnx

    model: Any = onnx.load(path)
    for part in path.parent.iterdir():
        part.unlink()
    onnx.save_model(model, path, save_as_external_data=True, all_tensors_to_one_file=True, location="weights.bin")


@torch.no_grad()
def to_openvino(net: Net, path: Path) -> None:
    """OpenVINO's intermediate representation, which keeps attention as one operation."""
    import openvino

    model = openvino.convert_model(net.build(), example_input=tuple(net.inputs.values()))
    for port, name in zip(model.inputs, net.inputs, strict=True):
        port.get_tensor().set_names({name})
    openvino.save_model(model, path, compress_to_fp16=False)


def tokenizer(folder: Path, path: Path) -> None:
    """CLIP's tokenizer in one file, which fills up to 77 tokens by itself."""
    from transformers import CLIPTokenizer

    given = CLIPTokenizer.from_pretrained(folder)
    engine = given.backend_tokenizer
    engine.enable_truncation(77)
    engine.enable_padding(length=77, pad_id=given.pad_token_id, pad_token=given.pad_token)
    engine.save(str(path))


WAYS = {"onnxruntime": (to_onnx, "net.onnx"), "openvino": (to_openvino, "net.xml")}


def main() -> None:
    """Write what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    write, file = WAYS[given.way]
    warnings.simplefilter("ignore")  # sizes become constants of the nets, which is meant
    tokenizer(given.folder / "diffusers" / "tokenizer", given.folder / "tokenizer.json")
    for name, net in nets(given.folder / "diffusers").items():
        whole = given.folder / given.way / name
        if whole.exists():
            continue
        making = whole.with_suffix(".part")
        for part in making.glob("*"):
            part.unlink()
        making.mkdir(parents=True, exist_ok=True)
        write(net, making / file)
        making.rename(whole)
        print(f"{given.way}: {name}", flush=True)


if __name__ == "__main__":
    main()
