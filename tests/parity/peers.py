"""What the parity tests share: random weights at a realistic scale, peers with the same weights, and how far apart."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aquatint.families import MICRO_WIDTH
from aquatint.nets.autoencoder import Autoencoder, AutoencoderConfig
from aquatint.nets.distilled import hearing
from aquatint.nets.text import ImageConfig, ImageTower, TextConfig, TextEncoder
from aquatint.nets.unet import UNet, UNetConfig
from aquatint.pipelines.micro import embedded
from aquatint.weights import diffusers as names
from aquatint.weights import keymap

RMS, MAX = 1e-5, 1e-4  # of the output's standard deviation: the house's bounds for float32 on the CPU


class Difference(NamedTuple):
    """How far an output is from the reference, in units of the reference's standard deviation."""

    rms: float
    max: float

    @property
    def within(self) -> bool:
        """Whether it keeps the house's bounds (what is not a number does not)."""
        return self.rms <= RMS and self.max <= MAX


class Comparison(NamedTuple):
    """One network run by us and by the peer."""

    network: str
    shape: str
    difference: Difference
    ours: float  # seconds
    theirs: float


def difference(ours: Tensor, theirs: Tensor) -> Difference:
    """Of two outputs of one shape; the reference must be alive (finite, deviation neither tiny nor enormous)."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} against {tuple(theirs.shape)}"
    scale = theirs.double().std()
    assert 0.03 < scale < 100.0, f"an output of deviation {scale:.2g} proves little"
    delta = (ours.double() - theirs.double()) / scale
    return Difference(float(delta.square().mean().sqrt()), float(delta.abs().max()))


def noise(*shape: int, seed: int = 1) -> Tensor:
    """A standard normal tensor, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> None:
    """Set every weight so that none is zero or one and activations keep their size: biases and norms too."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            weight.normal_(generator=generator)
            if name == "bias":
                weight.mul_(0.1)
            elif isinstance(part, nn.GroupNorm | nn.LayerNorm):
                weight.mul_(0.2).add_(1.0)
            elif isinstance(part, nn.Linear | nn.Conv2d):
                weight.mul_(1.0 / math.sqrt(weight[0].numel()))
            else:  # embeddings
                weight.mul_(0.5)


@torch.no_grad()
def pour(ours: nn.Module, theirs: nn.Module, table: Mapping[str, str]) -> None:
    """Give `theirs` the weights of `ours`: {our submodule: their submodule}, and every tensor must find its place."""
    filled = {}
    for inner, outer in table.items():
        for name, tensor in ours.get_submodule(inner).state_dict().items():
            filled[f"{outer}.{name}"] = tensor
    assert len(filled) == len(ours.state_dict()), "the table does not name every tensor of ours once"
    theirs.load_state_dict(filled, strict=True)


def unet_twins(config: UNetConfig, seed: int = 0, *, added: bool = False) -> tuple[UNet, nn.Module]:
    """Our U-Net and diffusers', sharing one set of random weights (and its memory).

    added   whether theirs makes its vector itself, of pooled text and numbers, as Stable Diffusion XL's does
    """
    from diffusers import UNet2DConditionModel

    ours = _made(config, seed)
    assert isinstance(ours, UNet)
    attends = [stage.depth > 0 for stage in config.stages]
    depths = [stage.depth or config.middle for stage in config.stages]
    assert depths[-1] == config.middle, "diffusers gives the middle the last stage's depth"
    with torch.device("meta"):
        theirs = UNet2DConditionModel(
            in_channels=config.channels_in,
            out_channels=config.channels_out,
            down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)),
            block_out_channels=tuple(stage.width for stage in config.stages),
            layers_per_block=config.blocks,
            cross_attention_dim=config.context,
            attention_head_dim=tuple(stage.heads for stage in config.stages),  # their name for the number of heads
            transformer_layers_per_block=tuple(depths),
            norm_num_groups=config.groups,
            use_linear_projection=config.linear,
            class_embed_type="projection" if config.vector and not added else None,
            addition_embed_type="text_time" if added else None,
            addition_time_embed_dim=MICRO_WIDTH if added else None,
            projection_class_embeddings_input_dim=config.vector or None,
            time_cond_proj_dim=config.guidance or None,
        )
    return ours, _given(ours, theirs, config)


def autoencoder_twins(config: AutoencoderConfig, seed: int = 0) -> tuple[Autoencoder, nn.Module]:
    """Our autoencoder and diffusers', sharing one set of random weights."""
    from diffusers import AutoencoderKL

    ours = _made(config, seed)
    assert isinstance(ours, Autoencoder)
    assert config.encoder == config.decoder, "diffusers has one list of widths"
    levels = len(config.encoder)
    with torch.device("meta"):
        theirs = AutoencoderKL(
            in_channels=config.channels,
            out_channels=config.channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.encoder,
            layers_per_block=config.blocks,
            latent_channels=config.latents,
            norm_num_groups=config.groups,
            mid_block_add_attention=config.middle_attention,
        )
    return ours, _given(ours, theirs, config)


def text_twins(config: TextConfig, seed: int = 0) -> tuple[TextEncoder, nn.Module]:
    """Our text encoder and transformers' (the one with a projection where ours has one)."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    ours = _made(config, seed)
    assert isinstance(ours, TextEncoder)
    made = CLIPTextModelWithProjection if config.projection else CLIPTextModel
    theirs = made(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.feed * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.positions,
            hidden_act=config.activation,
            projection_dim=config.projection or config.width,
            bos_token_id=config.vocabulary - 2,
            eos_token_id=config.vocabulary - 1,
            pad_token_id=config.vocabulary - 1 if config.pad == "end" else 0,
        )
    )
    return ours, _given(ours, theirs, config)


def image_twins(config: ImageConfig, seed: int = 0) -> tuple[ImageTower, nn.Module]:
    """Our image tower and transformers'."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    ours = ImageTower(config)
    randomise(ours, seed)
    theirs = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=config.feed * config.width,
            projection_dim=config.projection,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.size,
            patch_size=config.patch,
            hidden_act=config.activation,
        )
    ).eval()
    embed, inner = "vision_model.embeddings", "vision_model.encoder.layers"
    filled = {
        f"{embed}.class_embedding": ours.summary,
        f"{embed}.patch_embedding.weight": ours.patches.weight,
        f"{embed}.position_embedding.weight": ours.places.weight,
        "visual_projection.weight": ours.project.weight,
    }
    places = [
        keymap.Place("norm1", "vision_model.pre_layrnorm", keymap.ITSELF),
        keymap.Place("norm2", "vision_model.post_layernorm", keymap.ITSELF),
        *(keymap.Place(f"layers.{index}", f"{inner}.{index}", names.TEXT_LAYER) for index in range(config.layers)),
    ]
    weights = {
        name: tensor for name, tensor in ours.state_dict().items() if name.split(".")[0] in ("norm1", "norm2", "layers")
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    filled |= keymap.to_theirs(keymap.pairs(places, shapes), weights)
    theirs.load_state_dict(filled, strict=True)
    return ours, theirs


def prompts(config: TextConfig, count: int) -> Tensor:
    """Token ids [count, positions] of texts of many lengths, the empty and the overfull among them."""
    generator = torch.Generator().manual_seed(3)
    end = config.vocabulary - 1
    ids = torch.randint(1, end - 1, (count, config.positions), generator=generator)
    lengths = torch.linspace(0, config.positions - 2, count).round().long()
    for row, length in zip(ids, lengths, strict=True):
        row[0] = end - 1
        row[1 + length] = end
        row[2 + length :] = end if config.pad == "end" else 0
    return ids


@torch.no_grad()
def compare_unet(
    name: str,
    config: UNetConfig,
    size: tuple[int, int],
    batch: int = 2,
    tokens: int = 77,
    numbers: tuple[float, ...] = (),
) -> Comparison:
    """One evaluation at different times for each row of the batch.

    numbers   what Stable Diffusion XL is told beside the pooled text: theirs is given these, ours their sinusoids
    """
    ours, theirs = unet_twins(config, added=bool(numbers))
    x, context = noise(batch, config.channels_in, *size), noise(batch, tokens, config.context, seed=2)
    t = torch.tensor([981.0, 21.0, 500.0, 0.0])[:batch]
    pooled = noise(batch, config.vector - MICRO_WIDTH * len(numbers), seed=4) if config.vector else None
    told: dict[str, Any] = {"class_labels": pooled}
    vector = pooled
    if pooled is not None and numbers:
        ids = torch.tensor(numbers).repeat(batch, 1)
        told = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
        vector = torch.cat([pooled, embedded(numbers).repeat(batch, 1)], dim=1)
    if config.guidance:
        ours, _ = hearing(ours, 7.5)
        told["timestep_cond"] = guidance_embedding(torch.full((batch,), 6.5), config.guidance)
    return compared(
        f"{name} U-Net",
        f"{_shape(x)}, {tokens} tokens",
        lambda: ours(x, t, context, vector),
        lambda: theirs(x, t, context, **told).sample,
    )


def guidance_embedding(w: Tensor, width: int) -> Tensor:
    """What diffusers' latent consistency pipeline tells its U-Net of the guidance."""
    from diffusers import LatentConsistencyModelPipeline

    made: Tensor = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, w, embedding_dim=width)
    return made


@torch.no_grad()
def compare_autoencoder(
    name: str, config: AutoencoderConfig, size: tuple[int, int], batch: int = 1
) -> list[Comparison]:
    """A sample of the posterior for given noise, and a picture from latents."""
    ours, theirs = autoencoder_twins(config)
    pictures = noise(batch, config.channels, *size).clamp(-1.0, 1.0)
    latent = (batch, config.latents, size[0] // config.factor, size[1] // config.factor)
    eps, latents = noise(*latent, seed=2), noise(*latent, seed=3)

    def encode() -> Tensor:
        posterior = theirs.encode(pictures).latent_dist
        return (posterior.mean + posterior.std * eps - config.shift) * config.scale

    return [
        compared(f"{name} encoder", _shape(pictures), lambda: ours.encode(pictures, eps), encode),
        compared(
            f"{name} decoder",
            _shape(latents),
            lambda: ours.decode(latents),
            lambda: theirs.decode(latents / config.scale + config.shift).sample,
        ),
    ]


@torch.no_grad()
def compare_text(name: str, config: TextConfig, batch: int = 4) -> Comparison:
    """The embeddings of every token, after the layer that is read, normed or not."""
    ours, theirs = text_twins(config)
    ids = prompts(config, batch)

    def read() -> Tensor:
        if config.normed and not config.skip:
            return theirs(ids).last_hidden_state
        states = theirs(ids, output_hidden_states=True).hidden_states[-1 - config.skip]
        return getattr(theirs, "text_model", theirs).final_layer_norm(states) if config.normed else states

    return compared(f"{name} text encoder", _shape(ids), lambda: ours(ids).tokens, read)


@torch.no_grad()
def compare_image(name: str, config: ImageConfig, batch: int = 2) -> Comparison:
    """The projected vectors."""
    ours, theirs = image_twins(config)
    pictures = noise(batch, 3, config.size, config.size)
    return compared(
        f"{name} image tower", _shape(pictures), lambda: ours(pictures), lambda: theirs(pictures).image_embeds
    )


def compared(network: str, shape: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> Comparison:
    """Both run once, in this order."""
    outputs, seconds = [], []
    for run in (ours, theirs):
        start = time.perf_counter()
        outputs.append(run())
        seconds.append(time.perf_counter() - start)
    return Comparison(network, shape, difference(*outputs), *seconds)


def _made(config: keymap.Config, seed: int) -> nn.Module:
    ours = keymap.empty(config).to_empty(device="cpu").eval()
    randomise(ours, seed)
    return ours


def _given(ours: nn.Module, theirs: nn.Module, config: keymap.Config) -> Any:
    """The peer with our weights, by the same key map that reads checkpoints: so map and forward are proven together."""
    pairs = names.pairs(config, theirs.state_dict().keys())
    theirs.load_state_dict(keymap.to_theirs(pairs, ours.state_dict()), strict=True, assign=True)
    return theirs.eval()


def _shape(x: Tensor) -> str:
    return "x".join(map(str, x.shape))
