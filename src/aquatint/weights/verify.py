"""Reading a whole model to find out whether it is sound."""

import hashlib
from pathlib import Path
from typing import Any

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.weights import store
from aquatint.weights.open import open_model

PROMISE = "modelspec.hash_sha256"


def verify(source: str | Path | None = None, **reading: Any) -> dict[str, str]:
    """Open a model and count its sums: {"digest": of the values, "sha256": of the file, where it is one}.

    reading   of `open_model`: ema, variant, revision, prediction

    Raises UserError if a tensor has no place or is not finite, or the header promises another sum, ours or ModelSpec's.
    """
    opened = open_model(source, **reading)
    sums = {"digest": opened.digest}
    if opened.file is None:
        return sums
    held, promised = store.single(opened.file), opened.metadata.get(PROMISE, "").lower().removeprefix("0x")
    sums["sha256"] = files.measure(opened.file)[1]
    if promised and promised != (actual := hashlib.sha256(held.files[0].data()).hexdigest()):
        raise UserError(
            f'The tensors of "{opened.name}" have the sha256 {actual[:10]}, and its header says {promised[:10]}.',
            "A file whose tensors are those that its header was written for.",
            "They were changed afterwards, or damaged: fetch it again where it matters.",
        )
    return sums
