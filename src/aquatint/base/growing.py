"""Files of our own that grow, such as logs, and those that only stand for something, such as locks.

What base/files.py writes is whole or not there; a log must be there as it grows. Its writer knows how long it is, so
that half a line that a crash or a full disk left is cut off before the next one.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aquatint.base import files
from aquatint.base.errors import UserError


@contextmanager
def holding(path: str | Path) -> Iterator[int]:
    """The descriptor of a regular file of our own, for reading and writing; made if it is not there.

    What somebody else may have put there instead (a link that leads elsewhere, a pipe) is a UserError.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with files.telling(path, "written"):
        descriptor = os.open(path, flags, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f'"{path}" is a device, pipe or socket.', "A regular file.")
            yield descriptor
        finally:
            os.close(descriptor)


def extend(path: str | Path, size: int, data: bytes) -> None:
    """Have a file be the first `size` bytes of what it is, and then `data`; only `sync` makes that durable.

    On an error it is cut to its first `size` bytes again, as far as the disk allows.
    """
    with holding(path) as descriptor:
        try:
            os.ftruncate(descriptor, size)
            os.lseek(descriptor, size, os.SEEK_SET)
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise


def sync(path: str | Path) -> None:
    """Have the disk hold what was written to a file, and its name."""
    with holding(path) as descriptor:
        files.sync_descriptor(descriptor)
        files.sync_folder(Path(path).parent)
