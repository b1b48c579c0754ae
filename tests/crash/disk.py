"""A disk that forgets: from the shim's journal of operations, the folder that is left when the power goes after any.

What a program has not asked to be synced is not on the disk. DISKS are the ways in which that comes out:
    all       everything that was called is there: the program was killed, the machine lived
    lose      bytes since the file's last sync are gone, and names since their folder's last sync are as they were
    torn      names are all there, but of the bytes since a file's last sync only some sectors of 512 are
    undone    of names not synced, those that were taken away are gone, and those that were given never came
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

DISKS = ("all", "lose", "torn", "undone")
SECTOR = 512
Tree = dict[str, bytes | None]  # path below the root -> a file's bytes, None for a folder


class Operation(NamedTuple):
    """A record of the shim's journal (tests/crash/shim.c)."""

    name: str
    process: int
    descriptor: int
    number: int
    path: str
    other: str
    data: bytes


def journal(log: Path) -> list[Operation]:
    """The operations that a program carried out, in their order."""
    data, found, place = log.read_bytes(), [], 0
    while place < len(data):
        end = data.index(b"\n", place)
        head, other = data[place:end].decode().split("\t")
        name, process, descriptor, number, size, path = head.split(" ", 5)
        place = end + 1 + int(size) + 1
        content = data[end + 1 : place - 1]
        found.append(Operation(name, int(process), int(descriptor), int(number), path, other, content))
    return found


@dataclass
class File:
    """Bytes as programs see them, and as they were at the last sync."""

    live: bytearray = field(default_factory=bytearray)
    synced: bytes = b""

    def left(self, disk: str) -> bytes:
        """What a power cut leaves."""
        if disk == "all":
            return bytes(self.live)
        if disk != "torn" or self.live == self.synced:
            return self.synced
        kept = bytearray(self.live)
        for place in range(0, len(kept), SECTOR):
            if place // SECTOR % 2 or len(kept) <= SECTOR:  # every other sector, and the only one, never came
                old = self.synced[place : place + SECTOR]
                kept[place : place + SECTOR] = old + bytes(len(kept[place : place + SECTOR]) - len(old))
        return bytes(kept[: max(len(self.synced), len(kept) // SECTOR * SECTOR)])


@dataclass
class Folder:
    """Names as programs see them, and as they were at the last sync."""

    live: "dict[str, File | Folder]" = field(default_factory=dict)
    synced: "dict[str, File | Folder]" = field(default_factory=dict)

    def left(self, disk: str) -> "dict[str, File | Folder]":
        """What a power cut leaves."""
        if disk in ("all", "torn"):
            return self.live
        if disk == "lose":
            return self.synced
        return {name: node for name, node in self.synced.items() if name in self.live}


class Disk:
    """The folder `root`, which was there, synced and empty when the journal began."""

    def __init__(self, root: Path) -> None:
        self.root, self.top = str(root), Folder()
        self.open: dict[tuple[int, int], File | Folder] = {}

    def carry_out(self, done: Operation) -> None:
        """One operation more."""
        who = done.process, done.descriptor
        node = self.open.get(who)
        if done.name == "open":
            self.open[who] = self._opened(done)
        elif done.name == "close":
            self.open.pop(who, None)
        elif done.name == "write" and isinstance(node, File):
            node.live.extend(bytes(max(0, done.number - len(node.live))))
            node.live[done.number : done.number + len(done.data)] = done.data
        elif done.name == "truncate" and isinstance(node, File):
            node.live = bytearray(node.live[: done.number].ljust(done.number, b"\0"))
        elif done.name == "sync" and isinstance(node, File):
            node.synced = bytes(node.live)
        elif done.name == "sync" and isinstance(node, Folder):
            node.synced = dict(node.live)
        elif done.name == "mkdir":
            self._give(done.path, Folder())
        elif done.name == "rename":
            self._give(done.other, self._take(done.path))
        elif done.name == "link":
            folder, name = self._place(done.path)
            self._give(done.other, folder.live[name])
        elif done.name == "unlink":
            self._take(done.path)
        else:
            raise AssertionError(f"an operation without a meaning: {done}")

    def left(self, disk: str) -> Tree:
        """The tree that a power cut leaves now, in one of the DISKS' ways."""
        return dict(_walk(self.top, disk, ""))

    def _opened(self, done: Operation) -> "File | Folder":
        folder, name = self._place(done.path)
        node = folder.live.get(name) if name else folder
        if node is None:
            folder.live[name] = node = File()
        if done.number & os.O_TRUNC and isinstance(node, File):
            node.live = bytearray()
        return node

    def _place(self, path: str) -> tuple[Folder, str]:
        """The folder of a path, and its name there ("" for the root itself)."""
        parts = [part for part in path.removeprefix(self.root).split("/") if part]
        folder = self.top
        for part in parts[:-1]:
            inside = folder.live[part]
            assert isinstance(inside, Folder), path
            folder = inside
        return folder, parts[-1] if parts else ""

    def _give(self, path: str, node: "File | Folder") -> None:
        folder, name = self._place(path)
        folder.live[name] = node

    def _take(self, path: str) -> "File | Folder":
        folder, name = self._place(path)
        return folder.live.pop(name)


def _walk(folder: Folder, disk: str, above: str) -> Iterator[tuple[str, bytes | None]]:
    for name, node in sorted(folder.left(disk).items()):
        path = f"{above}/{name}" if above else name
        if isinstance(node, File):
            yield path, node.left(disk)
        else:
            yield path, None
            yield from _walk(node, disk, path)


def build(tree: Tree, folder: Path) -> None:
    """Put a tree into a new folder."""
    folder.mkdir(parents=True)
    for path, data in tree.items():
        if data is None:
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).write_bytes(data)


def seen(folder: Path) -> Tree:
    """The tree that a folder holds."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }
