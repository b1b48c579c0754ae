"""The names of the original single file (CompVis and Stability AI), which most shared checkpoints still have."""

from collections.abc import Collection, Iterator, Mapping

from aquatint.families import Family
from aquatint.nets.autoencoder import AutoencoderConfig
from aquatint.nets.text import TextConfig
from aquatint.nets.unet import UNetConfig
from aquatint.weights import keymap
from aquatint.weights.diffusers import text_places
from aquatint.weights.keymap import (
    ITSELF,
    SQUARE,
    STACKED,
    TRANSFORMER,
    TRANSFORMER_LAYER,
    TURNED,
    Config,
    Pair,
    Part,
    Place,
    transformer,
)

UNET = "model.diffusion_model."
AUTOENCODER = "first_stage_model."
HUGGING = "cond_stage_model.transformer.text_model."  # Stable Diffusion 1: CLIP-L as transformers names it,
OLD_HUGGING = "cond_stage_model.transformer."  # ... the same in files of some converters,
OPEN_CLIP = "cond_stage_model.model."  # and Stable Diffusion 2: OpenCLIP's own names
CONDITIONER = "conditioner.embedders."  # Stable Diffusion XL: a list of both, see `conditioner`
EMA = "model_ema."
GUIDANCE = UNET + "time_embed.cond_proj"  # of latent consistency models, by diffusers' name for it


def pairs(config: Config, names: Collection[str] = (), *, ema: bool = False, text: str = "") -> list[Pair]:
    """The pairs of one net, with full names.

    names   of the tensors at hand, which decide how the text encoder is spelled; without any, as Stability AI does
    ema     whether the U-Net's averaged weights are meant
    text    what a text encoder's names begin with, where the family says it (Stable Diffusion XL)
    """
    if isinstance(config, UNetConfig):
        made = keymap.pairs(unet_places(config), keymap.shapes(config))
        return [pair._replace(theirs=averaged(pair.theirs)) for pair in made] if ema else made
    if isinstance(config, AutoencoderConfig):
        return keymap.pairs(autoencoder_places(config), keymap.shapes(config))
    prefix = text or text_prefix(names) or (OPEN_CLIP if config.activation == "gelu" else HUGGING)
    places = open_clip_places(config, prefix) if prefix.endswith(".model.") else hugging_places(config, prefix)
    return keymap.pairs(places, keymap.shapes(config))


def conditioner(family: Family, part: str) -> str:
    """What a text encoder's names begin with in Stable Diffusion XL's file; empty for other parts and families."""
    if not family.micro or part not in ("text", "text2"):
        return ""
    first = part == "text" and family.text2 is not None
    return f"{CONDITIONER}{int(part == 'text2')}.{'transformer.text_model.' if first else 'model.'}"


def averaged(name: str) -> str:
    """The name under which the average of a U-Net tensor is kept: without its dots, behind model_ema."""
    return EMA + name.removeprefix("model.").replace(".", "")


def text_prefix(names: Collection[str]) -> str:
    """What the text encoder's names begin with; empty if there is none."""
    for prefix in (HUGGING, OLD_HUGGING):
        if prefix + "embeddings.token_embedding.weight" in names:
            return prefix
    return OPEN_CLIP if OPEN_CLIP + "token_embedding.weight" in names else ""


def unet_places(config: UNetConfig) -> Iterator[Place]:
    """openaimodel.UNetModel: the way down, the middle and the way up are three lists of numbered blocks."""

    def cell(ours: str, block: str, depth: int) -> Iterator[Place]:
        yield Place(f"{ours}.res", f"{block}.0", RES)
        yield from transformer(f"{ours}.attend", f"{block}.1", depth, TRANSFORMER, TRANSFORMER_LAYER)

    yield Place("time", UNET + "time_embed", PERCEPTRON)
    if config.vector:
        yield Place("vector", UNET + "label_emb.0", PERCEPTRON)
    if config.guidance:
        yield Place("guidance", GUIDANCE, ITSELF)
    yield Place("enter", UNET + "input_blocks.0.0", ITSELF)
    last, number = len(config.stages) - 1, 1
    for i, stage in enumerate(config.stages):
        for j in range(config.blocks):
            yield from cell(f"descent.{i}.cells.{j}", f"{UNET}input_blocks.{number}", stage.depth)
            number += 1
        if i < last:
            yield Place(f"descent.{i}.shrink.conv", f"{UNET}input_blocks.{number}.0.op", ITSELF)
            number += 1
    yield Place("middle.first.res", UNET + "middle_block.0", RES)
    yield from transformer(
        "middle.first.attend", UNET + "middle_block.1", config.middle, TRANSFORMER, TRANSFORMER_LAYER
    )
    yield Place("middle.second", f"{UNET}middle_block.{2 if config.middle else 1}", RES)
    number = 0
    for i, stage in enumerate(reversed(config.stages)):
        for j in range(config.blocks + 1):
            block = f"{UNET}output_blocks.{number}"
            yield from cell(f"ascent.{i}.cells.{j}", block, stage.depth)
            if j == config.blocks and i < last:
                yield Place(f"ascent.{i}.grow.conv", f"{block}.{2 if stage.depth else 1}.conv", ITSELF)
            number += 1
    yield Place("norm", UNET + "out.0", ITSELF)
    yield Place("leave", UNET + "out.2", ITSELF)


def autoencoder_places(config: AutoencoderConfig) -> Iterator[Place]:
    """ldm's AutoencoderKL; the decoder numbers its levels from the picture's side, and walks them backwards."""
    for side in ("encoder", "decoder"):
        root = AUTOENCODER + side
        yield Place(f"{side}.enter", f"{root}.conv_in", ITSELF)
        yield Place(f"{side}.middle.first", f"{root}.mid.block_1", AUTOENCODER_RES)
        if config.middle_attention:
            yield Place(f"{side}.middle.attend", f"{root}.mid.attn_1", ATTENTION)
        yield Place(f"{side}.middle.second", f"{root}.mid.block_2", AUTOENCODER_RES)
        count = len(config.encoder if side == "encoder" else config.decoder)
        for i in range(count):
            level = f"{root}.down.{i}" if side == "encoder" else f"{root}.up.{count - 1 - i}"
            for j in range(config.blocks + (side == "decoder")):
                yield Place(f"{side}.levels.{i}.blocks.{j}", f"{level}.block.{j}", AUTOENCODER_RES)
            if i < count - 1:
                resize = "downsample" if side == "encoder" else "upsample"
                yield Place(f"{side}.levels.{i}.resize.conv", f"{level}.{resize}.conv", ITSELF)
        yield Place(f"{side}.norm", f"{root}.norm_out", ITSELF)
        yield Place(f"{side}.leave", f"{root}.conv_out", ITSELF)
    yield Place("quant", AUTOENCODER + "quant_conv", ITSELF)
    yield Place("post_quant", AUTOENCODER + "post_quant_conv", ITSELF)


def hugging_places(config: TextConfig, prefix: str) -> Iterator[Place]:
    """CLIP by transformers' names."""
    return text_places(config, prefix, OLD_HUGGING + "text_projection")


def open_clip_places(config: TextConfig, prefix: str = OPEN_CLIP) -> Iterator[Place]:
    """OpenCLIP's text transformer; queries, keys and values are one tensor."""
    yield Place("words", prefix + "token_embedding", ITSELF)
    yield Place("places", prefix + "positional_embedding", (Part("weight", ""),))
    for i in range(config.layers):
        yield Place(f"layers.{i}", f"{prefix}transformer.resblocks.{i}", OPEN_CLIP_LAYER)
    yield Place("norm", prefix + "ln_final", ITSELF)
    yield Place("project", prefix + "text_projection", (Part("weight", "", TURNED),))


def leftover(name: str, layers: int) -> str:
    """Why a tensor has no place in our nets (the text encoder has `layers`); empty if there is no reason we know."""
    if name.startswith(EMA):
        return "averaged weights (EMA)"
    for ending, reason in LEFTOVERS.items():
        if name.endswith(ending):
            return reason
    for beginning, reason in BEGINNINGS.items():
        if name.startswith(beginning):
            return reason
    block = name.removeprefix(OPEN_CLIP + "transformer.resblocks.").partition(".")[0]
    if name.startswith(OPEN_CLIP) and block.isdecimal() and int(block) == layers:
        return "the last text layer, which Stable Diffusion 2 does not use"
    ours = (UNET, AUTOENCODER, "cond_stage_model.", CONDITIONER)
    return "" if name.startswith(ours) else "part of no network that paints"


def other_kind(shapes: Mapping[str, object]) -> str:
    """What a file is that has no U-Net of this layout, or one that is not read; empty if we have no idea."""
    for mark, kind in OTHERS.items():
        if any(mark in name for name in shapes):
            return kind
    return ""


PERCEPTRON = (Part("enter.*", "0.*"), Part("leave.*", "2.*"))
RES = (
    Part("norm1.*", "in_layers.0.*"),
    Part("conv1.*", "in_layers.2.*"),
    Part("time.*", "emb_layers.1.*"),
    Part("norm2.*", "out_layers.0.*"),
    Part("conv2.*", "out_layers.3.*"),
    Part("skip.*", "skip_connection.*"),
)
AUTOENCODER_RES = (
    Part("norm1.*", "norm1.*"),
    Part("conv1.*", "conv1.*"),
    Part("norm2.*", "norm2.*"),
    Part("conv2.*", "conv2.*"),
    Part("skip.*", "nin_shortcut.*"),
)
ATTENTION = (
    Part("norm.*", "norm.*"),
    Part("among.q.*", "q.*", SQUARE),
    Part("among.k.*", "k.*", SQUARE),
    Part("among.v.*", "v.*", SQUARE),
    Part("among.out.*", "proj_out.*", SQUARE),
)
OPEN_CLIP_LAYER = (
    Part("norm1.*", "ln_1.*"),
    Part(("among.q.*", "among.k.*", "among.v.*"), "attn.in_proj_*", STACKED),
    Part("among.out.*", "attn.out_proj.*"),
    Part("norm2.*", "ln_2.*"),
    Part("feed.enter.*", "mlp.c_fc.*"),
    Part("feed.leave.*", "mlp.c_proj.*"),
)

_SCHEDULE = "the noise schedule's table, which is computed here"
_ALIGNMENT = "CLIP's alignment with pictures, which painting does not need"
LEFTOVERS = {
    "embeddings.position_ids": "the numbers 0, 1, 2, ... of the positions",
    "model.text_projection": _ALIGNMENT,
    "transformer.text_projection.weight": _ALIGNMENT,
    "model.logit_scale": _ALIGNMENT,
    "transformer.logit_scale": _ALIGNMENT,
    "model.attn_mask": "the mask that hides later words, which is computed here",
}
BEGINNINGS = {
    AUTOENCODER + "loss.": "what the autoencoder was trained with",
    AUTOENCODER + "model_ema.": "averaged weights (EMA) of the autoencoder",
    OPEN_CLIP + "visual.": _ALIGNMENT,
    OLD_HUGGING + "vision_model.": _ALIGNMENT,
    OLD_HUGGING + "visual_projection.": _ALIGNMENT,
    **dict.fromkeys(("betas", "alphas_", "sqrt_", "log_one_minus", "posterior_", "logvar", "lvlb_weights"), _SCHEDULE),
    "denoiser.sigmas": _SCHEDULE,
    "scale_factor": "the autoencoder's scale, which the family says",
    "depth_model.": "the net that guesses depth (MiDaS): a depth map is given to the request instead",
    "v_pred": "a mark: this model predicts v",
    "ztsnr": "a mark: this model's schedule ends in pure noise",
}
OTHERS = {
    "lora_": "a LoRA: an addition to a model, not a model",
    ".lora": "a LoRA: an addition to a model, not a model",
    "control_model.": "a ControlNet: an addition to a model, not a model",
    "joint_blocks.": "a Stable Diffusion 3 checkpoint, which is another architecture",
    "double_blocks.": "a Flux checkpoint, which is another architecture",
    "down_blocks.": "one net of a diffusers folder; the whole folder is needed",
    "first_stage_model.": "an autoencoder alone",
    "encoder.conv_in.": "an autoencoder alone",
    "text_model.": "a text encoder alone",
    "string_to_param": "a textual inversion: an addition to a model, not a model",
    "emb_params": "a textual inversion: an addition to a model, not a model",
}
