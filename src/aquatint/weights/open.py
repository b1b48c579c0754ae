"""Opening a model: from a path, a file, a name on the hub, or the one that is carried, to nets and tokenizers.

The nets are built without memory and given tensors that are views of the mapped file, so a float32 model is never
copied; weights in other formats are cast tensor by tensor. Every tensor is read once on the way: a value that is not
finite is an error that names its tensor. The sum over all values, the model's digest, is counted at once where the file
says what it should be, else later (base/counted.py).
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from aquatint.base import files
from aquatint.base.counted import Counted
from aquatint.base.errors import UserError
from aquatint.families import Family
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.text import TextConfig, TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import UNet
from aquatint.weights import description, hub, keymap, plan, store, values
from aquatint.weights.checks import DTYPES, check_finite, finite
from aquatint.weights.keymap import Pair, config_of
from aquatint.weights.plan import Found, Plan

POCKET = "pocket"
VOCABULARY = "vocabulary.json"
FIRST, SECOND = "tokenizer", "tokenizer_2"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Opened:
    """A model in memory. Its nets are in eval mode and ask for no gradients; who trains them turns both on.

    counted    its digest: sha256 of the float32 values under our names and of the family, the same in every format
    notes      what was assumed, for the user to read; `inspect` tells the rest
    metadata   the texts that came with the weights (modelspec.*)
    file       the one file that all weights are from; None where there are several
    """

    family: Family
    unet: UNet
    autoencoder: Autoencoder
    text: TextEncoder
    tokenizer: Tokenizer
    name: str
    counted: Counted
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    vocabulary: str = ""
    text2: TextEncoder | None = None
    tokenizer2: Tokenizer | None = None
    file: Path | None = None

    @property
    def digest(self) -> str:
        """The digest; the first who asks may wait while it is counted."""
        return self.counted.value

    @property
    def nets(self) -> dict[str, nn.Module]:
        """The nets by the names of their parts."""
        nets: dict[str, nn.Module] = {"unet": self.unet, "autoencoder": self.autoencoder, "text": self.text}
        return nets if self.text2 is None else nets | {"text2": self.text2}


Lay = Callable[[Tensor, torch.dtype], Tensor]


def as_it_is(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in a number format, one row after the other."""
    return weight.to(dtype).contiguous()


def open_model(
    source: str | Path | None = None,
    *,
    ema: str = "ignore",
    variant: str | None = None,
    revision: str | None = None,
    prediction: str | None = None,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    lay: Lay = as_it_is,
) -> Opened:
    """The model at a path or on the hub ("owner/name"); None opens the one that comes with aquatint.

    ema         "prefer" takes the U-Net's averaged weights where a single file has them
    variant     which weights of a folder ("fp16")       revision   which commit, tag or branch on the hub
    prediction  "epsilon", "v" or "sample", where the model does not say it, or says it wrongly
    tokenizer   a folder; else the one beside the model, else CLIP's own, which is carried
    dtype       what the nets compute in
    lay         casts a weight and lays it out as an engine wants it (engines/choice.py), which is one copy less than
                afterwards

    Raises UserError for everything that is wrong with what is there.
    """
    if dtype not in DTYPES:
        raise UserError(f"{dtype} is no number format for the nets.", f"One of {', '.join(map(str, DTYPES))}.")
    with _located(source, revision, variant) as (path, name):
        found = plan.demand(
            plan.find(path, source=name, ema=ema, variant=variant, prediction=prediction),
        )
        family = found.plan.family
        folders = (SECOND, FIRST) if family.micro and family.text2 is None else (FIRST,)  # the refiner has one of two
        words, note = _tokenizer(path, family.text, tokenizer, folders)
        second = None if family.text2 is None else _second(path, family.text2, tokenizer, words)
        with ThreadPoolExecutor(max_workers=1) as aside:  # a digest that is promised is compared while nets are filled
            counting = aside.submit(_counted, found)
            nets = _nets(found, dtype, lay)
            counted = counting.result()
        known = files.read_text(path / VOCABULARY) if (path / VOCABULARY).is_file() else ""
    return Opened(
        family=family,
        unet=cast(UNet, nets["unet"]),
        autoencoder=cast(Autoencoder, nets["autoencoder"]),
        text=cast(TextEncoder, nets["text"]),
        tokenizer=words,
        name=name,
        counted=counted,
        notes=(*found.plan.notes, *note),
        metadata=found.plan.metadata,
        vocabulary=known,
        text2=cast(TextEncoder | None, nets.get("text2")),
        tokenizer2=second,
        file=found.held.files[0].path if len(found.held.files) == 1 else None,
    )


def inspect(
    source: str | Path | None = None,
    *,
    ema: str = "ignore",
    variant: str | None = None,
    revision: str | None = None,
    prediction: str | None = None,
) -> Plan:
    """What `open_model` would find, without reading weights (but for one bias where only that tells v from epsilon)."""
    with _located(source, revision, variant) as (path, name):
        return plan.find(path, source=name, ema=ema, variant=variant, prediction=prediction).plan


@contextmanager
def _located(source: str | Path | None, revision: str | None, variant: str | None) -> Iterator[tuple[Path, str]]:
    """(a path that exists, the model's name): the carried model, a file or folder here, or a snapshot from the hub."""
    if source is None:
        with resources.as_file(resources.files("aquatint.weights") / POCKET) as path:
            if not store.variants(path, "model"):
                raise UserError("This aquatint carries no model.", "", "Name one: a path, a file or a hub id.")
            yield path, POCKET
        return
    text = os.fspath(source)
    with files.telling(text[:200], "read"):
        path = Path(text).expanduser()
        here = path.exists()
        parent = path.parent.is_dir()
    if here and not text.startswith(hub.PREFIX):
        if revision is not None:
            raise UserError(
                f'"{text}" is here, and what is here has no revision "{revision}".',
                "A revision of a repository on the hub.",
                f'Write "{hub.PREFIX}{text}" for the hub.' if hub.is_name(text) else "Leave it out.",
            )
        yield path.resolve(), path.name or text
        return
    if isinstance(source, Path) or not hub.is_name(text):
        raise UserError(
            f'There is nothing at "{text[:200]}".',
            "A file or folder, or the name of a repository on the hub (owner/name).",
            "Check the path.",
        )
    if parent and not text.startswith(hub.PREFIX):
        raise UserError(
            f'"{text}" may be meant for the hub, or for the folder "{path.parent}", which holds no "{path.name}".',
            "A file or folder that is there, or a name that is not also a path.",
            f'Write "{hub.PREFIX}{text}" for the hub.',
        )
    yield hub.fetch(text, revision=revision, variant=variant), text.removeprefix(hub.PREFIX)


def _tokenizer(
    path: Path, text: TextConfig, given: str | Path | None, folders: Sequence[str]
) -> tuple[Tokenizer, list[str]]:
    """The tokenizer for a text encoder, as named, else from beside the model, else CLIP's own; and what surprised."""
    wanted, pad = text.vocabulary, text.pad
    if given is not None:
        made = Tokenizer.from_folder(Path(given).expanduser(), pad=pad)
        if made.vocabulary != wanted:
            raise UserError(
                f'The tokenizer in "{given}" has {made.vocabulary} tokens, and the text encoder {wanted}.',
                "A tokenizer that belongs to the model.",
            )
        return made, []
    notes: list[str] = []
    root = path if path.is_dir() else path.parent
    own = [] if path.is_dir() else [path.with_suffix(".tokenizer")]
    for folder in [*own, *(root / name for name in folders), root]:
        if (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file():
            for name in TOKENIZER_FILES:
                store.inside(root, os.path.relpath(folder / name, root))
            made = Tokenizer.from_folder(folder, pad=pad)
            if made.vocabulary == wanted:
                return made, notes
            notes.append(f"the tokenizer in {folder.name} has {made.vocabulary} tokens, not {wanted}: not taken")
    made = Tokenizer.packaged(pad=pad)
    if made.vocabulary != wanted:
        raise UserError(
            f'"{path}" has a text encoder for {wanted} tokens, and no tokenizer of that size lies beside it.',
            "A tokenizer that belongs to the model.",
            "Give its folder with --tokenizer.",
        )
    if path.is_dir():
        notes.append("the folder has no tokenizer: CLIP's own is taken")
    return made, notes


def _second(path: Path, text: TextConfig, given: str | Path | None, first: Tokenizer) -> Tokenizer:
    """The second encoder's tokenizer: from a folder of its own, else the first one's words with its own padding."""
    if given is None and path.is_dir() and (path / SECOND).is_dir():
        return _tokenizer(path, text, None, (SECOND,))[0]
    if first.vocabulary != text.vocabulary:
        return _tokenizer(path, text, given, (SECOND,))[0]
    return Tokenizer(first.merges, pad=text.pad, length=first.length)


def _nets(found: Found, dtype: torch.dtype, lay: Lay) -> dict[str, torch.nn.Module]:
    """The nets with their weights."""
    nets: dict[str, torch.nn.Module] = {}
    for part, pairs in found.pairs.items():
        state: dict[str, Tensor] = {}
        for pair in pairs:
            state |= _take(found, pair, dtype, lay)
        net = keymap.empty(config_of(found.plan.family, part))
        net.load_state_dict(state, strict=True, assign=True)
        nets[part] = net.eval().requires_grad_(False)
    return nets


def _take(found: Found, pair: Pair, dtype: torch.dtype, lay: Lay) -> dict[str, Tensor]:
    """The tensors of ours in one of theirs, cast and laid out in one go, and checked to be finite."""
    stored = found.held.tensor(pair.theirs)
    if stored.dtype == torch.float64:
        stored = stored.to(torch.float32)  # half of a double is the half of its float32, as for the digest
    made, copied = {}, False
    for name, tensor in zip(pair.ours, pair.turn.take(stored), strict=True):
        made[name] = lay(tensor, dtype)
        if not finite(made[name]):
            check_finite(tensor.to(torch.float32), f'"{found.plan.source}": tensor {pair.theirs}')
            raise UserError(
                f'"{found.plan.source}": tensor {pair.theirs} has values too large for {dtype}.', "", "Use float32."
            )
        copied = copied or made[name].data_ptr() != tensor.data_ptr()
    if copied:
        found.held.release(pair.theirs)  # its pages would otherwise count as a second copy
    return made


def _counted(found: Found) -> Counted:
    """The model's digest: compared at once with what the header promises, if we wrote it, else to be counted later."""
    metadata = found.held.metadata
    if description.KEY in metadata:
        family, promised = description.described(metadata[description.KEY])
        if found.plan.family == family and not found.averaged:
            digest = values.digest_of(found)
            if promised != digest:
                raise UserError(
                    f'"{found.plan.source}" is damaged: its weights are not those that it was saved with '
                    f"(digest {digest[:10]}, not {promised[:10]}).",
                    "",
                    "Fetch or save it again.",
                )
            return Counted(digest)
    return Counted(count=partial(values.digest_of, found))
