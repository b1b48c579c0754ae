"""A file's bytes, mapped: read when they are needed, and never written to, whatever is done to tensors made of them."""

import mmap
from typing import IO

import torch
from torch import Tensor


class Mapped:
    """An open file's bytes as two private mappings, `bytes` and `apart`.

    Tensors of a net are views of the first, and training writes to them. The second is for the digest of what the file
    holds, which is counted later. The descriptor that was checked is the one that is mapped; mmap keeps a copy of it.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.bytes = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        self._apart = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)

    def tensor(self, begin: int, size: int, dtype: torch.dtype, *, apart: bool) -> Tensor:
        """Some bytes as a flat tensor, without copying (except where they are badly aligned for its numbers)."""
        flat = torch.frombuffer(self._apart if apart else self.bytes, dtype=torch.uint8, count=size, offset=begin)
        return (flat.clone() if begin % dtype.itemsize else flat).view(dtype)

    def release(self, begin: int, size: int, *, apart: bool) -> None:
        """Tell the system that some bytes are not needed again soon (they were copied elsewhere)."""
        first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (begin + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            (self._apart if apart else self.bytes).madvise(mmap.MADV_DONTNEED, first, last - first)
