"""A whole CLIP from the user's folder: its text and image halves with their projections, and the tokenizer.

Read is what transformers saves for CLIPModel (config.json), and OpenCLIP's names (open_clip_config.json), which are
OpenAI's too. Shapes tell the sizes; heads and the activation, which no shape tells, must stand in the JSON.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from aquatint.base.errors import UserError
from aquatint.nets.text import ImageConfig, ImageTower, TextConfig, TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.weights import compvis, control_names, description, diffusers, store, towers
from aquatint.weights.control_names import VISION, count
from aquatint.weights.controls import bounded, digest_of, taken
from aquatint.weights.header import FLOATS
from aquatint.weights.keymap import ITSELF, TURNED, Part, Place, hollow, pairs

TAKES = "A folder with a whole CLIP: transformers' (config.json) or OpenCLIP's (open_clip_config.json)."
TEXT = "text_model."
VISUAL = "visual."  # OpenCLIP's image half
PASSED = (
    "logit_scale",
    "logit_bias",
    "attn_mask",
    f"{TEXT}embeddings.position_ids",
    f"{VISION}embeddings.position_ids",
)


@dataclass(frozen=True)
class Clip:
    """Both halves, ready to ask, on the CPU in float32; digest is the sha256 of the weights' file."""

    text: TextEncoder
    image: ImageTower
    tokenizer: Tokenizer
    name: str
    digest: str


def open_clip(path: str | Path) -> Clip:
    """Open a folder; UserError for one that holds no CLIP, or one that is not whole or not told."""
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f'"{str(path)[:200]}" is no folder.', TAKES, "Check the path.")
    try:
        return _opened(root)
    except UserError as error:
        raise UserError(f'"{root}": {error.got}', error.takes or TAKES, error.remedy) from None


@torch.no_grad()
def _opened(root: Path) -> Clip:
    theirs, ours = store.document(root, "config.json"), store.document(root, "open_clip_config.json")
    stem = "open_clip_model" if ours is not None else "model"
    found, _ = store.find(root, "", stem, None)
    if not found and ours is not None:
        found, _ = store.find(root, "", "open_clip_pytorch_model", None)
    document = theirs if ours is None else ours
    if not found or document is None:
        raise UserError(f"it has no {stem}.safetensors with its JSON.", TAKES)
    held = store.hold(root, [("", file) for file in found])
    read = _hugging if ours is None else _open_clip
    text, image, places = read(held, document)
    nets = (hollow(lambda: TextEncoder(text)), hollow(lambda: ImageTower(image)))
    _fill(held, nets, places)
    tokenizer = _tokenizer(root, text)
    return Clip(cast(TextEncoder, nets[0]), cast(ImageTower, nets[1]), tokenizer, root.name, digest_of(held))


def _fill(held: store.Held, nets: tuple[nn.Module, nn.Module], places: tuple[list[Place], list[Place]]) -> None:
    """The file's weights into both nets, each tensor in its place and none left over."""
    tables = []
    for net, their_places in zip(nets, places, strict=True):
        shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
        table = pairs(their_places, shapes)
        for pair in table:
            there = held.shapes().get(pair.theirs)
            if there not in pair.turn.shapes([shapes[name] for name in pair.ours]):
                raise UserError(f"{pair.theirs} is {'missing' if there is None else list(there)}.", TAKES)
            if held.entry(pair.theirs).dtype not in FLOATS:
                raise UserError(f"{pair.theirs} is stored as {held.entry(pair.theirs).dtype}.", "Numbers.")
        tables.append(table)
    claimed = {pair.theirs for table in tables for pair in table}
    if strange := sorted(name for name in held.where if name not in claimed and name not in PASSED):
        raise UserError(f"{strange[0][:100]} has no place in a CLIP.", TAKES)
    for net, table in zip(nets, tables, strict=True):
        state: dict[str, Tensor] = {}
        for pair in table:
            state |= taken(held, pair, torch.float32, held.path.name)
        net.load_state_dict(state, strict=True, assign=True)
        net.eval().requires_grad_(False)


def _hugging(
    held: store.Held, document: Mapping[str, Any]
) -> tuple[TextConfig, ImageConfig, tuple[list[Place], list[Place]]]:
    """transformers' CLIPModel; where its JSON is silent, its own defaults hold."""
    said = _inner(document, "text_config")
    layer = "encoder.layers.{}.layer_norm1.weight"
    text = _text(
        held,
        words=f"{TEXT}embeddings.token_embedding.weight",
        places=f"{TEXT}embeddings.position_embedding.weight",
        enter=f"{TEXT}encoder.layers.0.mlp.fc1.weight",
        layer=TEXT + layer,
        projection=("text_projection.weight", 0),
        heads=said.get("num_attention_heads", 8),
        activation=said.get("hidden_act", "quick_gelu"),
    )
    if said.get("layer_norm_eps", 1e-5) != 1e-5:
        raise UserError(f"it has layer_norm_eps = {str(said['layer_norm_eps'])[:40]}.", "1e-05.")
    usual = {"num_attention_heads": 12, "hidden_act": "quick_gelu"}
    image = towers.config_of(held, VISION, usual | _inner(document, "vision_config"))
    return text, image, ([*diffusers.text_places(text, TEXT, "text_projection")], [*control_names.tower(image)])


def _open_clip(
    held: store.Held, document: Mapping[str, Any]
) -> tuple[TextConfig, ImageConfig, tuple[list[Place], list[Place]]]:
    """OpenCLIP's CLIP with a vision transformer."""
    model = _inner(document, "model_cfg")
    seen, said = _inner(model, "vision_cfg"), _inner(model, "text_cfg")
    activation = "quick_gelu" if model.get("quick_gelu") is True else "gelu"
    text = _text(
        held,
        words="token_embedding.weight",
        places="positional_embedding",
        enter="transformer.resblocks.0.mlp.c_fc.weight",
        layer="transformer.resblocks.{}.ln_1.weight",
        projection=("text_projection", 1),
        heads=said.get("heads", 8),
        activation=activation,
    )
    shapes = held.shapes()
    width, patch = (_side(shapes, f"{VISUAL}conv1.weight", axis) for axis in (0, 2))
    across = max(1, round((_side(shapes, f"{VISUAL}positional_embedding", 0) - 1) ** 0.5))
    share = seen.get("head_width", 64)
    if type(share) is not int or share < 1 or width % share:
        raise UserError(f"its heads are {str(share)[:40]} of {width} wide.", "A divisor of the width.")
    image = ImageConfig(
        size=across * patch,
        patch=patch,
        width=width,
        layers=count(shapes, VISUAL + "transformer.resblocks.{}.ln_1.weight"),
        heads=width // share,
        activation=activation,
        projection=_side(shapes, f"{VISUAL}proj", 1),
        hidden=_side(shapes, f"{VISUAL}transformer.resblocks.0.mlp.c_fc.weight", 0),
    )
    return text, image, ([*compvis.open_clip_places(text, "")], [*_open_clip_tower(image)])


def _open_clip_tower(config: ImageConfig) -> Iterator[Place]:
    """OpenCLIP's VisionTransformer."""
    yield Place("", VISUAL, (Part("summary", "class_embedding"), Part("places.weight", "positional_embedding")))
    yield Place("patches", f"{VISUAL}conv1", ITSELF)
    yield Place("norm1", f"{VISUAL}ln_pre", ITSELF)
    for index in range(config.layers):
        yield Place(f"layers.{index}", f"{VISUAL}transformer.resblocks.{index}", compvis.OPEN_CLIP_LAYER)
    yield Place("norm2", f"{VISUAL}ln_post", ITSELF)
    yield Place("project", f"{VISUAL}proj", (Part("weight", "", TURNED),))


def _text(
    held: store.Held,
    *,
    words: str,
    places: str,
    enter: str,
    layer: str,
    projection: tuple[str, int],
    heads: Any,
    activation: Any,
) -> TextConfig:
    """The text half's config from its shapes, and the two things that JSON says."""
    shapes = held.shapes()
    width = _side(shapes, words, 1)
    if type(heads) is not int or heads < 1:
        raise UserError(f"its text half has {str(heads)[:40]} heads.", "A whole number.")
    config = TextConfig(
        width=width,
        layers=count(shapes, layer),
        heads=heads,
        vocabulary=_side(shapes, words, 0, 10_000_000),
        positions=_side(shapes, places, 0),
        activation=str(activation)[:80],
        feed=max(1, _side(shapes, enter, 0) // width),
        projection=_side(shapes, *projection),
    )
    description.check_text(config)
    return config


def _tokenizer(root: Path, text: TextConfig) -> Tokenizer:
    """The folder's tokenizer, or CLIP's own where it has none."""
    beside = (root / "tokenizer.json").is_file() or (root / "merges.txt").is_file()
    made = Tokenizer.from_folder(root, pad="end") if beside else Tokenizer.packaged()
    if made.vocabulary != text.vocabulary:
        raise UserError(
            f"its tokenizer has {made.vocabulary:,} tokens, its text half {text.vocabulary:,}.", "Parts of one model."
        )
    return made


def _inner(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    inner = document.get(name)
    if not isinstance(inner, dict):
        raise UserError(f"its JSON has no {name}.", TAKES)
    return inner


def _side(shapes: Mapping[str, tuple[int, ...]], name: str, axis: int, high: int = 16_384) -> int:
    shape = shapes.get(name, ())
    if axis >= len(shape):
        raise UserError(f"{name} is missing, or has too few sides.", TAKES)
    return bounded(f"a side of {name}", shape[axis], high)
