"""The only durable writer and the only untrusted reader of the house.

A file is written beside its place under another name, synced, renamed into place, and the folder is synced: at every
moment the place holds the old file, the whole new one, or nothing. A folder of files is built the same way, with a
manifest of every file's sha256 as its last member. What is read is opened once, must be a regular file of bounded
size, and is copied into private memory, because a file that shrinks while it is mapped kills the process.
"""

import errno
import hashlib
import itertools
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from aquatint.base import config
from aquatint.base.counted import GoOn
from aquatint.base.errors import UserError

MANIFEST = "manifest.json"
_numbers = itertools.count()  # of temporary names; with the process's id they are unique on a machine
_REASONS = {
    errno.ENOSPC: ("The disk is full", "Make room, or write elsewhere."),
    errno.EDQUOT: ("Your disk quota is used up", "Make room, or write elsewhere."),
    errno.EACCES: ("Permission is denied", "Choose a place that you may use."),
    errno.EPERM: ("Permission is denied", "Choose a place that you may use."),
    errno.EROFS: ("The disk is read-only", "Choose another place."),
    errno.ENOENT: ("It is not there", "Check the path."),
    errno.ENOTDIR: ("A part of the path is a file, not a folder", "Check the path."),
    errno.EISDIR: ("It is a folder, not a file", "Name a file."),
    errno.ENAMETOOLONG: ("The name is too long", "Choose a shorter one."),
    errno.ELOOP: ("It is a symbolic link, or a loop of them", "Name the file itself."),
    errno.EFBIG: ("The file would be larger than the disk's format allows", "Write elsewhere."),
    errno.EIO: ("The disk reports an error", "Check the disk, or write elsewhere."),
    errno.ENOTEMPTY: ("There is already a folder of that name", "Choose another name."),
}


class Out:
    """An open file that counts and hashes what is written to it: `size` in bytes, `sha256` in hexadecimal."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes (anything with a buffer, without a copy)."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._hash.update(view)
        self.size += view.nbytes
        return view.nbytes

    @property
    def sha256(self) -> str:
        """Of everything written so far."""
        return self._hash.hexdigest()


@contextmanager
def writing(path: str | Path, *, replace: bool = True) -> Iterator[Out]:
    """Write a file durably: `with writing(path) as out: out.write(...)`; on any error there is no new file at all.

    replace=False raises Taken when there is something at `path` already, also when it came while we wrote.
    """
    path = Path(path)
    with telling(path, "written"):
        file, temporary = _beside(path)
        try:
            with file:
                yield Out(file)
                file.flush()
                sync_descriptor(file.fileno())
            if replace:
                os.replace(temporary, path)
            else:
                _claim(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


def write(path: str | Path, data: bytes | str, *, replace: bool = True) -> str:
    """Write bytes, or text as UTF-8, durably; returns their sha256."""
    with writing(path, replace=replace) as out:
        out.write(data.encode() if isinstance(data, str) else data)
    return out.sha256


@dataclass(frozen=True)
class Entry:
    """One file of a manifest."""

    size: int
    sha256: str


class Build:
    """A folder in the making; see `building`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}

    @contextmanager
    def writing(self, name: str) -> Iterator[Out]:
        """Write one member, named by its path inside the folder ("unet/config.json")."""
        path = self.folder / name
        assert not os.path.isabs(name), f"{name} is not a member of a folder"
        assert ".." not in Path(name).parts, f"{name} is not a member of a folder"
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as out:
            yield out
        self.entries[name] = Entry(out.size, out.sha256)

    def write(self, name: str, data: bytes | str) -> None:
        """Write one member that is at hand as bytes or text."""
        with self.writing(name) as out:
            out.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def building(folder: str | Path, *, manifest: bool = True) -> Iterator[Build]:
    """Build a folder durably: it appears under its name whole, with its manifest, or not at all.

    There must be nothing at `folder`, or an empty folder. manifest=False leaves the manifest out, for formats of
    others that have no place for it.
    """
    folder = Path(folder)
    with telling(folder, "written"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if folder.exists() or folder.is_symlink():
            raise FileExistsError(errno.EEXIST, "exists", str(folder))
        make_folder(folder.parent)
        temporary = folder.parent / _temporary_name()
        temporary.mkdir()
        try:
            yield (build := Build(temporary))
            if manifest:
                write(temporary / MANIFEST, config.to_json(dict(sorted(_listed(build.entries).items())), indent=1))
            for inside in sorted({path.parent for path in temporary.rglob("*")} | {temporary}):
                sync_folder(inside)
            os.rename(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(folder.parent)


def read_manifest(folder: str | Path) -> dict[str, Entry]:
    """What a folder's manifest names; a folder without one was never finished, which is a UserError."""
    path = Path(folder) / MANIFEST
    data = read_json(path, limit=16 * 2**20)
    if not isinstance(data, dict):
        raise UserError(f'"{path}" is not a manifest.', "An object of file names.")
    return {name: config.from_data(Entry, entry, name) for name, entry in data.items()}


def verify(folder: str | Path) -> dict[str, Entry]:
    """The manifest, after every file that it names was read back and found to be what it says."""
    entries = read_manifest(folder)
    for name, entry in entries.items():
        inside = Path(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise UserError(f'The manifest of "{folder}" names "{name}".', "Only files inside the folder.")
        size, digest = measure(Path(folder) / inside)
        if (size, digest) != (entry.size, entry.sha256):
            raise UserError(
                f'"{Path(folder) / inside}" is damaged: {size} bytes, sha256 {digest[:10]}.',
                f"The manifest says {entry.size} bytes, sha256 {entry.sha256[:10]}.",
                "Fetch or make it again.",
            )
    return entries


@contextmanager
def reading(path: str | Path, *, limit: int | None = None, follow: bool = True) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file once, for reading: (file, size). Everything after is done on this one descriptor.

    limit   the most bytes that it may have; follow=False refuses a symbolic link at the end of the path
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    flags |= 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    with telling(path, "read"):
        descriptor = os.open(path, flags)
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "a device, pipe or socket"
                raise UserError(f'"{path}" is {kind}.', "A regular file.")
            if limit is not None and facts.st_size > limit:
                raise UserError(f'"{path}" has {facts.st_size:,} bytes.', f"At most {limit:,} bytes are read here.")
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                yield file, facts.st_size
        finally:
            os.close(descriptor)


def read(path: str | Path, *, limit: int, follow: bool = True) -> bytes:
    """A whole file of at most `limit` bytes, copied into memory of our own."""
    with reading(path, limit=limit, follow=follow) as (file, size):
        data = _read_up_to(file, size + 1)
    if len(data) != size:
        raise UserError(f'"{path}" changed while it was read.', "A file that nobody is writing.", "Try again.")
    return data


def read_text(path: str | Path, *, limit: int = 2**20) -> str:
    """A whole file as UTF-8 text."""
    try:
        return read(path, limit=limit).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f'"{path}" is not UTF-8 text.', "A text file.") from None


def read_json(path: str | Path, *, limit: int = 2**20) -> Any:
    """A whole file as plain JSON data, parsed strictly."""
    text = read_text(path, limit=limit)
    try:
        return config.parse(text)
    except UserError as error:
        raise UserError(f'"{path}": {error.got}', error.takes, error.remedy) from None


def measure(path: str | Path, go_on: GoOn | None = None, *, follow: bool = True) -> tuple[int, str]:
    """(size, sha256) of a file, read in pieces, with a call of `go_on` before each."""
    digest, size = hashlib.sha256(), 0
    with reading(path, follow=follow) as (file, _):
        while piece := file.read(2**20):
            if go_on is not None:
                go_on()
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


def make_folder(folder: str | Path) -> None:
    """Make a folder, and those above it, durably, unless they are there."""
    folder = Path(folder)
    with telling(folder, "made"):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder))
        missing = list(itertools.takewhile(lambda above: not above.exists(), (folder, *folder.parents)))
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            sync_folder(made.parent)


def remove(path: str | Path) -> None:
    """Remove a file, or a folder with all that it holds: at every moment it is there whole, or not at all."""
    path = Path(path)
    with telling(path, "removed"):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        temporary = path.parent / _temporary_name()
        os.rename(path, temporary)
        shutil.rmtree(temporary)


def sweep(folder: str | Path) -> None:
    """Remove what those who were killed left half written in a folder; only while nobody of this process writes there.

    What a running process has in hand stays.
    """
    for path in Path(folder).glob(".aquatint-*.tmp"):
        process = path.name.split("-")[1]
        if process.isdecimal() and not _at_work(int(process)):
            remove(path)


def check_writable(folder: str | Path) -> None:
    """Find out, before hours of work, whether a file can be made in `folder` (which must exist)."""
    with telling(folder, "written to"):
        file, temporary = _beside(Path(folder) / "x")
        file.close()
        os.unlink(temporary)


def sync_descriptor(descriptor: int) -> None:
    """Have the disk hold what was written; macOS needs to be asked for the disk's own buffer as well."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the disk hold which names a folder has."""
    if os.name == "nt":  # Windows opens no folders, and journals its names
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network disks cannot sync a folder
            raise
    finally:
        os.close(descriptor)


@contextmanager
def telling(path: str | Path, verb: str) -> Iterator[None]:
    """Within, what the operating system refuses becomes a UserError about `path` ("... cannot be written")."""
    try:
        yield
    except FileExistsError:
        raise Taken(path) from None
    except OSError as error:
        reason, remedy = _REASONS.get(error.errno or 0, (error.strerror or str(error), ""))
        raise UserError(f'"{path}" cannot be {verb}.', f"{reason}.", remedy) from error
    except RuntimeError as error:
        if "Symlink loop" not in str(error):  # which Path.resolve raises before Python 3.13
            raise
        raise UserError(f'"{path}" cannot be {verb}.', *_REASONS[errno.ELOOP]) from None
    except ValueError as error:
        if "null byte" not in str(error) and "null character" not in str(error):
            raise
        raise UserError("A path with a null character in it.", "No system allows that.") from None


class Taken(UserError):
    """There is already something at the path that was to be written, and it is not to be replaced."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(f'"{path}" exists already.', "A name that is free.", "Choose another.")


def _listed(entries: Mapping[str, Entry]) -> dict[str, Any]:
    return {name: config.to_data(entry) for name, entry in entries.items()}


def _at_work(process: int) -> bool:
    """Whether another process of that number runs here; Windows is not asked, where the question would end it."""
    if process == os.getpid():
        return False
    try:
        if os.name != "nt":
            os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _temporary_name() -> str:
    return f".aquatint-{os.getpid()}-{next(_numbers)}.tmp"


def _beside(path: Path) -> tuple[BinaryIO, Path]:
    """A new file in the folder of `path`, under a name that nobody has."""
    while True:
        temporary = path.parent / _temporary_name()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        try:
            return os.fdopen(os.open(temporary, flags, 0o666), "wb"), temporary
        except FileExistsError:  # left by a process of our number that was killed
            continue


def _claim(temporary: Path, path: Path) -> None:
    """Give the finished file its name, if nobody has it."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno == errno.EEXIST or path.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
        os.rename(temporary, path)  # a disk without hard links; two writers at once are then told apart by luck
        return
    os.unlink(temporary)


def _read_up_to(file: BinaryIO, count: int) -> bytes:
    pieces, left = [], count
    while left and (piece := file.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
