"""diffusers' ControlNets, T2I-Adapters and IP-Adapters with the weights of ours."""

from typing import Any

import torch
from tests.parity.peers import Comparison, compared, noise
from tests.weights.control_files import filled, spelled
from torch import Tensor

from aquatint.nets.control import ControlConfig, ControlNet, T2IAdapter
from aquatint.nets.picture_prompt import PicturePrompt
from aquatint.weights import control_names


def their_control(ours: ControlNet) -> Any:
    """diffusers' ControlNetModel with our weights, by the key map that reads its files."""
    from diffusers import ControlNetModel

    config = ours.config
    attends = [stage.depth > 0 for stage in config.stages]
    depths = [stage.depth or config.middle for stage in config.stages]
    theirs = ControlNetModel(
        in_channels=config.channels_in,
        conditioning_channels=ours.control.channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
        block_out_channels=tuple(stage.width for stage in config.stages),
        layers_per_block=config.blocks,
        norm_num_groups=config.groups,
        cross_attention_dim=config.context,
        transformer_layers_per_block=tuple(depths),
        attention_head_dim=tuple(stage.heads for stage in config.stages),  # their name for the number of heads
        use_linear_projection=config.linear,
        class_embed_type="projection" if config.vector else None,
        projection_class_embeddings_input_dim=config.vector or None,
        conditioning_embedding_out_channels=ours.control.hint,
    )
    theirs.load_state_dict(spelled(ours, control_names.diffusers_control(ours.control)), strict=True)
    return theirs.eval()


def their_adapter(ours: T2IAdapter) -> Any:
    """diffusers' T2IAdapter with our weights."""
    from diffusers import T2IAdapter as Theirs

    config = ours.config
    theirs = Theirs(
        in_channels=config.channels,
        channels=list(config.widths),
        num_res_blocks=config.blocks,
        downscale_factor=config.factor,
        adapter_type="full_adapter_xl" if config.large else "full_adapter",
    )
    theirs.load_state_dict(spelled(ours, control_names.diffusers_adapter(config)), strict=True)
    return theirs.eval()


def put_prompts(unet: Any, nets: list[PicturePrompt], weights: list[float]) -> None:
    """Put our IP-Adapters on their U-Net, as `load_ip_adapter` does with files."""
    states = []
    for net in nets:
        names = spelled(net, control_names.picture_prompt(net.config))
        parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for name, tensor in names.items():
            part, _, inner = name.partition(".")
            parts[part][inner] = tensor
        states.append(parts)
    unet._load_ip_adapter_weights(states, low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = list(weights)


@torch.no_grad()
def compare_control(name: str, config: ControlConfig, size: tuple[int, int], batch: int = 1) -> Comparison:
    """What is added to the middle, where all that a ControlNet computes comes together."""
    ours = filled(ControlNet(config))
    assert isinstance(ours, ControlNet)
    theirs, unet = their_control(ours), config.unet
    x, context = noise(batch, unet.channels_in, *size), noise(batch, 77, unet.context, seed=2)
    t, vector = torch.tensor([981.0, 21.0])[:batch], noise(batch, unet.vector, seed=4) if unet.vector else None
    hint = hint_of(5, config.factor * size[0], config.factor * size[1], config.channels)
    return compared(
        f"{name} ControlNet",
        f"{'x'.join(map(str, x.shape))}, 77 tokens",
        lambda: ours(x, t, context, vector, ours.prepare(hint))[1],
        lambda: theirs(x, t, context, hint.expand(batch, -1, -1, -1), class_labels=vector).mid_block_res_sample,
    )


def hint_of(seed: int, height: int, width: int, channels: int = 3) -> Tensor:
    """A random hint, 0 ... 1."""
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(seed))
