"""Digests of what files hold: of the tensors' float32 values, and of a whole file's bytes.

Values are read in pieces, from mappings of their own: what was done to the nets since does not matter.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from aquatint.base import files
from aquatint.base.counted import Counted, GoOn
from aquatint.base.errors import UserError
from aquatint.weights import description
from aquatint.weights.keymap import Pair
from aquatint.weights.plan import Found

PIECE = 2**15  # values: what torch casts without asking other threads to help, and a core's cache holds
LARGEST = 2**22  # bytes that are hashed at once


def digest_of(found: Found, go_on: GoOn | None = None) -> str:
    """The model's digest, as `description.digest` defines it.

    By all the machine's threads where somebody waits; aside (`go_on`), by half of them. Eight at most.
    """
    threads = max(1, min(8, (os.cpu_count() or 1) // (1 if go_on is None else 2)))
    rows = [(part, pair) for part, pairs in found.pairs.items() for pair in pairs]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        sums = pool.map(lambda row: _sums(found, row[0], row[1], go_on), rows)
        return description.digest(found.plan.family, [pair for some in sums for pair in some])


def file_of(path: Path) -> Counted:
    """The sha256 of a model's one file, by which web UIs and sites know it.

    It is "" if the file can no longer be read: a painted picture is not lost for that.
    """

    def count(go_on: GoOn | None) -> str:
        try:
            return files.measure(path, go_on)[1]
        except UserError:
            return ""

    return Counted(count=count)


def _sums(found: Found, part: str, pair: Pair, go_on: GoOn | None) -> list[tuple[str, str]]:
    """The sums of the tensors of ours in one of theirs, by their names."""
    stored = found.held.tensor(pair.theirs, apart=True)
    sums = [
        (f"{part}.{name}", _sum(tensor, go_on)) for name, tensor in zip(pair.ours, pair.turn.take(stored), strict=True)
    ]
    found.held.release(pair.theirs, apart=True)
    return sums


def _sum(tensor: Tensor, go_on: GoOn | None) -> str:
    """sha256 of a tensor's values as float32, in the order of its indices."""
    digest, flat = hashlib.sha256(), tensor.contiguous().reshape(-1)
    plain = flat.dtype == torch.float32
    room = torch.empty(0 if plain else PIECE)
    for piece in flat.split(LARGEST // 4 if plain else PIECE):
        if go_on is not None:
            go_on()
        values = piece if plain else room[: len(piece)].copy_(piece)
        digest.update(memoryview(values.view(torch.uint8).numpy().data))
    return digest.hexdigest()
