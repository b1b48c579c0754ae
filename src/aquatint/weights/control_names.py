"""What files of ControlNets, T2I-Adapters, IP-Adapters and image towers call the tensors of ours."""

from collections.abc import Collection, Iterator, Mapping

import torch

from aquatint.nets.control import AdapterConfig, ControlConfig
from aquatint.nets.picture_prompt import PictureConfig
from aquatint.nets.text import ImageConfig
from aquatint.weights import compvis, diffusers
from aquatint.weights.keymap import ITSELF, Part, Place, Shape, Turn

CONTROL = "control_model."  # before the names of a ControlNet's original layout, in files that have it
HALF = ("time", "vector", "enter", "descent", "middle")  # the parts of a U-Net that a ControlNet has
VISION = "vision_model."

# Some files keep keys and values below one another.
PAIRED = Turn(
    "paired",
    lambda ours: torch.cat(list(ours)),
    lambda theirs: theirs.chunk(2),
    lambda shapes: ((sum(shape[0] for shape in shapes), *shapes[0][1:]),),
)
RESAMPLER_LAYER = (
    Part("norm1.*", "0.norm1.*"),
    Part("norm2.*", "0.norm2.*"),
    Part("q.*", "0.to_q.*"),
    Part(("k.*", "v.*"), "0.to_kv.*", PAIRED),
    Part("out.*", "0.to_out.*"),
    Part("norm3.*", "1.0.*"),
    Part("enter.*", "1.1.*"),
    Part("leave.*", "1.3.*"),
)
RESAMPLER = (
    Part("latents", "latents"),
    Part("enter.*", "proj_in.*"),
    Part("leave.*", "proj_out.*"),
    Part("norm.*", "norm_out.*"),
)
PROJECTION = (Part("enter.*", "proj.*"), Part("norm.*", "norm.*"))
ADAPTER_BLOCK = (Part("enter.*", "in_conv.*"), Part("conv1.*", "block1.*"), Part("conv2.*", "block2.*"))


def original_control(config: ControlConfig, prefix: str = CONTROL) -> Iterator[Place]:
    """A ControlNet's original names: the single file's U-Net behind another prefix, and what it has besides."""
    for place in compvis.unet_places(config.unet):
        if place.ours.split(".")[0] in HALF:
            yield place._replace(theirs=prefix + place.theirs.removeprefix(compvis.UNET))
    for index in range(_convolutions(config)):
        yield Place(f"hint.layers.{index}", f"{prefix}input_hint_block.{2 * index}", ITSELF)
    for index in range(_skips(config)):
        yield Place(f"zeros.{index}", f"{prefix}zero_convs.{index}.0", ITSELF)
    yield Place("zero", f"{prefix}middle_block_out.0", ITSELF)


def diffusers_control(config: ControlConfig, names: Collection[str] = ()) -> Iterator[Place]:
    """diffusers' ControlNetModel. The vector's layers are called by what the U-Net beside it is told (`names`)."""
    added = "add_embedding.linear_1.weight" in names
    for place in diffusers.unet_places(config.unet, "add_embedding" if added else "class_embedding"):
        if place.ours.split(".")[0] in HALF:
            yield place
    last = _convolutions(config) - 1
    for index in range(last + 1):
        name = "conv_in" if index == 0 else "conv_out" if index == last else f"blocks.{index - 1}"
        yield Place(f"hint.layers.{index}", f"controlnet_cond_embedding.{name}", ITSELF)
    for index in range(_skips(config)):
        yield Place(f"zeros.{index}", f"controlnet_down_blocks.{index}", ITSELF)
    yield Place("zero", "controlnet_mid_block", ITSELF)


def original_adapter(config: AdapterConfig) -> Iterator[Place]:
    """TencentARC's T2I-Adapters: one list of blocks."""
    yield Place("enter", "conv_in", ITSELF)
    for level in range(len(config.widths)):
        for index in range(config.blocks):
            yield Place(f"levels.{level}.{index}", f"body.{level * config.blocks + index}", ADAPTER_BLOCK)


def diffusers_adapter(config: AdapterConfig) -> Iterator[Place]:
    """diffusers' T2IAdapter: a list of blocks a level, whose convolution between widths is the level's."""
    yield Place("enter", "adapter.conv_in", ITSELF)
    for level in range(len(config.widths)):
        yield Place(f"levels.{level}.0.enter", f"adapter.body.{level}.in_conv", ITSELF)
        for index in range(config.blocks):
            yield Place(f"levels.{level}.{index}", f"adapter.body.{level}.resnets.{index}", ADAPTER_BLOCK[1:])


def picture_prompt(config: PictureConfig) -> Iterator[Place]:
    """IP-Adapter: the projection, then keys and values by the number of the attention, of which every other crosses."""
    yield Place("project", "image_proj", RESAMPLER if config.plus else PROJECTION)
    for index in range(config.layers):
        yield Place(f"project.layers.{index}", f"image_proj.layers.{index}", RESAMPLER_LAYER)
    for index in range(len(config.widths)):
        for part in ("k", "v"):
            yield Place(f"{part}.{index}", f"ip_adapter.{2 * index + 1}.to_{part}_ip", ITSELF)


def tower(config: ImageConfig, prefix: str = VISION) -> Iterator[Place]:
    """transformers' CLIPVisionModelWithProjection."""
    yield Place("", f"{prefix}embeddings", (Part("summary", "class_embedding"),))
    yield Place("patches", f"{prefix}embeddings.patch_embedding", ITSELF)
    yield Place("places", f"{prefix}embeddings.position_embedding", ITSELF)
    yield Place("norm1", f"{prefix}pre_layrnorm", ITSELF)  # the letter has been missing since 2021
    for index in range(config.layers):
        yield Place(f"layers.{index}", f"{prefix}encoder.layers.{index}", diffusers.TEXT_LAYER)
    yield Place("norm2", f"{prefix}post_layernorm", ITSELF)
    yield Place("project", "visual_projection", ITSELF)


def count(shapes: Mapping[str, Shape], pattern: str, limit: int = 1_000) -> int:
    """How many of "name.{}.weight" there are, from 0 on."""
    number = 0
    while number < limit and pattern.format(number) in shapes:
        number += 1
    return number


def _convolutions(config: ControlConfig) -> int:
    return 2 * len(config.hint)


def _skips(config: ControlConfig) -> int:
    return len(config.unet.stages) * (config.unet.blocks + 1)
