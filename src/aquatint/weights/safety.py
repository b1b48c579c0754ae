"""The safety checker's weights: the user's file or folder in diffusers' layout, to the net."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.nets.safety import SafetyChecker
from aquatint.nets.text import ImageConfig
from aquatint.weights import control_names, store
from aquatint.weights.control_names import VISION
from aquatint.weights.controls import bounded, digest_of, opened, taken
from aquatint.weights.header import FLOATS
from aquatint.weights.keymap import Part, Place, pairs
from aquatint.weights.towers import config_of

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
    name, held, document = opened(path, "model", _TAKES)
    inner = "vision_model." + VISION if f"vision_model.{VISION}post_layernorm.weight" in held.where else VISION
    config, counts = _sizes(held, inner, document)
    with torch.device("meta"):
        net = SafetyChecker(config, *counts)
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    rows = pairs(list(_places(config, inner)), shapes)
    strange = sorted(set(held.where) - {pair.theirs for pair in rows} - {f"{inner}embeddings.position_ids"})
    missing = sorted(pair.theirs for pair in rows if pair.theirs not in held.where)
    if strange or missing:
        why = f"no place for {strange[0]}" if strange else f"it lacks {missing[0]}"
        raise UserError(f'"{path}" is no safety checker: {why}.', _TAKES)
    for pair in rows:
        entry = held.entry(pair.theirs)
        if entry.dtype not in FLOATS or entry.shape not in pair.turn.shapes([shapes[name] for name in pair.ours]):
            raise UserError(f'"{path}": {pair.theirs} is {list(entry.shape)} of {entry.dtype}.', _TAKES)
    state: dict[str, Tensor] = {}
    for pair in rows:
        state |= taken(held, pair, torch.float32, name)
    net.load_state_dict(state, strict=True, assign=True)
    return OpenedChecker(net.eval().requires_grad_(False), name, digest_of(held))


def _sizes(held: store.Held, inner: str, document: Mapping[str, Any]) -> tuple[ImageConfig, list[int]]:
    """The tower's sizes (OpenAI's CLIP, unless config.json says otherwise), and how many concepts there are of both."""
    shapes, said = held.shapes(), document.get("vision_config", document)
    lists = [shapes.get(name, ()) for name in _OWN.values()]
    if [len(shape) for shape in lists] != [2, 1, 2, 1]:
        raise UserError(f'"{held.path}" is no safety checker.', _TAKES)
    try:
        counts = [bounded(f"the number of {name}", shapes[name][0], 4_096) for name in list(_OWN.values())[::2]]
        tower = {"hidden_act": "quick_gelu"} | (said if isinstance(said, dict) else {})
        return config_of(held, inner, tower), counts
    except UserError as error:
        raise UserError(f'"{held.path}" is no safety checker: {error.got}', _TAKES) from None


def _places(config: ImageConfig, inner: str) -> Iterator[Place]:
    for place in control_names.tower(config, inner):
        yield place._replace(ours=f"tower.{place.ours}".rstrip("."))
    for ours, theirs in _OWN.items():
        yield Place(ours, theirs, _BARE)
