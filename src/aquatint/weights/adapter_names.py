"""How adapter files spell their tensors: dialects -> (net, layer, part), and layers by the key maps that read models.

kohya      lora_unet_down_blocks_0_attentions_0_..._to_q.lora_down.weight: the layer's dots are underscores. The layer
           is named as diffusers does, or as the original single file does. LyCORIS writes the same.
peft       base_model.model.down_blocks.0....to_q.lora_A.weight, or unet....lora_A.weight, as diffusers saves today
diffusers  unet....to_q.lora.down.weight, ....lora_linear_layer.down.weight; once ....processor.to_q_lora.down.weight
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from aquatint.families import Family
from aquatint.weights import compvis, diffusers
from aquatint.weights.keymap import Config, Shape, config_of, parts_of, shapes

LONGEST = 400  # letters of a name
DIALECTS = ("kohya", "peft", "diffusers")
# Which net a prefix means. Files for one text encoder say te, those for two say te1 and te2.
KOHYA = {"unet": "unet", "te": "text", "te1": "text", "te2": "text2"}
FOLDERS = {"unet": "unet", "text_encoder": "text", "text_encoder_2": "text2"}


class Spelled(NamedTuple):
    """A tensor's name taken apart. dialect and net are empty where the name does not say; layer has no dots left."""

    dialect: str
    net: str
    layer: str
    part: str


def split(name: str) -> Spelled | None:
    """A tensor's name taken apart; None for one that no dialect has."""
    if len(name) > LONGEST:
        return None
    if found := _KOHYA.fullmatch(name):
        return Spelled("kohya", KOHYA[found[1]], found[2], KOHYA_PARTS.get(found[3], f"?{found[3]}"))
    name = name.removeprefix("base_model.model.")
    first, _, rest = name.partition(".")
    net, name = (FOLDERS[first], rest) if first in FOLDERS else ("", name)
    for pattern, dialect, part in DOTTED:
        if found := pattern.fullmatch(name):
            half = found[2] if pattern.groups > 1 else ""
            layer = _today(found[1]) if dialect == "diffusers" else found[1]
            return Spelled(dialect, net, layer.replace(".", "_"), HALVES.get(half, part))
    return None


def nets(family: Family) -> dict[str, Config]:
    """The nets that adapters are made for."""
    return {part: config_of(family, part) for part in parts_of(family) if part != "autoencoder"}


@lru_cache(maxsize=64)
def layers(config: Config) -> Mapping[str, str]:
    """Every spelling of a net's layers, dots as underscores -> our name of the layer."""
    every = [*diffusers.pairs(config), *diffusers.pairs(config, added=True)]
    table = {_flat(pair.theirs): pair.ours[0].rpartition(".")[0] for pair in every}
    if "enter.weight" in shapes(config):  # the U-Net: as the original single file names it
        rows = compvis.pairs(config)
        table |= {_flat(pair.theirs.removeprefix(compvis.UNET)): pair.ours[0].rpartition(".")[0] for pair in rows}
    else:  # transformers 5 leaves "text_model." out
        table |= {name.removeprefix("text_model_"): ours for name, ours in table.items()}
    return table


@lru_cache(maxsize=64)
def spellings(config: Config) -> Mapping[str, str]:
    """Our name of each layer -> as diffusers spells it, with dots: what we write."""
    pairs = diffusers.pairs(config, added=True)
    return {pair.ours[0].rpartition(".")[0]: pair.theirs.rpartition(".")[0] for pair in pairs}


@lru_cache(maxsize=64)
def blocks(config: Config) -> Mapping[str, str]:
    """For the U-Net: our name of each layer -> its block as the web UIs count them: IN00 ... M00 ... OUT11, or BASE."""
    found = {}
    for pair in compvis.pairs(config):
        kind, number, *_ = pair.theirs.removeprefix(compvis.UNET).split(".")
        block = {"input_blocks": "IN", "middle_block": "M", "output_blocks": "OUT"}.get(kind, "")
        number = "0" if block == "M" else number
        found[pair.ours[0].rpartition(".")[0]] = f"{block}{int(number):02d}" if block else "BASE"
    return found


def weights_of(config: Config, layer: str) -> dict[str, Shape]:
    """The weight and bias of one of our layers, as far as it has them: leaf -> shape."""
    known = shapes(config)
    names = {leaf: f"{layer}.{leaf}" for leaf in ("weight", "bias")}
    return {leaf: known[name] for leaf, name in names.items() if name in known}


def _flat(name: str) -> str:
    return name.rpartition(".")[0].replace(".", "_")


def _today(layer: str) -> str:
    """A layer as diffusers named it before it used PEFT, in today's words."""
    layer = layer.replace(".processor.", ".")
    if found := re.search(r"self_attn\.to_(q|k|v|out)$", layer):
        return f"{layer[: found.start()]}self_attn.{found[1]}_proj"
    return f"{layer}.0" if layer.endswith(".to_out") else layer


_KOHYA = re.compile(r"(?:lora|lycoris|oft)_(unet|te1|te2|te)_([^.]+)\.(.+)")
HALVES = {"A": "down", "B": "up", "down": "down", "up": "up"}
DOTTED = (
    (re.compile(r"(.+)\.lora_(A|B)(?:\.[^.]+)?\.weight"), "peft", ""),
    (re.compile(r"(.+)\.lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?"), "peft", "length"),
    (re.compile(r"(.+)\.ia3_l(?:\.[^.]+)?"), "peft", "ia3"),
    (re.compile(r"(.+)\.(?:lora|lora_linear_layer)\.(down|up)\.weight"), "diffusers", ""),
    (re.compile(r"(.+)_lora\.(down|up)\.weight"), "diffusers", ""),
    (re.compile(r"(.+)\.alpha"), "", "alpha"),
)
KOHYA_PARTS = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "middle",
    "dora_scale": "length",
    "weight": "factor",
    **{
        name: name
        for name in (
            *("alpha", "diff", "diff_b", "w_norm", "b_norm", "oft_blocks", "oft_diag", "rescale", "on_input"),
            *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
            *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        )
    },
}
