"""CLIP's image half from the user's file: what an IP-Adapter looks at pictures with.

Read is what transformers saves for CLIPVisionModelWithProjection, as a folder or as its file alone, and the image half
of a whole CLIP. Shapes tell all but the heads and the activation; those are config.json's word, or that of the towers
that are published.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from aquatint.base.errors import UserError, unknown
from aquatint.nets.text import ACTIVATIONS, ImageConfig, ImageTower
from aquatint.weights import control_names, store
from aquatint.weights.control_names import VISION, count
from aquatint.weights.controls import bounded, digest_of, opened, taken
from aquatint.weights.header import FLOATS
from aquatint.weights.keymap import hollow, pairs

# By width: heads and activation of OpenAI's B and L, and of OpenCLIP's H, g and bigG, whose heads are wider than 64.
KNOWN = {
    768: (12, "quick_gelu"),
    1024: (16, "quick_gelu"),
    1280: (16, "gelu"),
    1408: (16, "gelu"),
    1664: (16, "gelu"),
}
TAKES = "CLIP's image half as transformers saves it (CLIPVisionModelWithProjection)."
# Of a whole CLIP, and what changes nothing.
LEFT_OVER = ("text_model.", "text_projection.", "logit_scale", "vision_model.embeddings.position_ids", "embeddings.pos")


@dataclass(frozen=True)
class TowerFile:
    """A file with an image tower, opened; its weights are not yet read."""

    name: str
    held: store.Held
    config: ImageConfig
    prefix: str
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 of the file (of a folder: of its weights)."""
        return digest_of(self.held)


def open_tower(path: str | Path) -> TowerFile:
    """An image tower's file or folder; UserError for what is none."""
    name, held, document = opened(path, "model", TAKES)
    prefix = VISION if f"{VISION}embeddings.class_embedding" in held.where else ""
    if f"{prefix}embeddings.class_embedding" not in held.where or "visual_projection.weight" not in held.where:
        examples = ", ".join(name[:80] for name in sorted(held.where)[:3])
        raise UserError(f'"{path}" is no image encoder (it holds {examples}).', TAKES)
    try:
        config = config_of(held, prefix, document)
    except UserError as error:
        raise UserError(f'"{path}": {error.got}', error.takes, error.remedy) from None
    return TowerFile(name, held, config, prefix, document)


@torch.no_grad()
def build_tower(file: TowerFile, dtype: torch.dtype = torch.float32) -> ImageTower:
    """The tower with the file's weights; UserError where they are not whole."""
    ours = {name: tuple(tensor.shape) for name, tensor in hollow(lambda: ImageTower(file.config)).state_dict().items()}
    table = pairs(control_names.tower(file.config, file.prefix), ours)
    there = file.held.shapes()
    for pair in table:
        if there.get(pair.theirs) != ours[pair.ours[0]] or file.held.entry(pair.theirs).dtype not in FLOATS:
            raise UserError(f'"{file.name}": {pair.theirs} is missing, or does not fit.', TAKES, "Fetch it again.")
    strange = [name for name in there.keys() - {pair.theirs for pair in table} if not name.startswith(LEFT_OVER)]
    if strange:
        raise UserError(f'"{file.name}": {min(strange)[:100]} has no place in an image encoder.', TAKES)
    state: dict[str, Tensor] = {}
    for pair in table:
        state |= taken(file.held, pair, dtype, file.name)
    net = cast(ImageTower, hollow(lambda: ImageTower(file.config)))
    net.load_state_dict(state, strict=True, assign=True)
    return net.eval().requires_grad_(False)


def config_of(held: store.Held, prefix: str, document: Mapping[str, Any]) -> ImageConfig:
    """What the shapes say, and the document or the published towers where they say nothing."""
    shapes = held.shapes()
    said = document.get("vision_config", document)
    said = said if isinstance(said, dict) else {}

    def side(name: str, axis: int) -> int:
        shape = shapes.get(name, ())
        if axis >= len(shape) or not shape[axis]:
            raise UserError(f"{name} is missing, or has too few sides.", TAKES, "Fetch it again.")
        return bounded(f"a side of {name}", shape[axis])

    width, patch = (side(f"{prefix}embeddings.patch_embedding.weight", axis) for axis in (0, 2))
    across = max(1, round((side(f"{prefix}embeddings.position_embedding.weight", 0) - 1) ** 0.5))
    hidden = side(f"{prefix}encoder.layers.0.mlp.fc1.weight", 0)
    usual = KNOWN.get(width, (max(1, width // 64), "gelu"))
    heads, activation = said.get("num_attention_heads", usual[0]), said.get("hidden_act", usual[1])
    if type(heads) is not int or heads < 1 or width % heads:
        raise UserError(f"it has {str(heads)[:40]} heads for a width of {width}.", "A divisor of the width.")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise unknown("activation", str(activation)[:80], ACTIVATIONS)
    if said.get("layer_norm_eps", 1e-5) != 1e-5:
        raise UserError(f"it has layer_norm_eps = {str(said['layer_norm_eps'])[:40]}.", "1e-05.")
    return ImageConfig(
        size=across * patch,
        patch=patch,
        width=width,
        layers=count(shapes, prefix + "encoder.layers.{}.layer_norm1.weight"),
        heads=heads,
        activation=activation,
        projection=side("visual_projection.weight", 0),
        hidden=hidden,
    )
