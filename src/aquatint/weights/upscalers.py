"""Files of upscalers: ESRGAN and Real-ESRGAN in their three layouts, and the small net of Real-ESRGAN.

layouts   `conv_first`, `body.N.rdb1.conv1`, `conv_up1` (Real-ESRGAN)
          `conv_first`, `RRDB_trunk.N.RDB1.conv1`, `upconv1` (ESRGAN's second)
          `model.0`, `model.1.sub.N.RDB1.conv1.0`, `model.3` (ESRGAN's first)
          `body.0`, `body.1` ... (the small net)
Each may stand under `params_ema` or `params`. What the net looks like is deduced from names and shapes alone.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from aquatint.base.errors import UserError
from aquatint.nets.rrdb import CompactConfig, CompactNet, RRDBConfig, RRDBNet
from aquatint.nets.upscaler import Upscaler
from aquatint.weights import store
from aquatint.weights.placed import held_at, placed

MOST_DOUBLINGS = 3
WRAPPERS = ("params_ema.", "params.", "")  # the first that is there counts
_TAKES = "An ESRGAN, Real-ESRGAN or realesr file (.pth or .safetensors), for RGB pictures."
_WHOLE = {
    "conv_first": "enter", "conv_body": "trunk", "trunk_conv": "trunk", "conv_hr": "fine", "HRconv": "fine",
    "conv_last": "leave",
}  # fmt: skip
_DENSE = re.compile(r"(?:body|RRDB_trunk|model\.1\.sub)\.(\d+)\.(?:rdb|RDB)([123])\.conv([1-5])(?:\.0)?")
_DOUBLED = re.compile(r"(?:conv_up|upconv)([1-9])")
_OLD = re.compile(r"model\.(\d+)(?:\.sub\.(\d+))?")


def open_upscaler(path: str | Path, dtype: torch.dtype = torch.float32) -> Upscaler:
    """The upscaler in a file; a UserError for what is none, or none for RGB pictures."""
    held = held_at(path, _TAKES)
    start = next(wrapper for wrapper in WRAPPERS if any(name.startswith(wrapper) for name in held.where))
    names = {name.removeprefix(start): name for name in held.where if name.startswith(start)}
    build = _compact if "body.0.weight" in names else _rrdb
    try:
        net = build(held, names, dtype)
    except (KeyError, IndexError, ValueError):
        raise UserError(f'"{held.path}" is no upscaler that aquatint knows.', _TAKES) from None
    return Upscaler(net, held.path.stem, held.files[0].sha256())


def _rrdb(held: store.Held, names: Mapping[str, str], dtype: torch.dtype) -> RRDBNet:
    """ESRGAN's net, of any layout; KeyError where a part that tells its shape is not there."""
    ours = _renamed(names)
    shapes = {own: held.entry(name).shape for own, name in ours.items()}
    width, inside = shapes["enter.weight"][:2]
    out = shapes["leave.weight"][0]
    fold = {3: 1, 12: 2, 48: 4}.get(inside, 0)
    if not fold or out != 3:
        raise UserError(f'"{held.path}" turns {inside} channels into {out}.', _TAKES)
    blocks, doublings = _count(ours, "blocks."), _count(ours, "doubled.")
    growth = shapes["blocks.0.parts.0.convs.0.weight"][0]
    if not width or not growth or doublings > MOST_DOUBLINGS:
        raise UserError(f'"{held.path}" has a net of {width} features, {growth} more each layer.', _TAKES)
    config = RRDBConfig(blocks, width, growth, doublings, fold)
    if config.scale < 1:
        raise UserError(f'"{held.path}" makes pictures smaller.', _TAKES)
    return placed(lambda: RRDBNet(config), held, ours, "ESRGAN's net", dtype)


def _compact(held: store.Held, names: Mapping[str, str], dtype: torch.dtype) -> CompactNet:
    """The small net: convolution and PReLU by turns, and one convolution more."""
    last = _count(names, "body.") - 1
    layers, width = last // 2 - 1, held.entry(names["body.0.weight"]).shape[0]
    scale = round((held.entry(names[f"body.{last}.weight"]).shape[0] / 3) ** 0.5)
    if layers < 0 or scale < 1 or not width:
        raise UserError(f'"{held.path}" is no upscaler that aquatint knows.', _TAKES)
    ours = {}
    for name, full in names.items():
        index, part = int(name.split(".")[1]), name.split(".", 2)[2]
        row = "leave" if index == last else f"bends.{index // 2}" if index % 2 else f"convs.{index // 2}"
        ours[f"{row}.{part}"] = full
    return placed(lambda: CompactNet(CompactConfig(layers, width, scale)), held, ours, "a realesr net", dtype)


def _renamed(names: Mapping[str, str]) -> dict[str, str]:
    """Our names -> the file's. A name that belongs to no layout stays, and is told as left over."""
    old = sorted({int(match[1]) for name in names if (match := _OLD.match(name)) and match[1] != "1"})
    ours = {}
    for name, full in names.items():
        module, _, part = name.rpartition(".")
        if dense := _DENSE.fullmatch(module):
            block, rdb, conv = (int(group) for group in dense.groups())
            place = f"blocks.{block}.parts.{rdb - 1}.convs.{conv - 1}"
        elif doubled := _DOUBLED.fullmatch(module):
            place = f"doubled.{int(doubled[1]) - 1}"
        elif first := _OLD.fullmatch(module):
            place = _place(int(first[1]), old) if first[1] != "1" else "trunk"
        else:
            place = _WHOLE.get(module, module)
        ours[f"{place}.{part}"] = full
    return ours


def _place(index: int, old: list[int]) -> str:
    """Where a convolution of the first layout belongs, by its place among those before and after the blocks."""
    at = old.index(index)
    if at == 0:
        return "enter"
    return {len(old) - 1: "leave", len(old) - 2: "fine"}.get(at, f"doubled.{at - 1}")


def _count(names: Mapping[str, str], start: str) -> int:
    """How many are numbered after `start`: one more than the highest; ValueError for more than there are names."""
    count = max((int(name[len(start) :].split(".")[0]) for name in names if name.startswith(start)), default=-1) + 1
    if count > len(names):
        raise ValueError(f"{count} of {start}")
    return count
