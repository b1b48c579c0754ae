"""A run's state in pieces: each process writes the rows that it holds, for models whose state fits no process.

`step-NNNNNNNN.pieces/` holds `piece-RANK-of-WORLD.safetensors`, the facts in `state.json`, and a manifest with the sum
of each file, without which there is no checkpoint. Tensors are cut along their first axis as torch.chunk does; what is
not cut is in the first piece. Any number of processes reads them; `joined` and `divided` turn pieces into the one file
that runs write otherwise, and back.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.training import parallel
from aquatint.training.recipe import Share
from aquatint.training.sharding import cut, own
from aquatint.training.state import Damaged, NotFinite, digest_of, facts_of, first_odd, number, outgoing, read
from aquatint.weights import writer

FACTS = "state.json"
T = TypeVar("T")


class Pieces(Mapping[str, Tensor]):
    """The whole tensors of a checkpoint in pieces by name, each put together when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.facts = facts_of(folder, files.read_text(folder / FACTS, limit=2**26))
        self._files = [safe_open(path, framework="pt") for path in _named(folder)]
        self._names = [frozenset(file.keys()) for file in self._files]
        self._all = sorted(frozenset[str]().union(*self._names))

    def __getitem__(self, name: str) -> Tensor:
        rows = [file.get_tensor(name) for file, names in zip(self._files, self._names, strict=True) if name in names]
        if not rows:
            raise KeyError(name)
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def save_pieces(
    folder: Path, facts: Mapping[str, Any], held: Iterable[tuple[str, Tensor, Tensor]], share: Share, keep: int = 2
) -> Path:
    """Write a run's state (training.state.held), each process its piece; all call this at once, over one folder.

    Raises UserError in all processes where one of them cannot; then no older checkpoint has gone.
    """
    path = folder / f"step-{facts['step']:08d}.pieces"
    own_rows = {n: own(t).contiguous().cpu() for n, t, weight in held if cut(t, weight) or share.rank == 0}
    if odd := next((name for name in parallel.told(first_odd(own_rows)) if name), ""):
        raise NotFinite(odd, facts["step"])
    if path in pieces(folder) and not any(parallel.told(_damage(path, share))):
        return path
    with ExitStack() as stack:

        def begin() -> files.Build | None:
            if share.rank:
                return None
            if path.exists():
                files.remove(path)
            return stack.enter_context(files.building(path))

        build = in_step(begin)
        (place,) = parallel.told(str(build.folder) if build else "")[:1]
        name = _name(share)
        out = in_step(lambda: _write(Path(place) / name, own_rows))
        for entry in parallel.told(json.dumps([name, out.size, out.sha256])):
            if build:
                other, size, digest = json.loads(entry)
                build.entries[other] = files.Entry(size, digest)

        def finish() -> None:
            if build:
                build.write(FACTS, json.dumps(dict(facts)))
            stack.close()

        in_step(finish)
    if wrong := next((word for word in parallel.told(_damage(path, share)) if word), ""):
        raise Damaged(path, wrong)

    def retire() -> None:
        for old in [found for found in pieces(folder) if number(found) <= facts["step"]][:-keep]:
            files.remove(old)

    in_step(retire if share.rank == 0 else lambda: None)
    return path


def in_step(work: Callable[[], T]) -> T:
    """What a piece of work gives that all processes do at once; a UserError of one of them is raised in all."""
    try:
        result, trouble = [work()], ""
    except UserError as error:
        result, trouble = [], str(error)
    if told := next((word for word in parallel.told(trouble) if word), ""):
        raise UserError(told)
    return result[0]


def newest_pieces(folder: Path, tell: Callable[[str], None], share: Share) -> Pieces | None:
    """The newest checkpoint in pieces that is whole, None where there is none; damaged ones are told of.

    The processes share the work of reading all that there is. Raises Damaged where all checkpoints are.
    """
    trouble: Damaged | None = None
    for path in reversed(pieces(folder)):
        wrong = _damage(path, share)
        if all(not word for word in parallel.told(wrong)):
            return Pieces(path)
        error = Damaged(path, wrong or "another process found it so")
        trouble = trouble or error
        tell(str(error))
    if trouble is not None:
        raise trouble
    return None


def pieces(folder: Path) -> list[Path]:
    """The checkpoints in pieces of a run, oldest first."""
    found = [path for path in folder.glob("step-*.pieces") if re.fullmatch(r"step-\d{8,12}", path.stem)]
    return sorted((path for path in found if (path / files.MANIFEST).is_file()), key=number)


def joined(source: Path, folder: Path) -> Path:
    """A checkpoint in pieces -> the one file that runs write otherwise, in `folder`; its path."""
    if wrong := _damage(source, Share()):
        raise Damaged(source, wrong)
    found = Pieces(source)
    tensors, text = dict(found), json.dumps(found.facts)
    path = folder / f"step-{found.facts['step']:08d}.safetensors"
    with files.writing(path) as out:
        writer.write(out, outgoing(tensors), {"state": text, "digest": digest_of(text, tensors)})
    return path


def divided(source: Path, folder: Path, count: int) -> Path:
    """A checkpoint of one file -> `count` pieces in `folder`, as so many processes would write them; their path."""
    if not 1 <= count <= 100_000:
        raise UserError(f"{count} pieces.", "1 to 100,000.")
    facts, tensors = read(source)
    path = folder / f"step-{facts['step']:08d}.pieces"
    with files.building(path) as build:
        for rank in range(count):
            rows = {name: _rows(tensor, Share(rank, count)) for name, tensor in tensors.items()}
            with build.writing(_name(Share(rank, count))) as out:
                writer.write(out, outgoing({n: t.contiguous() for n, t in rows.items() if t is not None}), {})
        build.write(FACTS, json.dumps(facts))
    return path


def _write(path: Path, rows: Mapping[str, Tensor]) -> files.Out:
    with files.writing(path) as out:
        writer.write(out, outgoing(rows), {})
    return out


def _name(share: Share) -> str:
    return f"piece-{share.rank:05d}-of-{share.world:05d}.safetensors"


def _named(folder: Path) -> list[Path]:
    """The pieces that a manifest names, in their order."""
    return [folder / name for name in sorted(files.read_manifest(folder)) if name != FACTS]


def _rows(tensor: Tensor, share: Share) -> Tensor | None:
    """The rows that one process holds; None if it has none of a tensor that is not cut."""
    if tensor.ndim == 0:
        return tensor if share.rank == 0 else None
    chunks = tensor.chunk(share.world)
    return chunks[share.rank] if share.rank < len(chunks) else tensor[:0]


def _damage(path: Path, share: Share) -> str:
    """What is wrong with those files of a folder that are ours to look at; nothing if it is empty."""
    if path.is_symlink() or (path / files.MANIFEST).is_symlink():
        return "a symbolic link is in its place"
    try:
        entries = files.read_manifest(path)
        if FACTS not in entries:
            return f"its manifest does not name {FACTS}"
        for index, (name, entry) in enumerate(sorted(entries.items())):
            if Path(name).name != name:
                return f"its manifest names {name[:100]}"
            measured = files.measure(path / name, follow=False) if index % share.world == share.rank else None
            if measured and measured != (entry.size, entry.sha256):
                return f"{name} is not what was written"
    except UserError as error:
        return str(error)
    return ""
