"""Files that steer the U-Net by pictures: ControlNet, T2I-Adapter, IP-Adapter; what one is, and whether it fits.

A file is told by the names and shapes in it. `open_control` reads its head; `fit` finds a place for every tensor in a
family, strictly, before any weight is read; `build` makes the net.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.families import Family
from aquatint.nets.control import AdapterConfig, ControlConfig, ControlNet, T2IAdapter
from aquatint.nets.picture_prompt import PictureConfig, PicturePrompt, crossings
from aquatint.weights import compvis, control_names, store
from aquatint.weights.checks import check_finite, finite
from aquatint.weights.control_folder import CONTROLNET
from aquatint.weights.control_names import CONTROL, count
from aquatint.weights.header import FLOATS
from aquatint.weights.keymap import Pair, Place, hollow, pairs

CONTEXTS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
KINDS = {"controlnet": "a ControlNet", "t2i": "a T2I-Adapter", "ip": "an IP-Adapter"}
TAKES = "A ControlNet, a T2I-Adapter or an IP-Adapter, as .safetensors or .pth, or a folder with config.json."
# What other files hold that look like these, or that belong to none of them.
OTHERS = {
    "lora_controlnet": "a Control-LoRA, which is not read",
    "difference": "the difference of a ControlNet to a model, which is not read",
    "perceiver_resampler.": "an IP-Adapter for faces (FaceID plus), which needs another program's face vectors",
    "image_proj.proj.3.": "an IP-Adapter of whole faces (257 tokens), which is not read",
    "image_proj.proj.0.": "an IP-Adapter for faces (FaceID), which needs another program's face vectors",
    "task_embedding": "a ControlNet for several hints at once (union), which is not read",
    "controlnet_x_embedder": "a ControlNet for another architecture (Flux, Stable Diffusion 3)",
    "double_blocks.": "a Flux file, which is another architecture",
    "transformer_blocks.0.attn.": "for a diffusion transformer, which is another architecture",
    "lora_": "a LoRA: open it with loras= (--lora)",
    ".lora": "a LoRA: open it with loras= (--lora)",
    "adapter.body.0.in_conv.": "a light T2I-Adapter, which is not read",
    "vision_model.": "an image encoder: open it with image_encoder= (--image-encoder)",
    "model.diffusion_model.": "a checkpoint: open it as the model",
}


@dataclass(frozen=True)
class ControlFile:
    """A file, opened: what it is and how its tensors are spelled; its weights are not yet read.

    kind       a name in KINDS;   dialect: "original" or "diffusers"
    document   its folder's config.json, if it has one
    """

    name: str
    kind: str
    dialect: str
    held: store.Held
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 of the file (of a folder: of its weights)."""
        return digest_of(self.held)

    @property
    def made_for(self) -> str:
        """The family that it was made for, as far as its widths say."""
        names = self.held.shapes()
        if self.kind == "t2i":
            return "Stable Diffusion XL" if _adapter(self).large else "Stable Diffusion 1 or 2"
        ending = ".to_k_ip.weight" if self.kind == "ip" else ".attn2.to_k.weight"
        context = next((shape[-1] for name, shape in names.items() if name.endswith(ending) and shape), 0)
        return CONTEXTS.get(context, f"texts of width {context}" if context else "another family")


class Fitted(NamedTuple):
    """A file that fits a family: how to make its net, where each tensor goes, and what is left over, by reason."""

    file: ControlFile
    make: Callable[[], nn.Module]
    pairs: list[Pair]
    left_over: Mapping[str, tuple[str, ...]]


def open_control(path: str | Path) -> ControlFile:
    """A control file or folder; UserError for what is none, which says what it is where that can be told."""
    name, held, document = opened(path, "diffusion_pytorch_model", TAKES)
    kind, dialect = _told(held.path, held.where)
    return ControlFile(name, kind, dialect, held, document)


def opened(path: str | Path, stem: str, takes: str) -> tuple[str, store.Held, Mapping[str, Any]]:
    """A net's file, or folder with its weights (`stem`) and config.json: its name, what it holds, the document."""
    path = Path(path).expanduser()
    with files.telling(str(path)[:200], "read"):
        if not path.exists():
            raise UserError(f'There is no file "{str(path)[:200]}".', takes, "Check the path.")
    if not path.is_dir():
        return path.stem, store.single(path.resolve()), {}
    found, note = store.find(path, "", stem, None)
    if not found:
        raise UserError(f'"{path}" is a folder without {stem}.safetensors.', takes)
    held = store.hold(path, [("", file) for file in found], notes=(note,) if note else ())
    return path.name, held, store.document(path, "config.json") or {}


def fit(file: ControlFile, family: Family) -> Fitted:
    """A place in our nets for every tensor of the file; UserError if it is of another family, damaged, or not whole."""
    try:
        make, places = _ways(file, family)
    except UserError as error:
        raise UserError(f'"{file.name}": {error.got}', error.takes, error.remedy) from None
    ours = {name: tuple(tensor.shape) for name, tensor in hollow(make).state_dict().items()}
    table = pairs(places, ours)
    there = file.held.shapes()
    missing, unfit = [], []
    for pair in table:
        if pair.theirs not in there:
            missing.append(pair.theirs)
        elif there[pair.theirs] not in pair.turn.shapes([ours[name] for name in pair.ours]):
            unfit.append(f"{pair.theirs} has the shape {list(there[pair.theirs])}")
        elif file.held.entry(pair.theirs).dtype not in FLOATS:
            unfit.append(f"{pair.theirs} is stored as {file.held.entry(pair.theirs).dtype}")
    left_over: dict[str, list[str]] = {}
    for name in there.keys() - {pair.theirs for pair in table}:
        left_over.setdefault(_leftover(file, name), []).append(name)
    strange = sorted(left_over.pop("", ()))
    if missing or unfit or strange:
        said = [
            f"{len(names)} {words} ({', '.join(names[:2])})"
            for words, names in (("are missing", missing), ("do not fit", unfit), ("have no place", strange))
            if names
        ]
        raise UserError(
            f'"{file.name}" is {KINDS[file.kind]}, but of its tensors {"; ".join(said)}.',
            f"One that was made for {family.name}.",
            f"This one seems to be for {file.made_for}." if unfit or missing else "",
        )
    return Fitted(file, make, table, {reason: tuple(sorted(names)) for reason, names in left_over.items()})


@torch.no_grad()
def build(fitted: Fitted, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The net with the file's weights (views of the mapped file where `dtype` is the stored one)."""
    state: dict[str, Tensor] = {}
    for pair in fitted.pairs:
        state |= taken(fitted.file.held, pair, dtype, fitted.file.name)
    net = hollow(fitted.make)
    net.load_state_dict(state, strict=True, assign=True)
    return net.eval().requires_grad_(False)


def taken(held: store.Held, pair: Pair, dtype: torch.dtype, name: str) -> dict[str, Tensor]:
    """The tensors of ours in one of theirs, cast, and checked to be finite."""
    stored, made = held.tensor(pair.theirs), {}
    check_finite(stored, f'"{name}": tensor {pair.theirs}')
    for ours, tensor in zip(pair.ours, pair.turn.take(stored), strict=True):
        made[ours] = tensor.to(dtype).contiguous()
        if not finite(made[ours]):
            raise UserError(f'"{name}": tensor {pair.theirs} has values too large for {dtype}.', "", "Use float32.")
    return made


def digest_of(held: store.Held) -> str:
    """sha256 of a file; of weights in several files, of their sums one after the other."""
    sums = [file.sha256() for file in held.files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def bounded(what: str, value: int, high: int = 16_384) -> int:
    """The same number, if it is one that a net may be as wide as."""
    if not 1 <= value <= high:
        raise UserError(f"{what} is {str(value)[:30]}.", f"1 to {high:,}.", "Fetch it again.")
    return value


def _told(path: Path, names: Iterable[str]) -> tuple[str, str]:
    """The kind and dialect, by names that only one has."""
    held = set(names)
    for mark, kind in OTHERS.items():
        if mark in ("lora_controlnet", "difference") and mark in held:
            raise UserError(f'"{path}" is {kind}.', TAKES)
    if "controlnet_cond_embedding.conv_in.weight" in held:
        return "controlnet", "diffusers"
    if held & {"input_hint_block.0.weight", CONTROL + "input_hint_block.0.weight"}:
        return "controlnet", "original"
    if held & {"image_proj.proj.weight", "image_proj.latents"} and "ip_adapter.1.to_k_ip.weight" in held:
        return "ip", "original"
    if "adapter.conv_in.weight" in held and "adapter.body.0.resnets.0.block1.weight" in held:
        return "t2i", "diffusers"
    if "conv_in.weight" in held and "body.0.block1.weight" in held:
        return "t2i", "original"
    kind = next((kind for mark, kind in OTHERS.items() if any(mark in name for name in held)), "")
    examples = ", ".join(name[:80] for name in sorted(held)[:3]) or "nothing"
    raise UserError(f'"{path}" is {kind or f"no control (it holds {examples})"}.', TAKES)


def _ways(file: ControlFile, family: Family) -> tuple[Callable[[], nn.Module], Iterable[Place]]:
    """How to make the net for a family, and the places of its tensors."""
    names = file.held.where
    if file.kind == "controlnet":
        control = _control(file, family)
        prefix = CONTROL if CONTROL + "input_hint_block.0.weight" in names else ""
        spelled = file.dialect == "diffusers"
        return lambda: ControlNet(control), (
            control_names.diffusers_control(control, names)
            if spelled
            else control_names.original_control(control, prefix)
        )
    if file.kind == "t2i":
        adapter = _adapter(file)
        _check_adapter(adapter, family)
        ways = {"original": control_names.original_adapter, "diffusers": control_names.diffusers_adapter}
        return lambda: T2IAdapter(adapter), ways[file.dialect](adapter)
    picture = _picture(file, family)
    return lambda: PicturePrompt(picture), control_names.picture_prompt(picture)


def _control(file: ControlFile, family: Family) -> ControlConfig:
    """A ControlNet's config: the family's U-Net, with the file's own depths and hint."""
    shapes, spelled = file.held.shapes(), file.dialect == "diffusers"
    prefix = CONTROL if CONTROL + "input_hint_block.0.weight" in shapes else ""
    name = "controlnet_cond_embedding.blocks.{}.weight" if spelled else prefix + "input_hint_block.{}.weight"
    if spelled:
        rows = ["controlnet_cond_embedding.conv_in.weight"]
        rows += [name.format(2 * index + 1) for index in range(count(shapes, name) // 2)]
    else:
        length = next(index for index in range(128) if name.format(2 * index) not in shapes)
        rows = [name.format(4 * index) for index in range(max(1, length // 2))]
    if any(len(shapes[row]) != 4 for row in rows):
        raise UserError("its hint's layers are no convolutions.", "A whole ControlNet.", "Fetch it again.")
    unet = replace(family.unet, channels_in=family.autoencoder.latents)
    stages = [replace(stage, depth=1) for stage in unet.stages]
    heads = CONTROLNET.heads(file.document, len(stages))
    once = ControlConfig(replace(unet, stages=tuple(stages), middle=1))
    places = control_names.diffusers_control(once) if spelled else control_names.original_control(once, prefix)
    layers = {place.ours: place.theirs.removesuffix("0") for place in places if place.ours.endswith(".layers.0")}

    def depth(ours: str) -> int:
        return count(shapes, layers[f"{ours}.attend.layers.0"] + "{}.norm1.weight", 128)

    stages = [replace(stage, depth=depth(f"descent.{i}.cells.0")) for i, stage in enumerate(unet.stages)]
    if heads is not None:
        stages = [replace(stage, heads=count) for stage, count in zip(stages, heads, strict=True)]
        if any(stage.heads < 1 or stage.width % stage.heads for stage in stages):
            raise UserError(f"its heads are {heads}.", "Divisors of the widths.")
    unet = replace(unet, stages=tuple(stages), middle=depth("middle.first"))
    config = ControlConfig(unet, tuple(bounded("its hint's width", shapes[row][0]) for row in rows), shapes[rows[0]][1])
    if config.factor != family.autoencoder.factor or config.channels not in (1, 3):
        raise UserError(
            f"its hint has {config.channels} channels and {config.factor} pixels a latent.",
            f"3 channels, or 1, and {family.autoencoder.factor} pixels.",
        )
    return config


def _adapter(file: ControlFile) -> AdapterConfig:
    """A T2I-Adapter's config, by its shapes alone."""
    shapes, spelled = file.held.shapes(), file.dialect == "diffusers"
    enter = shapes["adapter.conv_in.weight" if spelled else "conv_in.weight"]
    known = {64: (1, False), 192: (3, False), 256: (1, True), 768: (3, True)}
    if len(enter) != 4 or enter[1] not in known:
        raise UserError(f"its first layer has the shape {list(enter)}.", "Hints of 1 or 3 channels.")
    blocks = count(shapes, "adapter.body.0.resnets.{}.block1.weight") if spelled else 2
    name = "adapter.body.{}.resnets.0.block1.weight" if spelled else "body.{}.block1.weight"
    rows = [name.format(index) for index in range(0, count(shapes, name), 1 if spelled else blocks)]
    channels, large = known[enter[1]]
    return AdapterConfig(tuple((*shapes[row], 0)[0] for row in rows), channels, blocks, large)


def _check_adapter(adapter: AdapterConfig, family: Family) -> None:
    """Whether a T2I-Adapter's features are those of the family's U-Net."""
    stages = family.unet.stages
    widths = tuple(stage.width for stage in stages)
    wanted = (*widths, widths[-1]) if adapter.large else widths
    large = stages[0].depth == 0 and len(stages) == 3  # what the XL arrangement's sizes go with
    if adapter.widths != wanted or adapter.large != large or family.autoencoder.factor != 8:
        kind = "Stable Diffusion XL" if adapter.large else "Stable Diffusion 1 or 2"
        raise UserError(
            f"it is a T2I-Adapter with the widths {', '.join(map(str, adapter.widths))}, as for {kind}.",
            f"One that was made for {family.name}: {', '.join(map(str, widths))}.",
        )


def _picture(file: ControlFile, family: Family) -> PictureConfig:
    """An IP-Adapter's config: the family's cross-attentions, the file's own way from picture to tokens."""
    shapes = file.held.shapes()
    context, widths = family.unet.context, tuple(width for _, width in crossings(family.unet))
    found = shapes["ip_adapter.1.to_k_ip.weight"]
    if len(found) != 2 or found[1] != context:
        raise UserError(
            f"it is an IP-Adapter for {file.made_for}.",
            f"One that was made for {family.name}, whose texts have the width {context}.",
        )
    if "image_proj.latents" in shapes:
        latents, enter = shapes["image_proj.latents"], shapes.get("image_proj.proj_in.weight", ())
        if len(latents) != 3 or len(enter) != 2 or not latents[1] or latents[2] % 64 or not latents[2]:
            raise UserError(f"its queries have the shape {list(latents)}.", "[1, tokens, a multiple of 64].")
        layers, width = count(shapes, "image_proj.layers.{}.0.to_q.weight"), bounded("its width", latents[2])
        seen, tokens = bounded("what it sees", enter[1]), bounded("its tokens", latents[1])
        return PictureConfig(widths, context, seen, tokens, max(1, layers), width)
    proj = shapes["image_proj.proj.weight"]
    if len(proj) != 2 or not proj[0] or proj[0] % context:
        raise UserError(f"its projection has the shape {list(proj)}.", f"[a multiple of {context}, width].")
    return PictureConfig(widths, context, bounded("what it sees", proj[1]), bounded("its tokens", proj[0] // context))


def _leftover(file: ControlFile, name: str) -> str:
    """Why a tensor has no place; empty if there is no reason that we know."""
    beside = CONTROL + "input_hint_block.0.weight" in file.held.where and not name.startswith(CONTROL)
    return (compvis.leftover(name, 0) or "the model that it was trained beside") if beside else ""
