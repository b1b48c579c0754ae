"""The config.json of each net in a diffusers folder. A closed schema: no class is looked up, no string is followed.

A field is one that we read, one that must have the value that we compute with, or one that changes nothing; any other
is refused where it says anything (is not null), since a model that needs it would paint something else here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aquatint.base.errors import UserError, unknown
from aquatint.families import MICRO_WIDTH
from aquatint.nets.autoencoder import AutoencoderConfig
from aquatint.nets.text import ACTIVATIONS, TextConfig
from aquatint.nets.unet import Stage, UNetConfig
from aquatint.weights import description

VERSION = "0.42.1"  # of diffusers, whose layout is written here
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Fields:
    """One JSON file's schema.

    name     for messages            kinds   the class names or model types that it may say it is for
    fixed    field -> the values that we compute with, the one that diffusers takes when it is not there first
    read     fields that decide the config         inert   fields that change nothing here
    open     whether other fields are let pass (transformers writes dozens about generating text)
    """

    name: str
    kinds: tuple[str, ...]
    fixed: Mapping[str, tuple[Any, ...]]
    read: Mapping[str, Any]
    inert: frozenset[str]
    open: bool = False

    def values(self, document: Document) -> dict[str, Any]:
        """The read fields, with defaults for those that are not there, after all others were checked."""
        kind = document.get("_class_name", document.get("model_type", self.kinds[0]))
        if kind not in self.kinds:
            raise UserError(f"{self.name} is for {str(kind)[:60]!r}.", f"Known: {', '.join(self.kinds)}.")
        if "auto_map" in document:
            raise UserError(f"{self.name} asks for code of its own (auto_map).", "Data only.", "Do not trust it.")
        for name, allowed in self.fixed.items():
            value = document.get(name, allowed[0])
            if not any(value == given and type(value) is type(given) for given in allowed):
                raise UserError(
                    f"{self.name} has {name} = {str(value)[:60]}.",
                    f"Models with {name} = {' or '.join(str(given) for given in allowed)} are read.",
                )
        for name, value in document.items():
            harmless = self.open or name.startswith("_") or name in self.inert or value in (None, False)
            if name not in self.fixed and name not in self.read and not harmless:
                raise UserError(
                    f'{self.name} has a field "{name[:60]}" that is not known.',
                    "Models that need none but the known ones are read.",
                )
        return {name: document.get(name, default) for name, default in self.read.items()}

    def whole(self, values: Mapping[str, Any], name: str, *, or_none: bool = False) -> int | None:
        """A field that must be a whole number."""
        value = values[name]
        if value is None and or_none:
            return None
        if type(value) is not int:
            raise UserError(f"{self.name} has {name} = {str(value)[:60]}.", "A whole number.")
        return value

    def number(self, values: Mapping[str, Any], name: str) -> float:
        """A field that must be a number."""
        value = values[name]
        if type(value) not in (int, float):
            raise UserError(f"{self.name} has {name} = {str(value)[:60]}.", "A number.")
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{self.name} has an absurd {name}.", "A number.") from None

    def wholes(self, values: Mapping[str, Any], name: str, count: int | None = None) -> list[int]:
        """A field that must be a list of whole numbers, or with `count` one number for all of them."""
        value = values[name]
        if count is not None and type(value) is int:
            return [value] * count
        fits = isinstance(value, list) and all(type(item) is int for item in value) and 1 <= len(value) <= 8
        if not fits or (count is not None and len(value) != count):
            raise UserError(f"{self.name} has {name} = {str(value)[:60]}.", "A list of whole numbers, one a block.")
        return list(value)

    def blocks(self, values: Mapping[str, Any], name: str, known: Sequence[str]) -> list[str]:
        """A field that must be a list of known block names."""
        value = values[name]
        if not isinstance(value, list) or not 1 <= len(value) <= 8:
            raise UserError(f"{self.name} has {name} = {str(value)[:60]}.", "A list of block names.")
        for block in value:
            if block not in known:
                raise UserError(f"{self.name} has a block {str(block)[:60]!r}.", f"Known: {', '.join(known)}.")
        return value


UNET = Fields(
    "unet/config.json",
    ("UNet2DConditionModel",),
    fixed={
        "act_fn": ("silu",),
        "center_input_sample": (False,),
        "flip_sin_to_cos": (True,),
        "freq_shift": (0,),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "only_cross_attention": (False,),
        "downsample_padding": (1,),
        "mid_block_scale_factor": (1, 1.0),
        "norm_eps": (1e-05,),
        "dual_cross_attention": (False,),
        "resnet_time_scale_shift": ("default",),
        "resnet_out_scale_factor": (1.0, 1),
        "time_embedding_type": ("positional",),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "attention_type": ("default",),
        "class_embed_type": (None, "projection"),
        "addition_embed_type": (None, "text_time"),
        "addition_time_embed_dim": (None, MICRO_WIDTH),
    },
    read={
        "in_channels": 4,
        "out_channels": 4,
        "sample_size": None,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "attention_head_dim": 8,
        "num_attention_heads": None,
        "use_linear_projection": False,
        "projection_class_embeddings_input_dim": None,
        "time_cond_proj_dim": None,
    },
    inert=frozenset(
        (
            "dropout",
            "upcast_attention",
            "addition_embed_type_num_heads",
            "num_class_embeds",
            # What a run that saved its averaged weights leaves behind:
            "decay",
            "inv_gamma",
            "min_decay",
            "power",
            "optimization_step",
            "update_after_step",
            "use_ema_warmup",
        )
    ),
)
AUTOENCODER = Fields(
    "vae/config.json",
    ("AutoencoderKL",),
    fixed={
        "act_fn": ("silu",),
        "use_quant_conv": (True,),
        "use_post_quant_conv": (True,),
        "latents_mean": (None,),
        "latents_std": (None,),
    },
    read={
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D"],
        "block_out_channels": [64],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
        "shift_factor": None,
        "mid_block_add_attention": True,
    },
    inert=frozenset(("force_upcast", "sample_size")),
)
TEXT = Fields(
    "text_encoder/config.json",
    ("clip_text_model",),
    fixed={"layer_norm_eps": (1e-05,), "architectures": (["CLIPTextModel"], ["CLIPTextModelWithProjection"], None)},
    read={
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": 512,
        "architectures": None,
    },
    inert=frozenset(),
    open=True,
)


def unet(document: Document) -> UNetConfig:
    """unet/config.json as a config."""
    values = UNET.values(document)
    widths = UNET.wholes(values, "block_out_channels")
    count = len(widths)
    down = UNET.blocks(values, "down_block_types", ("CrossAttnDownBlock2D", "DownBlock2D"))
    up = UNET.blocks(values, "up_block_types", ("CrossAttnUpBlock2D", "UpBlock2D"))
    if len(down) != count or [block.replace("Up", "Down") for block in reversed(up)] != down:
        raise UserError("unet/config.json goes up by other blocks than down.", "As many up as down, mirrored.")
    # What diffusers calls attention_head_dim is the number of heads, unless num_attention_heads says that.
    heads = UNET.wholes(
        values, "attention_head_dim" if values["num_attention_heads"] is None else "num_attention_heads", count
    )
    depths = UNET.wholes(values, "transformer_layers_per_block", count)
    stages = tuple(
        Stage(width, head, depth if block.startswith("Cross") else 0)
        for width, head, depth, block in zip(widths, heads, depths, down, strict=True)
    )
    blocks = set(UNET.wholes(values, "layers_per_block", count))
    contexts = set(UNET.wholes(values, "cross_attention_dim", count))
    if len(blocks) != 1 or len(contexts) != 1:
        raise UserError("unet/config.json differs in blocks or text width from stage to stage.", "The same in each.")
    vector = UNET.whole(values, "projection_class_embeddings_input_dim", or_none=True)
    config = UNetConfig(
        stages=stages,
        blocks=blocks.pop(),
        middle=depths[-1],
        channels_in=UNET.whole(values, "in_channels") or 0,
        channels_out=UNET.whole(values, "out_channels") or 0,
        context=contexts.pop(),
        vector=(vector or 0) if document.get("class_embed_type") or document.get("addition_embed_type") else 0,
        groups=UNET.whole(values, "norm_num_groups") or 0,
        linear=values["use_linear_projection"] is True,
        guidance=UNET.whole(values, "time_cond_proj_dim", or_none=True) or 0,
    )
    description.check_unet(config)
    return config


def unet_document(config: UNetConfig, sample_size: int, *, added: bool = False) -> dict[str, Any]:
    """unet/config.json for a config; `added` if its vector is Stable Diffusion XL's."""
    heads = [stage.heads for stage in config.stages]
    # One number serves a stage and, from the last stage, the middle too; a stage without attention ignores its own.
    depths = [stage.depth or 1 for stage in config.stages[:-1]] + [config.middle]
    cross = [bool(stage.depth) for stage in config.stages]
    values = {
        "in_channels": config.channels_in,
        "out_channels": config.channels_out,
        "sample_size": sample_size,
        "down_block_types": ["CrossAttnDownBlock2D" if crosses else "DownBlock2D" for crosses in cross],
        "up_block_types": ["CrossAttnUpBlock2D" if crosses else "UpBlock2D" for crosses in reversed(cross)],
        "block_out_channels": [stage.width for stage in config.stages],
        "layers_per_block": config.blocks,
        "norm_num_groups": config.groups,
        "cross_attention_dim": config.context,
        "transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths,
        "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,
        "num_attention_heads": None,
        "use_linear_projection": config.linear,
        "projection_class_embeddings_input_dim": config.vector or None,
        "class_embed_type": "projection" if config.vector and not added else None,
        "addition_embed_type": "text_time" if added else None,
        "addition_time_embed_dim": MICRO_WIDTH if added else None,
        "time_cond_proj_dim": config.guidance or None,
    }
    return _document(UNET, values)


def autoencoder(document: Document) -> AutoencoderConfig:
    """vae/config.json as a config."""
    values = AUTOENCODER.values(document)
    widths = AUTOENCODER.wholes(values, "block_out_channels")
    down = AUTOENCODER.blocks(values, "down_block_types", ("DownEncoderBlock2D",))
    up = AUTOENCODER.blocks(values, "up_block_types", ("UpDecoderBlock2D",))
    if not len(down) == len(up) == len(widths) or values["in_channels"] != values["out_channels"]:
        raise UserError("vae/config.json goes up by other blocks than down.", "As many up as down, mirrored.")
    config = AutoencoderConfig(
        encoder=tuple(widths),
        decoder=tuple(widths),
        blocks=AUTOENCODER.whole(values, "layers_per_block") or 0,
        channels=AUTOENCODER.whole(values, "in_channels") or 0,
        latents=AUTOENCODER.whole(values, "latent_channels") or 0,
        groups=AUTOENCODER.whole(values, "norm_num_groups") or 0,
        middle_attention=values["mid_block_add_attention"] is not False,
        scale=AUTOENCODER.number(values, "scaling_factor"),
        shift=0.0 if values["shift_factor"] is None else AUTOENCODER.number(values, "shift_factor"),
    )
    description.check_autoencoder(config)
    return config


def autoencoder_document(config: AutoencoderConfig, sample_size: int) -> dict[str, Any]:
    """vae/config.json for a config."""
    count = len(config.encoder)
    values = {
        "in_channels": config.channels,
        "out_channels": config.channels,
        "down_block_types": ["DownEncoderBlock2D"] * count,
        "up_block_types": ["UpDecoderBlock2D"] * count,
        "block_out_channels": list(config.encoder),
        "layers_per_block": config.blocks,
        "latent_channels": config.latents,
        "norm_num_groups": config.groups,
        "scaling_factor": config.scale,
        "shift_factor": config.shift or None,
        "mid_block_add_attention": config.middle_attention,
        "sample_size": sample_size,
        "force_upcast": True,
    }
    return _document(AUTOENCODER, values)


def text(document: Document, pad: str) -> TextConfig:
    """text_encoder/config.json as a config; the padding is the tokenizer's."""
    values = TEXT.values(document)
    activation = values["hidden_act"]
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise unknown("activation", str(activation)[:60], ACTIVATIONS)
    width, inner = TEXT.whole(values, "hidden_size") or 0, TEXT.whole(values, "intermediate_size") or 0
    if width < 1 or inner % width:
        raise UserError(f"text_encoder/config.json has {inner} for a feed-forward in width {width}.", "A multiple.")
    projected = values["architectures"] == ["CLIPTextModelWithProjection"]
    config = TextConfig(
        width=width,
        layers=TEXT.whole(values, "num_hidden_layers") or 0,
        heads=TEXT.whole(values, "num_attention_heads") or 0,
        vocabulary=TEXT.whole(values, "vocab_size") or 0,
        positions=TEXT.whole(values, "max_position_embeddings") or 0,
        activation=activation,
        feed=inner // width,
        projection=(TEXT.whole(values, "projection_dim") or 0) if projected else 0,
        pad=pad,
    )
    description.check_text(config)
    return config


def text_document(config: TextConfig) -> dict[str, Any]:
    """text_encoder/config.json for a config."""
    end = config.vocabulary - 1
    return {
        "architectures": ["CLIPTextModelWithProjection" if config.projection else "CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": end - 1,
        "dropout": 0.0,
        "eos_token_id": end,
        "hidden_act": config.activation,
        "hidden_size": config.width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": config.feed * config.width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": config.positions,
        "model_type": "clip_text_model",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "pad_token_id": end if config.pad == "end" else 0,
        "projection_dim": config.projection or config.width,
        "torch_dtype": "float32",
        "vocab_size": config.vocabulary,
    }


def _document(fields: Fields, values: Mapping[str, Any]) -> dict[str, Any]:
    """Every field that we know, in alphabetical order, as diffusers writes it."""
    fixed = {name: allowed[0] for name, allowed in fields.fixed.items()}
    whole = {"_class_name": fields.kinds[0], "_diffusers_version": VERSION, **fixed, **values}
    return dict(sorted(whole.items()))
