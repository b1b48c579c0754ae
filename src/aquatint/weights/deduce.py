"""The family of a single file, from the names and shapes of its tensors.

Shapes tell widths, depths and channels. They do not tell heads, groups, the latents' scale or the schedule: those come
from the known family with the same shapes, or else from what Stable Diffusion 1 (8 heads) and 2 (64 numbers a head) do.
What a net was trained to predict leaves no trace in any shape; see `prediction`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from aquatint.base.errors import UserError
from aquatint.families import FAMILIES, SD15, SD21, SD21_V, SD_TURBO, SDXL, Family
from aquatint.nets.autoencoder import AutoencoderConfig
from aquatint.nets.text import TextConfig
from aquatint.nets.unet import Stage, UNetConfig
from aquatint.weights import compvis, conditioner, description
from aquatint.weights.compvis import AUTOENCODER, OPEN_CLIP, UNET, other_kind, text_prefix
from aquatint.weights.header import FLOATS
from aquatint.weights.keymap import Shape
from aquatint.weights.store import Held

PART_NAMES = {UNET: "U-Net", AUTOENCODER: "autoencoder", "cond_stage_model.": "text encoder"}
# ComfyUI's test, which has told Stable Diffusion 2's two kinds apart since 2023: this bias spreads more in v models.
TELLTALE, SPREAD = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
C = TypeVar("C")


@dataclass(frozen=True)
class Shapes:
    """The shapes in one file, asked for by name."""

    table: Mapping[str, Shape]

    def side(self, name: str, axis: int) -> int:
        """One side of a tensor; a UserError if the tensor is not there or has too few sides."""
        shape = self.table.get(name)
        if shape is None or len(shape) <= axis:
            raise UserError(
                f'there is no tensor "{name}" of at least {axis + 1} dimensions.',
                "A whole Stable Diffusion checkpoint.",
                "Look at it with `aquatint inspect`.",
            )
        return shape[axis]

    def count(self, pattern: str, limit: int) -> int:
        """How many of "name.{}.weight" there are, from 0 on."""
        number = 0
        while number < limit and pattern.format(number) in self.table:
            number += 1
        return number


def family(held: Held, said: str | None = None) -> tuple[Family, list[str]]:
    """The family of a single file without a description of ours, and what was assumed; `said` is what it predicts."""
    shapes = Shapes(held.shapes())
    check_parts(shapes)
    notes: list[str] = []
    unet_, autoencoder_ = unet(shapes), autoencoder(shapes)
    encoders = _encoders(shapes, unet_)
    base = SDXL if "micro" in encoders else SD15
    rows = [row for row in FAMILIES.values() if bool(row.micro) == bool(base.micro)]
    texts = [text for row in rows for text in row.texts]
    for part in ("text", "text2"):
        if encoders.get(part) is not None:
            encoders[part] = _row(encoders[part], texts, _shape_of_text) or encoders[part]
    made = replace(
        base,
        name="custom",
        unet=_row(unet_, (row.unet for row in rows), _shape_of_unet) or unet_,
        autoencoder=_row(autoencoder_, (row.autoencoder for row in rows), _shape_of_autoencoder) or autoencoder_,
        schedule=replace(SD15.schedule, zero_terminal="ztsnr" in held.where),
        **encoders,
    )
    if made.unet not in [row.unet for row in rows]:
        heads = ", ".join(str(stage.heads) for stage in made.unet.stages)
        notes.append(f"the U-Net is of no known family; its heads are Stable Diffusion's rule: {heads}")
    strange = [one.heads for one in made.texts if one not in texts]
    notes += [f"the text encoder is of no known family; its heads are CLIP's rule: {heads}" for heads in strange]
    if base.micro:  # the autoencoder has Stable Diffusion 1's shapes and another scale
        made = replace(made, autoencoder=replace(made.autoencoder, scale=base.autoencoder.scale))
    said, why = (said, ["what it predicts is as you say"]) if said else prediction(held, made)
    made = description.known(replace(made, prediction=said, defaults=base.defaults))
    if made.name == SD21.name and any("turbo" in text.lower() for text in _titles(held)):
        made, why = replace(made, name=SD_TURBO.name), ["the header says that it is a Turbo: 1 to 4 steps, no guidance"]
    nearest = FAMILIES.get(made.name, base if base.micro else SD21_V if said == "v" else SD15)
    return description.check(replace(made, defaults=nearest.defaults)), [*notes, *why]


def _titles(held: Held) -> list[str]:
    """What the header calls the model."""
    return [held.metadata.get(f"modelspec.{key}", "") for key in ("architecture", "title")]


def _encoders(shapes: Shapes, unet_: UNetConfig) -> dict[str, Any]:
    """The fields of a family that say its text encoders, and for Stable Diffusion XL what goes with them."""
    prefixes = conditioner.prefixes(shapes.table)
    if not prefixes:
        return {"text": text(shapes, text_prefix(shapes.table))}
    found = [conditioner.read(text(shapes, prefix, whole=True)) for prefix in prefixes]
    return conditioner.fields(found, unet_, None)


def check_parts(shapes: Shapes) -> None:
    """Whether all nets are there; names those that are not, or what the file is instead."""
    lacking = [name for prefix, name in PART_NAMES.items() if not any(key.startswith(prefix) for key in shapes.table)]
    if conditioner.prefixes(shapes.table):
        lacking = [name for name in lacking if name != "text encoder"]
    if lacking:
        kind = other_kind(shapes.table)
        raise UserError(
            f"it holds no {' and no '.join(lacking)}{f': it is {kind}' if kind else ''}.",
            "A Stable Diffusion checkpoint with all its nets.",
        )


def prediction(held: Held, made: Family) -> tuple[str, list[str]]:
    """What the U-Net was trained to predict, and on what evidence.

    In this order: the header's modelspec, the mark `v_pred`, and for Stable Diffusion 2 (known by its text encoder's
    width) the spread of one bias. All else predicts epsilon.
    """
    words = {"epsilon": "epsilon", "eps": "epsilon", "v": "v", "v_prediction": "v", "v-prediction": "v"}
    said = held.metadata.get("modelspec.prediction_type", "").strip().lower()
    if said in words:
        return words[said], [f"the header says that it predicts {words[said]}"]
    if held.metadata.get("modelspec.architecture", "").startswith("stable-diffusion-v2-768-v"):
        return "v", ["the header says that it is Stable Diffusion 2 for 768 pixels: it predicts v"]
    if "v_pred" in held.where:
        return "v", ["a tensor v_pred marks it: it predicts v"]
    if made.text.width != SD21.text.width or made.unet.channels_in != made.autoencoder.latents:
        return "epsilon", []
    spread = 0.0
    if TELLTALE in held.where and held.entry(TELLTALE).dtype in FLOATS:
        spread = held.tensor(TELLTALE).to(torch.float32).std(correction=0).item()
    verdict = "v" if spread > SPREAD else "epsilon"
    note = (
        f"nothing says what it predicts; {verdict} is a guess by the spread of one bias ({spread:.3f}; v from {SPREAD} "
        "on, as ComfyUI has it). If pictures come out as noise, say the other with --prediction."
    )
    return verdict, [note]


def unet(shapes: Shapes) -> UNetConfig:
    """The U-Net's config; heads by rule, 32 groups."""
    stages: list[tuple[int, int, int]] = []  # width, depth, blocks
    width = depth = blocks = 0
    number = 1
    while number < 128:
        block = f"{UNET}input_blocks.{number}"
        if f"{block}.0.op.weight" in shapes.table:
            stages.append((width, depth, blocks))
            width = depth = blocks = 0
        elif f"{block}.0.in_layers.0.weight" in shapes.table:
            width, blocks = shapes.side(f"{block}.0.out_layers.3.weight", 0), blocks + 1
            depth = shapes.count(block + ".1.transformer_blocks.{}.norm1.weight", description.DEEPEST)
        else:
            break
        number += 1
    stages.append((width, depth, blocks))
    if len({blocks for _, _, blocks in stages}) != 1:
        raise UserError("the U-Net's stages differ in blocks.", "As many in each.")
    inner = [name for name in shapes.table if name.startswith(UNET) and name.endswith(".0.attn2.to_k.weight")]
    if not inner:
        raise UserError("the U-Net does not attend to text.", "A text-to-image model.")
    enter = inner[0].replace("transformer_blocks.0.attn2.to_k.weight", "proj_in.weight")
    linear = len(shapes.table.get(enter, ())) == 2
    label, heard = UNET + "label_emb.0.0.weight", compvis.GUIDANCE + ".weight"
    config = UNetConfig(
        stages=tuple(Stage(width, max(1, width // 64) if linear else 8, depth) for width, depth, _ in stages),
        blocks=stages[0][2],
        middle=shapes.count(UNET + "middle_block.1.transformer_blocks.{}.norm1.weight", description.DEEPEST),
        channels_in=shapes.side(UNET + "input_blocks.0.0.weight", 1),
        channels_out=shapes.side(UNET + "out.2.weight", 0),
        context=shapes.side(inner[0], 1),
        vector=shapes.side(label, 1) if label in shapes.table else 0,
        linear=linear,
        guidance=shapes.side(heard, 1) if heard in shapes.table else 0,
    )
    known = _row(config, (row.unet for row in FAMILIES.values()), _shape_of_unet)
    description.check_unet(known or config)
    return config


def autoencoder(shapes: Shapes) -> AutoencoderConfig:
    """The autoencoder's config; 32 groups, and Stable Diffusion's scale."""
    widths: dict[str, tuple[int, ...]] = {}
    for side, way in (("encoder", "down"), ("decoder", "up")):
        levels = shapes.count(f"{AUTOENCODER}{side}.{way}.{{}}.block.0.conv1.weight", 9)
        widths[side] = tuple(
            shapes.side(f"{AUTOENCODER}{side}.{way}.{i}.block.0.conv1.weight", 0) for i in range(levels)
        )
    config = AutoencoderConfig(
        encoder=widths["encoder"],
        decoder=widths["decoder"],
        blocks=shapes.count(AUTOENCODER + "encoder.down.0.block.{}.conv1.weight", 17),
        channels=shapes.side(AUTOENCODER + "encoder.conv_in.weight", 1),
        latents=shapes.side(AUTOENCODER + "post_quant_conv.weight", 0),
        middle_attention=AUTOENCODER + "decoder.mid.attn_1.norm.weight" in shapes.table,
    )
    known = _row(config, (row.autoencoder for row in FAMILIES.values()), _shape_of_autoencoder)
    description.check_autoencoder(known or config)
    return config


def text(shapes: Shapes, prefix: str, *, whole: bool = False) -> TextConfig:
    """The text encoder's config; 64 numbers a head, as every CLIP has. `whole`: all layers and the projection count."""
    open_clip = prefix.endswith(".model.")
    if open_clip:
        words, places = prefix + "token_embedding.weight", prefix + "positional_embedding"
        layer, inner = prefix + "transformer.resblocks.{}.ln_1.weight", "transformer.resblocks.0.mlp.c_fc.weight"
    else:
        words, places = (prefix + f"embeddings.{kind}_embedding.weight" for kind in ("token", "position"))
        layer, inner = prefix + "encoder.layers.{}.layer_norm1.weight", "encoder.layers.0.mlp.fc1.weight"
    width = max(1, shapes.side(words, 1))
    layers = shapes.count(layer, description.DEEPEST + 1)
    if prefix == OPEN_CLIP and not whole:
        # A whole OpenCLIP comes with its projection; the U-Net was trained on the output of the layer before the last.
        # A file of only the layers in use has one less than OpenCLIP-H has, or no projection.
        entire = prefix + "text_projection" in shapes.table or (width, layers) == (
            SD21.text.width,
            SD21.text.layers + 1,
        )
        layers -= entire and (width, layers) != (SD21.text.width, SD21.text.layers)
    config = TextConfig(
        width=width,
        layers=layers,
        heads=max(1, width // 64),
        vocabulary=shapes.side(words, 0),
        positions=shapes.side(places, 0),
        activation="gelu" if open_clip else "quick_gelu",
        feed=max(1, shapes.side(prefix + inner, 0) // width),
        projection=shapes.side(prefix + "text_projection", 1) if open_clip and whole else 0,
        pad="zero" if open_clip else "end",
    )
    known = _row(config, (row.text for row in FAMILIES.values() if not whole), _shape_of_text)
    description.check_text(known or config)
    return config


def _row(config: C, rows: Iterable[C], shape_of: Callable[[C], C]) -> C | None:
    """The known config with the same shapes, if there is one."""
    return next((row for row in rows if shape_of(row) == shape_of(config)), None)


def _shape_of_unet(config: UNetConfig) -> UNetConfig:
    return replace(config, groups=1, stages=tuple(replace(stage, heads=1) for stage in config.stages))


def _shape_of_autoencoder(config: AutoencoderConfig) -> AutoencoderConfig:
    return replace(config, groups=min(config.groups, 1), scale=1.0, shift=0.0)


def _shape_of_text(config: TextConfig) -> TextConfig:
    return replace(config, heads=1, activation="", pad="")  # skip and normed are known by then
