"""The names of a diffusers folder: unet/, vae/, text_encoder/ and text_encoder_2/, each with names of its own."""

from collections.abc import Container, Iterator

from aquatint.families import Family
from aquatint.nets.autoencoder import AutoencoderConfig
from aquatint.nets.text import TextConfig
from aquatint.nets.unet import UNetConfig
from aquatint.weights import keymap
from aquatint.weights.keymap import (
    FLAT,
    ITSELF,
    SAME,
    TRANSFORMER,
    TRANSFORMER_LAYER,
    Config,
    Pair,
    Part,
    Place,
    transformer,
)

FOLDERS = {"unet": "unet", "autoencoder": "vae", "text": "text_encoder"}
SECOND = "text_encoder_2"  # the larger encoder of Stable Diffusion XL; its refiner's folder has it alone
POSITIONS = "embeddings.position_ids"


def folders(family: Family) -> dict[str, str]:
    """The folder of each of the family's parts."""
    if family.text2 is not None:
        return FOLDERS | {"text2": SECOND}
    return FOLDERS | {"text": SECOND} if family.micro else FOLDERS


def pairs(config: Config, names: Container[str] = (), *, added: bool = False) -> list[Pair]:
    """The pairs of one net, without the folder's name.

    names   of the tensors at hand, which decide between spellings: transformers before its version 5 begins with
            `text_model.`, and diffusers before 0.12 called the autoencoder's attention query, key, value, proj_attn.
            Without any, the ones that every version reads: `text_model.` and `to_q`.
    added   whether the U-Net's vector is Stable Diffusion XL's, which is named otherwise than a projected class
    """
    if isinstance(config, UNetConfig):
        added = added or "add_embedding.linear_1.weight" in names
        places = unet_places(config, "add_embedding" if added else "class_embedding")
    elif isinstance(config, AutoencoderConfig):
        old = "encoder.mid_block.attentions.0.query.weight" in names
        places = autoencoder_places(config, OLD_ATTENTION if old else ATTENTION)
    else:
        bare = "embeddings.token_embedding.weight" in names
        places = text_places(config, "" if bare else "text_model.", "text_projection")
    return keymap.pairs(places, keymap.shapes(config))


def unet_places(config: UNetConfig, vector: str) -> Iterator[Place]:
    """UNet2DConditionModel, as its forward pass goes; `vector` is what it calls the embedding beside the time's."""

    def cell(ours: str, block: str, index: int, depth: int) -> Iterator[Place]:
        yield Place(f"{ours}.res", f"{block}.resnets.{index}", RES)
        yield from transformer(f"{ours}.attend", f"{block}.attentions.{index}", depth, TRANSFORMER, TRANSFORMER_LAYER)

    yield Place("time", "time_embedding", PERCEPTRON)
    if config.vector:
        yield Place("vector", vector, PERCEPTRON)
    if config.guidance:
        yield Place("guidance", "time_embedding.cond_proj", ITSELF)
    yield Place("enter", "conv_in", ITSELF)
    last = len(config.stages) - 1
    for i, stage in enumerate(config.stages):
        for j in range(config.blocks):
            yield from cell(f"descent.{i}.cells.{j}", f"down_blocks.{i}", j, stage.depth)
        if i < last:
            yield Place(f"descent.{i}.shrink.conv", f"down_blocks.{i}.downsamplers.0.conv", ITSELF)
    yield from cell("middle.first", "mid_block", 0, config.middle)
    yield Place("middle.second", "mid_block.resnets.1", RES)
    for i, stage in enumerate(reversed(config.stages)):
        for j in range(config.blocks + 1):
            yield from cell(f"ascent.{i}.cells.{j}", f"up_blocks.{i}", j, stage.depth)
        if i < last:
            yield Place(f"ascent.{i}.grow.conv", f"up_blocks.{i}.upsamplers.0.conv", ITSELF)
    yield Place("norm", "conv_norm_out", ITSELF)
    yield Place("leave", "conv_out", ITSELF)


def autoencoder_places(config: AutoencoderConfig, attention: tuple[Part, ...]) -> Iterator[Place]:
    """AutoencoderKL, encoder first."""

    def middle(ours: str, theirs: str) -> Iterator[Place]:
        yield Place(f"{ours}.first", f"{theirs}.resnets.0", RES)
        if config.middle_attention:
            yield Place(f"{ours}.attend", f"{theirs}.attentions.0", attention)
        yield Place(f"{ours}.second", f"{theirs}.resnets.1", RES)

    sides = (
        ("encoder", "down_blocks", "downsamplers", len(config.encoder), config.blocks),
        ("decoder", "up_blocks", "upsamplers", len(config.decoder), config.blocks + 1),
    )
    for side, levels, resize, count, blocks in sides:
        yield Place(f"{side}.enter", f"{side}.conv_in", ITSELF)
        yield from middle(f"{side}.middle", f"{side}.mid_block")
        for i in range(count):
            for j in range(blocks):
                yield Place(f"{side}.levels.{i}.blocks.{j}", f"{side}.{levels}.{i}.resnets.{j}", RES)
            if i < count - 1:
                yield Place(f"{side}.levels.{i}.resize.conv", f"{side}.{levels}.{i}.{resize}.0.conv", ITSELF)
        yield Place(f"{side}.norm", f"{side}.conv_norm_out", ITSELF)
        yield Place(f"{side}.leave", f"{side}.conv_out", ITSELF)
    yield Place("quant", "quant_conv", ITSELF)
    yield Place("post_quant", "post_quant_conv", ITSELF)


def text_places(config: TextConfig, prefix: str, projection: str) -> Iterator[Place]:
    """transformers' CLIPTextModel; the same names, behind another prefix, stand in the single file."""
    yield Place("words", f"{prefix}embeddings.token_embedding", ITSELF)
    yield Place("places", f"{prefix}embeddings.position_embedding", ITSELF)
    for i in range(config.layers):
        yield Place(f"layers.{i}", f"{prefix}encoder.layers.{i}", TEXT_LAYER)
    yield Place("norm", f"{prefix}final_layer_norm", ITSELF)
    yield Place("project", projection, ITSELF)


def leftover(name: str) -> str:
    """Why a tensor (named with its folder) has no place in our nets; empty if there is no reason that we know."""
    if name.endswith(POSITIONS):
        return "the numbers 0, 1, 2, ... of the positions"
    if name in ("text_encoder/text_projection.weight", "text_encoder/logit_scale", "text_encoder_2/logit_scale"):
        return "CLIP's alignment with pictures, which painting does not need"
    return ""


PERCEPTRON = (Part("enter.*", "linear_1.*"), Part("leave.*", "linear_2.*"))
RES = (
    Part("norm1.*", "norm1.*"),
    Part("conv1.*", "conv1.*"),
    Part("time.*", "time_emb_proj.*"),
    Part("norm2.*", "norm2.*"),
    Part("conv2.*", "conv2.*"),
    Part("skip.*", "conv_shortcut.*"),
)
ATTENTION = (
    Part("norm.*", "group_norm.*", SAME),
    Part("among.q.*", "to_q.*", FLAT),
    Part("among.k.*", "to_k.*", FLAT),
    Part("among.v.*", "to_v.*", FLAT),
    Part("among.out.*", "to_out.0.*", FLAT),
)
OLD_ATTENTION = (
    Part("norm.*", "group_norm.*", SAME),
    Part("among.q.*", "query.*", FLAT),
    Part("among.k.*", "key.*", FLAT),
    Part("among.v.*", "value.*", FLAT),
    Part("among.out.*", "proj_attn.*", FLAT),
)
TEXT_LAYER = (
    Part("norm1.*", "layer_norm1.*"),
    Part("among.q.*", "self_attn.q_proj.*"),
    Part("among.k.*", "self_attn.k_proj.*"),
    Part("among.v.*", "self_attn.v_proj.*"),
    Part("among.out.*", "self_attn.out_proj.*"),
    Part("norm2.*", "layer_norm2.*"),
    Part("feed.enter.*", "mlp.fc1.*"),
    Part("feed.leave.*", "mlp.fc2.*"),
)
