"""Adapter files (LoRA and its relatives): what one holds, and which weights of a family it changes.

A file is opened without reading its weights and says what it is; `fit` then finds each of its layers in a family's
nets, strictly: what has no place, is damaged or of a kind that is not known is an error, or, where the user wants the
rest all the same, left out and accounted for.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from aquatint.base import config, files
from aquatint.base.errors import UserError
from aquatint.families import Family
from aquatint.nets.adapters import Adapter, tensors
from aquatint.weights import store
from aquatint.weights.adapter_kinds import Odd, Scale, make
from aquatint.weights.adapter_names import Spelled, layers, nets, split, weights_of
from aquatint.weights.checks import finite
from aquatint.weights.header import FLOATS
from aquatint.weights.keymap import WORDS

Layer = tuple[str, str]  # (net, or "" where the file does not say; the layer's name without dots)
Adapters = dict[str, dict[str, Adapter]]  # by net, by the name of the weight in our state dict
CONTEXTS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
OTHERS = {
    "double_blocks": "Flux",
    "single_blocks": "Flux",
    "single_transformer_blocks": "Flux",
    "joint_blocks": "Stable Diffusion 3",
    "lora_transformer_": "a diffusion transformer (Flux, Stable Diffusion 3)",
    "transformer.transformer_blocks": "a diffusion transformer (Flux, Stable Diffusion 3)",
    "lora_prior_": "Stable Cascade",
}
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class LoraFile:
    """An adapter file, opened: every tensor by its layer and part, not yet read.

    digest, hash   sha256 of the whole file; of the tensors without the head, as web UIs name a LoRA (its first 12)
    unread         tensors whose names are of no dialect
    """

    name: str
    dialect: str
    held: store.Held
    parts: Mapping[Layer, Mapping[str, str]]
    unread: tuple[str, ...]
    metadata: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 of the file."""
        return self.held.files[0].sha256()

    @property
    def hash(self) -> str:
        """sha256 of the tensors, the head left out."""
        return hashlib.sha256(self.held.files[0].data()).hexdigest()

    @property
    def context(self) -> int:
        """Width of the texts that its cross-attention reads; 0 where it does not tell."""
        for (_, layer), parts in self.parts.items():
            for part in ("down", "hada_w1_b"):
                if layer.endswith("attn2_to_k") and part in parts:
                    return (*self.held.entry(parts[part]).shape, 0, 0)[1]
        return 0

    @property
    def made_for(self) -> str:
        """The family that it was made for, as far as its widths, its names or its header say."""
        for mark, kind in OTHERS.items():
            if any(mark in name for name in self.held.where):
                return kind
        said = self.metadata.get("modelspec.architecture") or self.metadata.get("ss_base_model_version") or ""
        return CONTEXTS.get(self.context) or said[:60]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of its layers, the commonest first."""
        rows = [
            self.held.entry(parts[part]).shape
            for parts in self.parts.values()
            for part in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
            if part in parts
        ]
        return tuple(rank for rank, _ in Counter(shape[0] for shape in rows if shape).most_common())

    @property
    def words(self) -> tuple[str, ...]:
        """What to say to call it up: the author's trigger phrase, or the commonest captions that it was taught on."""
        if phrase := self.metadata.get("modelspec.trigger_phrase", "").strip():
            return (phrase[:200],)
        try:
            table = config.parse(self.metadata.get("ss_tag_frequency", "{}"))
        except UserError:
            return ()
        counts: Counter[str] = Counter()
        for tags in table.values() if isinstance(table, dict) else ():
            for tag, count in tags.items() if isinstance(tags, dict) else ():
                counts[tag.strip()[:60]] += count if type(count) is int else 0
        return tuple(tag for tag, count in counts.most_common(5) if tag and count > 0)


@dataclass(frozen=True)
class Account:
    """What became of an adapter file: layers found by net and by kind, and what has no place, by reason."""

    name: str
    dialect: str
    matched: Mapping[str, int]
    kinds: Mapping[str, int]
    unmatched: Mapping[str, tuple[str, ...]]

    @property
    def complete(self) -> bool:
        """Whether everything in it found its place."""
        return not self.unmatched

    def told(self) -> list[str]:
        """What did not match, as sentences."""
        return [f'"{self.name}": {_some(names)} {reason}.' for reason, names in self.unmatched.items()]

    def __str__(self) -> str:
        there = ", ".join(f"{count} layers of the {WORDS[net]}" for net, count in self.matched.items())
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        return "\n".join([f"{self.name} ({self.dialect}): {there or 'nothing'}; {kinds or 'no adapter'}", *self.told()])


@dataclass(frozen=True, eq=False)
class Fitted:
    """Adapters for a family's nets, and the account of how they were found."""

    adapters: Adapters
    account: Account


def open_lora(path: str | Path) -> LoraFile:
    """An adapter file, or the folder that PEFT saves; a UserError for what is none, or mixes dialects."""
    path = Path(path).expanduser()
    with files.telling(str(path)[:200], "read"):
        folder, path = path.is_dir(), path.resolve()
    settings: Mapping[str, Any] = {}
    if folder:
        settings = store.document(path, PEFT_CONFIG)
        if settings is None:
            raise UserError(
                f'"{path}" is a folder without {PEFT_CONFIG}.', "An adapter file, or a folder that PEFT saved."
            )
        weights = next((name for name in PEFT_WEIGHTS if (path / name).exists()), PEFT_WEIGHTS[0])
        held = store.hold(path, [("", store.open_file(store.inside(path, weights)))])
    else:
        held = store.single(path)
    name = path.name if folder else path.stem
    found = {tensor: split(tensor) for tensor in held.where}
    dialect = _dialect(name, found)
    parts: dict[Layer, dict[str, str]] = {}
    for tensor, row in found.items():
        if row is not None:
            layer = parts.setdefault((row.net, row.layer), {})
            if row.part in layer:
                raise UserError(
                    f'"{name}" says twice what {row.part} of {row.layer} is ({layer[row.part]}, {tensor}).',
                    "A file in one dialect.",
                    "Fetch it again from its author.",
                )
            layer[row.part] = tensor
    unread = tuple(tensor for tensor, row in found.items() if row is None)
    header = held.metadata.get("lora_adapter_metadata")
    if header is not None and not settings:
        settings = config.parse(header)
        if not isinstance(settings, dict):
            raise UserError(f'"{name}" has lora_adapter_metadata that are no JSON object.', "", "Fetch it again.")
    return LoraFile(name, dialect, held, parts, unread, held.metadata, settings)


def fit(file: LoraFile, family: Family, *, partial: bool = False) -> Fitted:
    """The file's adapters for a family's weights; every tensor is read once and checked to be finite.

    partial   leave out what has no place, instead of refusing the file. Nothing at all that fits is always an error,
              and so is a file for another family.
    """
    context, wanted = file.context, family.unet.context
    if (context and context != wanted) or file.made_for in OTHERS.values():
        wide = f", for texts of width {context}" if context else ""
        raise UserError(
            f'"{file.name}" was made for {file.made_for or "another family"}{wide}.',
            f"One for {family.name} ({CONTEXTS.get(wanted, 'texts')} of width {wanted}).",
        )
    adapters: Adapters = {}
    kinds: Counter[str] = Counter()
    matched: Counter[str] = Counter()
    unmatched: dict[str, list[str]] = {"is no name of any dialect": list(file.unread)} if file.unread else {}
    for (net, layer), names in file.parts.items():
        try:
            where, ours = _place(family, net, layer)
            shapes = weights_of(nets(family)[where], ours)
            made = make(_read(file, names), shapes, _scale(file.settings, where, layer))
            if not all(finite(tensor.float()) for row in made for tensor in tensors(row.adapter)):
                raise Odd("holds values that are not finite (NaN or infinity)")
        except Odd as why:
            unmatched.setdefault(str(why), []).append(f"{net}.{layer}" if net else layer)
            continue
        matched[where] += 1
        for row in made:
            kinds[row.kind] += 1
            adapters.setdefault(where, {})[f"{ours}.{row.leaf}"] = row.adapter
    account = Account(
        file.name, file.dialect, dict(matched), dict(kinds), {why: tuple(rows) for why, rows in unmatched.items()}
    )
    if not adapters or (unmatched and not partial):
        whole = sum(map(len, unmatched.values())) + sum(matched.values())
        raise UserError(
            "\n  ".join(
                [f'"{file.name}" fits {family.name} in {sum(matched.values())} of {whole} layers.', *_told(account)]
            ),
            "\nA file for this family whose every layer finds its place.",
            "Those that fit are taken if you ask for a partial fit (partial=True, --partial)." if adapters else "",
        )
    return Fitted(adapters, account)


def _told(account: Account) -> list[str]:
    return [f"{_some(names)} {reason}" for reason, names in list(account.unmatched.items())[:5]]


def _dialect(name: str, found: Mapping[str, Spelled | None]) -> str:
    """The one dialect of a file's names."""
    said = Counter(row.dialect for row in found.values() if row is not None and row.dialect)
    if len(said) > 1:
        raise UserError(
            f'"{name}" mixes dialects: {", ".join(f"{count} names as {dialect}" for dialect, count in said.items())}.',
            "A file in one dialect.",
            "Fetch it again from its author.",
        )
    if not said:
        kind = next((kind for mark, kind in OTHERS.items() if any(mark in tensor for tensor in found)), "")
        raise UserError(
            f'"{name}" {f"was made for {kind}" if kind else "holds no adapter"} ({_some(list(found)) or "nothing"}).',
            "A LoRA or one of its relatives, in the names of kohya, PEFT or diffusers.",
        )
    return next(iter(said))


def _place(family: Family, net: str, layer: str) -> tuple[str, str]:
    """(net, our name of the layer); Odd where the family has none."""
    known = nets(family)
    if net and net not in known:
        raise Odd(f"is for a second text encoder, which {family.name} has not")
    for where in (net,) if net else known:
        if ours := layers(known[where]).get(layer):
            return where, ours
    raise Odd(f"is no layer of {family.name}")


def _read(file: LoraFile, names: Mapping[str, str]) -> dict[str, Tensor]:
    """A layer's parts by name, mapped."""
    parts = {}
    for part, name in names.items():
        kind = file.held.entry(name).dtype
        if kind not in FLOATS and part not in ("alpha", "on_input"):
            raise Odd(f"is stored as {kind}, and weights are {', '.join(FLOATS)}")
        tensor = file.held.tensor(name)
        parts[part] = tensor.flatten() if file.dialect == "peft" and part == "length" else tensor
    return parts


def _scale(settings: Mapping[str, Any], net: str, layer: str) -> Scale:
    """alpha as PEFT's settings say it: of all, or of single layers by the end of their names; checked numbers only."""
    prefix = {"unet": "unet.", "text": "text_encoder.", "text2": "text_encoder_2."}[net]
    own = {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)} or settings
    alpha, pattern = own.get("lora_alpha"), own.get("alpha_pattern")
    for ending, value in pattern.items() if isinstance(pattern, dict) else ():
        flat = str(ending).replace(".", "_")
        if layer == flat or layer.endswith(f"_{flat}"):
            alpha = value
            break
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < 1e9):
        raise UserError(f"lora_alpha = {json.dumps(alpha)[:60]}.", "A number.", "Fetch the adapter again.")
    return Scale(None if alpha is None else float(alpha), own.get("use_rslora") is True)


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(name[:120] for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
