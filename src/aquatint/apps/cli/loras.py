"""`aquatint loras`, `merge`, `extract`: adapters looked at, added to a model for good, and taken out of one."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aquatint.apps.cli.adapters import Adapting, opening, read_loras
from aquatint.apps.cli.generate import Machine, Source, open_bundle
from aquatint.apps.cli.lists import Json, table
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.weights.loras import LoraFile


def loras(
    folder: Annotated[Path, Parameter(help="A folder; the folders in it are looked into, too.")],
    /,
    *,
    json: Json = False,
) -> None:
    """The LoRAs and textual inversions of a folder: what each is for, its rank, the words that call it, its sha256."""
    from aquatint.pipelines.shelf import ENDINGS, listed

    if not folder.expanduser().is_dir():
        raise UserError(f'"{folder}" is no folder.', "A folder of LoRAs.", "Check the path.")
    folder = folder.expanduser()
    rows = [row(path, folder) for paths in listed(folder, ENDINGS).values() for path in paths]
    if not rows:
        print("[]" if json else "There are none.")
        return
    table(rows, json)


def row(path: Path, folder: Path) -> dict[str, Any]:
    """One file of a folder in short: an adapter, an embedding, or why it is neither; a link out is not followed."""
    from aquatint.weights import store
    from aquatint.weights.embeddings import open_embedding
    from aquatint.weights.loras import open_lora

    facts: dict[str, Any] = {"name": path.stem, "kind": "", "made_for": "", "rank": "", "words": "", "sha256": ""}
    try:
        store.inside(folder, os.path.relpath(path, folder))
    except UserError:
        return facts | {"kind": "unread", "made_for": "It leads out of its folder."}
    try:
        file = open_lora(path)
        ranks = " ".join(map(str, file.ranks[:3]))
        told = {"kind": file.dialect, "made_for": file.made_for, "rank": ranks, "words": ", ".join(file.words)}
        return facts | told | {"sha256": file.digest[:10]}
    except UserError as error:
        reason = error.got
    try:
        learned = open_embedding(path)
        vectors = next(iter(learned.words.values()))
        width = ", ".join(f"{len(rows)} vectors of {rows.shape[1]}" for rows in vectors)
        words = ", ".join(learned.words)
        return facts | {"kind": "embedding", "made_for": width, "words": words, "sha256": learned.digest[:10]}
    except UserError:
        return facts | {"kind": "unread", "made_for": " ".join(reason.split())[:100]}


def described(path: Path) -> dict[str, Any] | None:
    """What an adapter's or embedding's file holds, for `aquatint inspect`; None for a file that is neither."""
    from aquatint.weights.embeddings import open_embedding
    from aquatint.weights.loras import PEFT_CONFIG, open_lora

    if path.is_dir() and not (path / PEFT_CONFIG).exists():
        return None
    try:
        return plan(path, open_lora(path))
    except UserError:
        pass
    try:
        learned = open_embedding(path)
    except UserError:
        return None
    words = {word: [list(rows.shape) for rows in vectors] for word, vectors in learned.words.items()}
    return {"path": str(path), "kind": "embedding", "format": learned.format, "words": words, "sha256": learned.digest}


def plan(path: Path, file: "LoraFile") -> dict[str, Any]:
    """A LoRA's file: dialect, family, ranks, layers by net, and which of the families it fits."""
    from aquatint.families import FAMILIES
    from aquatint.weights.loras import fit

    facts: dict[str, Any] = {
        "path": str(path),
        "kind": "adapter",
        "dialect": file.dialect,
        "made_for": file.made_for,
        "ranks": list(file.ranks[:8]),
        "layers": len(file.parts),
        "words": list(file.words),
        "sha256": file.digest,
        "hash": file.hash[:12],
    }
    fits = {}
    for family in FAMILIES.values():
        try:
            account = fit(file, family, partial=True).account
        except UserError:
            continue
        left = {reason: list(names[:5]) for reason, names in account.unmatched.items()}
        fits[family.name] = {"matched": dict(account.matched), "kinds": dict(account.kinds), "unmatched": left}
    return facts | {"fits": fits, "metadata": {key: text[:200] for key, text in sorted(file.metadata.items())}}


def merge(
    out: Annotated[Path, Parameter(help="Where to write the model; there must be nothing yet.")],
    /,
    *,
    source: Source | None = None,
    adapting: Adapting | None = None,
    format: Annotated[str, Parameter(help="native, diffusers or compvis.")] = "native",
) -> None:
    """Add LoRAs to a model's weights for good, and write it as a model of its own."""
    from aquatint.pipelines.adapted import merged
    from aquatint.pipelines.bundle import save

    wanted = read_loras(adapting)
    if not wanted:
        raise UserError("There is no LoRA to merge.", "--lora FILE, or FILE:WEIGHT.")
    bundle = merged(open_bundle(source, Machine("cpu", "float32"), opening(adapting)), wanted)
    print(save(bundle, out, format))


def extract(
    base: Annotated[str, Parameter(help="The model that it began from.")],
    tuned: Annotated[str, Parameter(help="The model that was made of it.")],
    out: Annotated[Path, Parameter(help="A .safetensors file that is not there yet.")],
    /,
    *,
    rank: Annotated[int, Parameter(help="Of each layer, at most.")] = 32,
    dialect: Annotated[str, Parameter(help="kohya or diffusers.")] = "kohya",
    rest: Annotated[bool, Parameter(help="Biases and norms as well (kohya only).", negative="")] = False,
) -> None:
    """Write what one model differs from another by, as a LoRA."""
    from aquatint.pipelines.adapted import extracted
    from aquatint.weights.lora_writer import save_lora

    machine = Machine("cpu", "float32")
    one, two = open_bundle(Source(base), machine), open_bundle(Source(tuned), machine)
    found = extracted(one, two, rank, rest=rest)
    path = save_lora(out, found.adapters, one.family, dialect)
    print(f"note: it holds {100 * found.kept:.2f} % of the squared difference of its layers.", file=sys.stderr)
    if found.left:
        print(f"note: {len(found.left)} biases, norms and embeddings differ and are left out.", file=sys.stderr)
    print(path)
