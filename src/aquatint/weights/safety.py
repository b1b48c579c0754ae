"""The safety checker's weights: the user's file or folder in diffusers' layout, to the net."""

from pathlib import Path
from typing import NamedTuple

import torch

from aquatint.base.errors import UserError
from aquatint.nets.safety import SafetyChecker
from aquatint.nets.text import ImageConfig
from aquatint.weights import store
from aquatint.weights.checks import check_finite
from aquatint.weights.diffusers import TEXT_LAYER
from aquatint.weights.header import FLOATS
from aquatint.weights.keymap import ITSELF, Part, Place, from_theirs, pairs

MOST_LAYERS, WIDEST, LARGEST = 64, 4_096, 1_024
_TAKES = "The folder safety_checker of a diffusers model, or its weights' file."
_BARE = (Part("", ""),)  # a tensor that belongs to no layer
_OWN = {
    "concepts": "concept_embeds",
    "limits": "concept_embeds_weights",
    "special": "special_care_embeds",
    "special_limits": "special_care_embeds_weights",
}


class OpenedChecker(NamedTuple):
    """The net, its name, and the sha256 of its file."""

    net: SafetyChecker
    name: str
    digest: str


def open_safety(path: str | Path) -> OpenedChecker:
    """The safety checker at a path; a UserError for anything else, or for weights that do not all find a place."""
    path = Path(path).expanduser()
    if path.is_dir():
        found, _ = store.find(path.resolve(), "", "model", None)
        if len(found) != 1:
            raise UserError(f'"{path}" holds no safety checker.', _TAKES)
        held = store.hold(path, [("", found[0])])
    else:
        held = store.single(path.resolve())
    inner = "vision_model.vision_model." if "vision_model.vision_model.post_layernorm.weight" in held.where else ""
    inner = inner or "vision_model."
    config = _config(held, inner)
    with torch.device("meta"):
        net = SafetyChecker(config, *(held.shapes()[_OWN[name]][0] for name in ("concepts", "special")))
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    rows = pairs(_places(config, inner), shapes)
    strange = sorted(set(held.where) - {pair.theirs for pair in rows} - {f"{inner}embeddings.position_ids"})
    missing = sorted(pair.theirs for pair in rows if pair.theirs not in held.where)
    if strange or missing:
        why = f"no place for {strange[0]}" if strange else f"it lacks {missing[0]}"
        raise UserError(f'"{path}" is no safety checker: {why}.', _TAKES)
    for pair in rows:
        entry = held.entry(pair.theirs)
        if entry.dtype not in FLOATS or entry.shape not in pair.turn.shapes([shapes[name] for name in pair.ours]):
            raise UserError(f'"{path}": {pair.theirs} is {list(entry.shape)} of {entry.dtype}.', _TAKES)
    theirs = {pair.theirs: held.tensor(pair.theirs).float() for pair in rows}
    for name, tensor in theirs.items():
        check_finite(tensor, f'"{path}": tensor {name}')
    net.load_state_dict(from_theirs(rows, theirs), strict=True, assign=True)
    return OpenedChecker(net.eval().requires_grad_(False), path.stem, held.files[0].sha256())


def _config(held: store.Held, inner: str) -> ImageConfig:
    """The tower's sizes from the shapes of its tensors; CLIP's heads are 64 numbers wide."""
    shapes = held.shapes()
    patch = shapes.get(f"{inner}embeddings.patch_embedding.weight", ())
    places = shapes.get(f"{inner}embeddings.position_embedding.weight", ())
    project = shapes.get("visual_projection.weight", ())
    feed = shapes.get(f"{inner}encoder.layers.0.mlp.fc1.weight", ())
    lists = [shapes.get(name, ()) for name in _OWN.values()]
    sound = len(patch) == 4 and len(places) == len(project) == len(feed) == 2
    if not sound or [len(shape) for shape in lists] != [2, 1, 2, 1]:
        raise UserError(f'"{held.path}" is no safety checker.', _TAKES)
    width, side = patch[0], round(max(places[0] - 1, 0) ** 0.5)
    layers = 0
    while layers <= MOST_LAYERS and f"{inner}encoder.layers.{layers}.mlp.fc1.weight" in shapes:
        layers += 1
    whole = side**2 + 1 == places[0] and width % 64 == 0 and feed[0] % width == 0 and 0 < patch[2] * side <= LARGEST
    if not whole or not 0 < layers <= MOST_LAYERS or max(width, project[0], *(shape[0] for shape in lists)) > WIDEST:
        raise UserError(f'"{held.path}" has a tower of sizes that no CLIP has.', _TAKES)
    return ImageConfig(
        size=patch[2] * side,
        patch=patch[2],
        width=width,
        layers=layers,
        heads=width // 64,
        feed=feed[0] // width,
        projection=project[0],
    )


def _places(config: ImageConfig, inner: str) -> list[Place]:
    embed = f"{inner}embeddings"
    return [
        Place("tower.summary", f"{embed}.class_embedding", _BARE),
        Place("tower.patches", f"{embed}.patch_embedding", ITSELF),
        Place("tower.places", f"{embed}.position_embedding", ITSELF),
        Place("tower.norm1", f"{inner}pre_layrnorm", ITSELF),
        *(Place(f"tower.layers.{i}", f"{inner}encoder.layers.{i}", TEXT_LAYER) for i in range(config.layers)),
        Place("tower.norm2", f"{inner}post_layernorm", ITSELF),
        Place("tower.project", "visual_projection", ITSELF),
        *(Place(ours, theirs, _BARE) for ours, theirs in _OWN.items()),
    ]
