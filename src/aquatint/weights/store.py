"""Files as lazy tensors: their heads are read and checked first, the bytes are mapped and read when needed.

A mapping is private (mapped.py): nothing that is done to a tensor reaches the file. It is also why a file must not be
changed or cut while a model made from it is in use: the system then ends the process. Copy a file that somebody else
may touch.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.weights.header import DTYPES, Entry, Header, Malformed, read_header
from aquatint.weights.mapped import Mapped
from aquatint.weights.torchfile import TorchFile, is_torch

LARGEST_JSON = 4 * 2**20
SUFFIX, INDEX = ".safetensors", ".safetensors.index"
OLD_SUFFIX = ".bin"  # of weights in a folder, as torch.save wrote them
_SAFETENSORS = "Weights in safetensors, or as torch.save writes them, are read."
MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of git-lfs, not the file that it points to", 'Run "git lfs pull" there.'),
    (b"GGUF", "a GGUF file", "Get the same model as safetensors."),
    (b"\x89HDF", "an HDF5 file (Keras)", "Get the same model as safetensors."),
    (b"\x89PNG", "a picture", "Give a model."),
    (b"\xff\xd8\xff", "a picture", "Give a model."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (b"<", "a web page or XML", "The download went wrong: fetch it again."),
)


class TensorFile:
    """One safetensors file: its head, and its tensors on demand as views of the mapped bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with files.reading(path, follow=False) as (file, size):  # callers resolve links, to see where they lead
            self.size = size
            self.header: Header = _header(path, file, size)
            self._mapped = Mapped(file, size)

    def tensor(self, name: str, *, apart: bool = False) -> Tensor:
        """A tensor as the file stores it, without copying (except where another program aligned it badly)."""
        entry = self.header.entries[name]
        dtype = DTYPES[entry.dtype]
        if not entry.size:
            return torch.empty(entry.shape, dtype=dtype)
        flat = self._mapped.tensor(self.header.start + entry.begin, entry.size, dtype, apart=apart)
        return flat.reshape(entry.shape)

    def sha256(self) -> str:
        """Of the whole file, in hexadecimal."""
        return hashlib.sha256(self._mapped.bytes).hexdigest()

    def data(self) -> memoryview:
        """All tensors' bytes, as they lie in the file."""
        return memoryview(self._mapped.bytes)[self.header.start :]

    def release(self, name: str, *, apart: bool = False) -> None:
        """Tell the system that a tensor's bytes are not needed again soon (they were copied elsewhere)."""
        entry = self.header.entries[name]
        self._mapped.release(self.header.start + entry.begin, entry.size, apart=apart)


File = TensorFile | TorchFile


def open_file(path: Path) -> File:
    """A file with tensors in it; what it is, its first bytes say, and never its name."""
    with files.reading(path, follow=False) as (file, _):
        start = file.read(9)
    return TorchFile(path) if is_torch(start) else TensorFile(path)


@dataclass(frozen=True)
class Held:
    """What lies at a path: tensors by name (in a folder "unet/conv_in.weight"), texts and documents beside them.

    documents   JSON by its path in the folder; notes   what was decided on the way, in words
    """

    path: Path
    files: tuple[File, ...]
    where: Mapping[str, tuple[File, str]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    documents: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def entry(self, name: str) -> Entry:
        """How a tensor is stored."""
        file, inner = self.where[name]
        return file.header.entries[inner]

    def tensor(self, name: str, *, apart: bool = False) -> Tensor:
        """A tensor, mapped."""
        file, inner = self.where[name]
        return file.tensor(inner, apart=apart)

    def release(self, name: str, *, apart: bool = False) -> None:
        """See TensorFile.release."""
        file, inner = self.where[name]
        file.release(inner, apart=apart)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape."""
        return {name: self.entry(name).shape for name in self.where}


def hold(path: Path, opened: Iterable[tuple[str, File]], **more: Any) -> Held:
    """Everything in several files, each with a prefix for its names."""
    opened = list(opened)
    where = {prefix + name: (file, name) for prefix, file in opened for name in file.header.entries}
    metadata = {key: text for _, file in reversed(opened) for key, text in file.header.metadata.items()}
    return Held(path, tuple(file for _, file in opened), where, metadata, **more)


def inside(root: Path, name: str) -> Path:
    """The real path of a file that belongs to the folder `root`; a link or name that leads out is a UserError.

    The hub's cache keeps its files in a folder beside the snapshots and links to them, so there the repository's whole
    folder counts as inside.
    """
    with files.telling(root / name, "read"):
        real, home = (root / name).resolve(), root.resolve()
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        home = home.parent.parent
    if not real.is_relative_to(home):
        raise UserError(
            f'"{root / name}" leads out of its folder.',
            "The files of a model lie in its folder.",
            "Copy the file there if you trust it.",
        )
    return real


def document(root: Path, name: str) -> Any:
    """A JSON object in the folder, or None if there is none of that name."""
    if not (root / name).exists():
        return None
    data = files.read_json(inside(root, name), limit=LARGEST_JSON)
    if not isinstance(data, dict):
        raise UserError(f'"{root / name}" does not hold a JSON object.', "", "Fetch it again.")
    return data


def find(root: Path, folder: str, stem: str, variant: str | None) -> tuple[list[File], str]:
    """The weights of one net in `root/folder`, in one file or in shards, and a note; no files if there are none.

    stem      "model" or "diffusion_pytorch_model"
    variant   "fp16" takes stem.fp16.safetensors, and the plain weights where there are none; None takes the plain
              ones, and a single variant where there are only those
    """
    home, within = root / folder, f"{folder}/" if folder else ""
    there = variants(home, stem)
    note = ""
    if variant not in there:
        if variant is not None and None in there:
            note, variant = f"{home.name} has no variant {variant}: its plain weights are used", None
        elif variant is None and len(there) == 1:
            variant = there[0]
            note = f"{home.name} has only the variant {variant}"
        elif there:
            names = ", ".join(sorted(str(name) for name in there if name))
            raise UserError(
                f'"{home}" has {f"no weights of variant {variant}" if variant else "no plain weights"}.',
                f"Variants there: {names}.",
                "Name one with --variant.",
            )
        else:
            return _old(root, within, stem, variant)
    middle = f".{variant}" if variant else ""
    index = f"{stem}{INDEX}{middle}.json"
    if (home / index).exists():
        return shards(root, within + index), note
    return [TensorFile(inside(root, within + f"{stem}{middle}{SUFFIX}"))], note


def _old(root: Path, within: str, stem: str, variant: str | None) -> tuple[list[File], str]:
    """The weights of one net as torch.save wrote them, which are read where there are no others."""
    middle = f".{variant}" if variant else ""
    for name in (f"{stem}{middle}{OLD_SUFFIX}", f"pytorch_{stem}{middle}{OLD_SUFFIX}"):
        if (root / within / name).exists():
            return [open_file(inside(root, within + name))], f"{within}{name} is a pickle, read as data"
    return [], ""


def variants(home: Path, stem: str) -> list[str | None]:
    """Which variants of a net's weights a folder has; None stands for the plain ones."""
    found: set[str | None] = set()
    for path in home.iterdir() if home.is_dir() else ():
        name = path.name.removeprefix(stem)
        if name == path.name:
            continue
        if name.startswith(INDEX) and name.endswith(".json"):
            found.add(name[len(INDEX) : -len(".json")].removeprefix(".") or None)
        elif name.endswith(SUFFIX) and "-of-" not in name:
            found.add(name.removesuffix(SUFFIX).removeprefix(".") or None)
    return sorted(found, key=str)


def shards(root: Path, index: str) -> list[File]:
    """The files that an index names, each checked to hold exactly the tensors that the index says."""
    data = document(root, index)
    table = data.get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
        raise UserError(f'"{root / index}" has no weight_map from tensors to files.', "", "Fetch it again.")
    promised: dict[str, set[str]] = {}
    for name, file in table.items():
        promised.setdefault(file, set()).add(name)
    folder = index.rpartition("/")[0]
    opened: list[File] = []
    for file, names in sorted(promised.items()):
        if Path(file).name != file or file in ("", ".", "..") or "\\" in file:
            raise UserError(
                f'"{root / index}" names the file "{file[:80]}".', "Only files beside the index.", "Do not trust it."
            )
        path = inside(root, f"{folder}/{file}" if folder else file)
        if not path.exists():
            raise UserError(f'"{root / folder / file}" is missing.', f"{len(promised)} shards are.", "Fetch it again.")
        shard = TensorFile(path)
        if (held := set(shard.header.entries)) != names:
            odd = sorted(held ^ names)
            raise UserError(
                f'"{path.name}" does not hold the tensors that its index says ({len(odd)} differ, as "{odd[0]}").',
                "Shards and index of one model.",
                "Fetch them again.",
            )
        opened.append(shard)
    return opened


def single(path: Path) -> Held:
    """Everything in one file."""
    opened = open_file(path)
    return hold(path, [("", opened)], notes=opened.notes if isinstance(opened, TorchFile) else ())


def _header(path: Path, file: Any, size: int) -> Header:
    first = file.read(32)
    if not size:
        raise UserError(f'"{path}" is empty.', _SAFETENSORS, "Fetch it again.")
    if first[8:9] != b"{":
        for magic, kind, remedy in MAGICS:
            if first.startswith(magic):
                raise UserError(f'"{path}" is {kind}.', _SAFETENSORS, remedy)
    try:
        return read_header(file, size)
    except Malformed as why:
        raise UserError(f'"{path}" is not a whole safetensors file: {why}.', _SAFETENSORS, "Fetch it again.") from None
