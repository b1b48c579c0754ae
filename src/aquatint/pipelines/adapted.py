"""A bundle with the adapters of a request on it; the bundle that was given stays as it is."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from aquatint.base import runtime
from aquatint.base.counted import Counted
from aquatint.base.errors import UserError
from aquatint.nets.lora import Change, attach, extract, merge
from aquatint.pipelines.account import account_of
from aquatint.pipelines.lora import Lora
from aquatint.pipelines.prompt import tags_of
from aquatint.pipelines.record import File
from aquatint.pipelines.request import Request
from aquatint.weights.adapter_names import blocks, nets
from aquatint.weights.embeddings import fit_embedding, open_embedding
from aquatint.weights.loras import Account, Adapters, fit, open_lora
from aquatint.weights.save import digest_of

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle

_Changes = dict[str, dict[str, list[Change]]]  # by net, by weight


class Adapted(NamedTuple):
    """A bundle with adapters on it, the files that they are from, and what became of each."""

    bundle: "Bundle"
    files: tuple[File, ...]
    accounts: tuple[Account, ...]


def wanted(bundle: "Bundle", request: Request) -> tuple[Lora, ...]:
    """The LoRAs of a request: its own, and those that tags in its prompt name, where there is a shelf to find them."""
    tags = tags_of(request.prompt, request.grammar) if bundle.shelf else ()
    named = [Lora(tag.name, tag.weight, tag.text_weight) for tag in tags if tag.kind != "hypernet"]
    return (*request.loras, *named)


def adapted(bundle: "Bundle", loras: Sequence[Lora]) -> Adapted:
    """The bundle with LoRAs on it: W + sum_k weight_k * delta_k(W), whatever the order in which they are named.

    They are added in the order of their digests, so the bits do not depend on the order either. Raises UserError for
    a name that is not on the shelf and for a file that does not fit; then and always, `bundle` is unchanged.
    """
    if not loras:
        return Adapted(bundle, (), ())
    rows, accounts = [], {}
    for lora in loras:
        file = open_lora(bundle.shelf.find(lora.name))
        fitted = fit(file, bundle.family, partial=bundle.shelf.partial)
        rows.append((File("lora", lora.name, file.digest, file.hash), lora, fitted.adapters))
        accounts[lora.name] = fitted.account
    changes: _Changes = {}
    for _, lora, adapters in sorted(rows, key=lambda row: (row[0].sha256, row[1].strengths, row[1].blocks)):
        _add(changes, bundle, lora, adapters)
    with runtime.exact(bundle.device, bundle.threads):
        made: dict[str, Any] = {net: attach(_net(bundle, net), names) for net, names in changes.items()}
    files = tuple(dict.fromkeys(file for file, _, _ in sorted(rows, key=lambda row: row[0].name)))
    return Adapted(replace(bundle, **made), files, tuple(accounts.values()))


def merged(bundle: "Bundle", loras: Sequence[Lora]) -> "Bundle":
    """The bundle with LoRAs added to its weights for good: another model, with a digest of its own, to be saved."""
    on = adapted(bundle, loras)
    family, texts = bundle.family, bundle.texts
    parts: dict[str, Any] = {net: merge(_net(on.bundle, net), {}) for net in nets(family)}
    whole: dict[str, nn.Module] = {**parts, "autoencoder": bundle.autoencoder}
    names = [bundle.name, *(f"{lora.name} {lora.weight:g}" for lora in loras)]
    return replace(
        on.bundle,
        **parts,
        name="+".join([bundle.name, *dict.fromkeys(lora.name for lora in loras)]),
        counted=Counted(digest_of(family, whole, None)),
        file=None,
        texts={**texts, "modelspec.merged_from": ", ".join(names)},
    )


class Difference(NamedTuple):
    """What `extracted` found: adapters by net and weight, their share of the squared difference, what they leave."""

    adapters: Adapters
    kept: float
    left: tuple[str, ...]


def extracted(base: "Bundle", tuned: "Bundle", rank: int, *, rest: bool = False) -> Difference:
    """The LoRA of a rank that leads from one model nearest to another of the same family (nets.lora.extract)."""
    if nets(base.family) != nets(tuned.family):
        raise UserError(
            f'"{base.name}" is {base.family.name}, and "{tuned.name}" is {tuned.family.name}.', "Models of one family."
        )
    found = {net: extract(_net(base, net), _net(tuned, net), rank, rest=rest) for net in nets(base.family)}
    adapters = {net: row.adapters for net, row in found.items() if row.adapters}
    if not adapters:
        raise UserError(f'"{base.name}" and "{tuned.name}" have the same weights.', "Two models that differ.")
    left = tuple(f"{net}.{name}" for net, row in found.items() for name in row.left)
    whole = sum(row.energy for row in found.values())
    return Difference(adapters, sum(row.kept * row.energy for row in found.values()) / whole if whole else 1.0, left)


def with_embeddings(bundle: "Bundle", paths: Sequence[str | Path]) -> "Bundle":
    """The bundle with the words of textual inversions; UserError for one of another family, or a word said twice."""
    words, learned = dict(bundle.embeddings), dict(bundle.learned)
    for path in paths:
        file = open_embedding(path)
        for word, vectors in fit_embedding(file, bundle.family).items():
            if word in words and learned[word].sha256 != file.digest:
                raise UserError(f'Two files teach the word "{word}".', "One for each word.", "Rename one.")
            words[word] = tuple(tensor.to(bundle.device) for tensor in vectors)
            learned[word] = File("embedding", word, file.digest, file.digest)
    return replace(bundle, embeddings=words, learned=learned)


def embeddings_of(bundle: "Bundle", request: Request) -> tuple[File, ...]:
    """The embeddings that a request's texts say."""
    if not bundle.learned:
        return ()
    texts = (request.prompt, False), (request.negative, True)
    said = [
        name
        for text, negative in texts
        for name in account_of(bundle, text, request.grammar, steps=request.steps or 1, negative=negative).embeddings
    ]
    return tuple(bundle.learned[name] for name in sorted(set(said)) if name in bundle.learned)


def notes(bundle: "Bundle", request: Request) -> list[str]:
    """What of a request's adapters is left out, in sentences: layers without a place, tags without a shelf."""
    told = []
    if bundle.shelf.partial:
        told = [line for account in adapted(bundle, wanted(bundle, request)).accounts for line in account.told()]
    if not bundle.shelf:
        names = dict.fromkeys(tag.name for tag in tags_of(request.prompt, request.grammar) if tag.kind != "hypernet")
        told += [f'The LoRA "{name}" is left out: no file or folder of LoRAs was given.' for name in names]
    return told


def _add(changes: _Changes, bundle: "Bundle", lora: Lora, adapters: Adapters) -> None:
    """One LoRA's changes, each with its strength: of its net, times its block's factor."""
    place, factors = blocks(bundle.family.unet), dict(lora.blocks)
    if strange := sorted(set(factors) - set(place.values())):
        raise UserError(
            f'"{lora.name}" has a factor for the block {strange[0]}.',
            f"Blocks: {', '.join(sorted(set(place.values())))}.",
        )
    unet, text = lora.strengths
    for net, names in adapters.items():
        for name, adapter in names.items():
            factor = factors.get(place[name.rpartition(".")[0]], 1.0) if net == "unet" else 1.0
            strength = (unet if net == "unet" else text) * factor
            changes.setdefault(net, {}).setdefault(name, []).append(Change(adapter, strength))


def _net(bundle: "Bundle", net: str) -> nn.Module:
    module: nn.Module = getattr(bundle, net)
    return module
