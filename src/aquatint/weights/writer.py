"""Writing safetensors files, tensor by tensor, byte for byte as the official library would."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aquatint.base.files import Out
from aquatint.weights.header import NAMES
from aquatint.weights.keymap import Shape


class Outgoing(NamedTuple):
    """A tensor to be written: its name, number format and shape now, its values when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: Shape
    make: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Bytes."""
        count = self.dtype.itemsize
        for side in self.shape:
            count *= side
        return count


def ordered(tensors: Sequence[Outgoing]) -> list[Outgoing]:
    """As they lie in the file: widest number format first, so that all are aligned, then by name."""
    rank = {dtype: index for index, dtype in enumerate(NAMES)}
    return sorted(tensors, key=lambda tensor: (rank[tensor.dtype], tensor.name))


def chunks(tensors: Sequence[Outgoing]) -> Iterator[memoryview]:
    """The tensors' bytes in the file's order; each is checked to be what was announced."""
    for tensor in ordered(tensors):
        values = tensor.make()
        assert (values.dtype, tuple(values.shape)) == (tensor.dtype, tensor.shape), tensor.name
        yield bytes_of(values)


def head(tensors: Sequence[Outgoing], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON, padded with spaces to a multiple of 8 bytes."""
    rows: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    at = 0
    for tensor in ordered(tensors):
        end = at + tensor.size
        rows[tensor.name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write(out: Out, tensors: Sequence[Outgoing], metadata: Mapping[str, str]) -> None:
    """One whole file."""
    out.write(head(tensors, metadata))
    for chunk in chunks(tensors):
        out.write(chunk)


def tensor_hash(tensors: Sequence[Outgoing]) -> str:
    """sha256 of all tensors' bytes as they will lie in the file, the head left out (ModelSpec's hash_sha256)."""
    digest = hashlib.sha256()
    for chunk in chunks(tensors):
        digest.update(chunk)
    return digest.hexdigest()


def split(tensors: Sequence[Outgoing], limit: int | None) -> list[list[Outgoing]]:
    """Shards of at most `limit` bytes of tensors, in the order given; a larger tensor has a shard of its own."""
    if limit is None:
        return [list(tensors)]
    shards: list[list[Outgoing]] = [[]]
    used = 0
    for tensor in tensors:
        if shards[-1] and used + tensor.size > limit:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.size
    return shards


def bytes_of(tensor: Tensor) -> memoryview:
    """A tensor's bytes, without a copy where it is contiguous."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data)
