"""The models that lie in a folder, found by their heads alone: no weights are read, and nothing of theirs is run."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.weights import inspect
from aquatint.weights.embeddings import open_embedding
from aquatint.weights.loras import open_lora

ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
MOST, DEEPEST = 20_000, 8  # files and folders that are looked at; folders one in the other
_WHOLE = ("model_index.json", "manifest.json", "unet")  # what makes a folder one model


@dataclass(frozen=True)
class Entry:
    """One model, or a file that is none.

    kind     model, lora, embedding, or unread;  family, format, size in bytes: of models
    note     why it was not read, or what is assumed of it
    """

    path: str
    kind: str
    family: str = ""
    format: str = ""
    size: int = 0
    note: str = ""


def catalogue(folder: str | Path) -> list[Entry]:
    """What lies in a folder and in those within; UserError for a path that is no folder, or has too much in it."""
    root = Path(folder).expanduser()
    with files.telling(str(root)[:200], "read"):
        if not root.is_dir():
            raise UserError(f'There is no folder "{str(root)[:200]}".', "A folder of models.", "Check the path.")
        return [entry(path) for path in _candidates(root)]


def entry(path: Path) -> Entry:
    """One file or folder in short. Whatever is wrong with it becomes its note."""
    try:
        plan = inspect(path)
    except UserError as error:
        why = " ".join(error.got.split())[:200]
        return _other(path) or Entry(str(path), "unread", size=_size(path), note=why)
    note = "" if plan.complete else "not every tensor finds its place"
    return Entry(str(path), "model", plan.family.name, plan.format, sum(plan.files.values()), note)


def own_folders() -> list[Path]:
    """Where models are looked for if no folder is named: our own, and the hub's snapshots; those that are there."""
    home = os.environ.get("AQUATINT_HOME")
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    own = Path(home) if home else Path(data) / "aquatint"
    from huggingface_hub.constants import HF_HUB_CACHE

    found = [(own / "models").expanduser()]
    cache = Path(HF_HUB_CACHE).expanduser()
    if cache.is_dir():
        found += sorted(cache.glob("models--*/snapshots/*"))[:MOST]
    return [folder for folder in found if folder.is_dir()]


def _other(path: Path) -> Entry | None:
    """An adapter's or an embedding's file; None for one that is neither."""
    if path.is_dir():
        return None
    try:
        return Entry(str(path), "lora", size=_size(path), format=open_lora(path).dialect)
    except UserError:
        pass
    try:
        return Entry(str(path), "embedding", size=_size(path), format=open_embedding(path).format)
    except UserError:
        return None


def _candidates(root: Path) -> Iterator[Path]:
    """Folders that are one model, and single files by their endings, in the order of their names."""
    count, waiting = 0, [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        if any((folder / name).exists() for name in _WHOLE):
            yield folder
            continue
        inner = []
        for path in sorted(folder.iterdir()):
            count += 1
            if count > MOST:
                raise UserError(f'"{root}" holds more than {MOST:,} files.', "A folder of models.")
            if path.is_dir():
                inner += [(path, depth + 1)] if depth < DEEPEST and not path.is_symlink() else []
            elif path.name.lower().endswith(ENDINGS):
                yield path
        waiting += reversed(inner)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
