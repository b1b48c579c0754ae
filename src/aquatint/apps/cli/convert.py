"""`aquatint convert`: a model from one format to another."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aquatint.apps.cli.generate import Source
from aquatint.apps.cli.look import Reading

HALVES = {"F16": "float16", "BF16": "bfloat16"}


def convert(
    source: Annotated[str, Parameter(help="A file, a folder or a hub id.")],
    out: Annotated[Path, Parameter(help="Where to write it; there must be nothing yet.")],
    /,
    *,
    format: Annotated[str, Parameter(help="native, diffusers or compvis.")] = "native",
    dtype: Annotated[str, Parameter(help="float32, float16 or bfloat16; auto leaves it as it is.")] = "auto",
    reading: Reading | None = None,
    tokenizer: Annotated[str | None, Parameter(help="A folder, if the one beside the model is not meant.")] = None,
) -> None:
    """Write a model in another format; nothing is half-written, and nothing overwritten."""
    from aquatint.pipelines.bundle import load, save

    how = Source(**vars(reading or Reading()), tokenizer=tokenizer).options()
    bundle = load(source, device="cpu", dtype=stored(source, reading or Reading()) if dtype == "auto" else dtype, **how)
    for note in bundle.notes:
        print(f"note: {note}", file=sys.stderr)
    print(save(bundle, out, format))


def stored(source: str, reading: Reading) -> str:
    """The number format of all the weights of a model, or float32 where they have several."""
    from aquatint import weights

    kinds = {kind for part in weights.inspect(source, **vars(reading)).parts for kind in part.dtypes}
    return HALVES.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"
