"""The shelf: adapter files that a bundle may use, by name. Whoever opens a model fills it; requests say names."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aquatint.base import files
from aquatint.base.errors import UserError, unknown
from aquatint.weights import store

ENDINGS = (".safetensors", ".pt", ".ckpt", ".bin")
PICTURES = (".png", ".webp", ".jpg", ".jpeg")
MOST = 20_000  # files of a folder


@dataclass(frozen=True)
class Shelf:
    """Files by their names without folder and ending, and a folder where others may lie.

    partial   whether files are used whose layers do not all find a place
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    folder: Path | None = None
    partial: bool = False

    def __bool__(self) -> bool:
        return bool(self.files) or self.folder is not None

    def find(self, name: str) -> Path:
        """The file of that name. A name is compared with those that are there and never becomes a path."""
        if name in self.files:
            return self.files[name]
        there = listed(self.folder) if self.folder is not None else {}
        if name not in there:
            remedy = "Give its file (load(loras=[...]), --lora FILE)" + (
                " or its folder (lora_folder=, --lora-folder)." if self.folder is None else "."
            )
            error = unknown("LoRA", name, {*self.files, *there})
            raise UserError(error.got, error.takes if self else "None was opened.", error.remedy or remedy)
        found = there[name]
        if len(found) > 1:
            raise UserError(
                f'"{name}" may be {" or ".join(str(path) for path in found[:3])}.', "One file of a name.", "Rename one."
            )
        assert self.folder is not None
        return store.inside(self.folder, os.path.relpath(found[0], self.folder))


def shelf(
    paths: Iterable[str | Path] | Mapping[str, Path] = (),
    folder: str | Path | None = None,
    *,
    partial: bool = False,
) -> Shelf:
    """A shelf with these files, or files under names of their own, and a folder that must be there.

    UserError for a path that leads nowhere, and for two files of one name.
    """
    named = paths.items() if isinstance(paths, Mapping) else ((None, path) for path in paths)
    found: dict[str, Path] = {}
    for name, given in named:
        path = Path(given).expanduser()
        with files.telling(str(path)[:200], "read"):
            there = path.exists()
        if not there:
            raise UserError(f'There is no file "{str(path)[:200]}".', "A LoRA.", "Check the path.")
        name = name_of(path) if name is None else name
        if found.setdefault(name, path) != path:
            raise UserError(f'Two files are named "{name}".', "Names that differ.", "Rename one.")
    if folder is not None:
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise UserError(f'"{folder}" is no folder.', "A folder of LoRAs.", "Check the path.")
    return Shelf(found, folder, partial)


def name_of(path: Path) -> str:
    """What a file is called on the shelf: its name without its ending (a folder's, in full)."""
    return path.name if path.is_dir() else path.stem


def listed(folder: Path, endings: Iterable[str] = ENDINGS) -> dict[str, list[Path]]:
    """The files of a folder and the folders in it, by name without ending, sorted."""
    found: dict[str, list[Path]] = {}
    count = 0
    with files.telling(folder, "read"):
        for root, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                count += 1
                if count > MOST:
                    raise UserError(f'"{folder}" holds more than {MOST:,} files.', "A folder of LoRAs.")
                if name.lower().endswith(tuple(endings)):
                    found.setdefault(Path(name).stem, []).append(Path(root, name))
    return found
