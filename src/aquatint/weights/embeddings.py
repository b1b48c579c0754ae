"""Textual inversions (Gal et al. 2022): files that hold word vectors for words of their own.

Formats: A1111's .pt (`string_to_param`), safetensors (`emb_params`; `clip_l` and `clip_g`; or the word itself as the
tensor's name, as diffusers saves it), and pictures that carry one (weights/embedding_picture.py).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from aquatint.base import files, images
from aquatint.base.errors import UserError
from aquatint.families import Family
from aquatint.weights import embedding_picture, store, writer
from aquatint.weights.adapter_names import nets
from aquatint.weights.checks import check_finite
from aquatint.weights.header import FLOATS
from aquatint.weights.keymap import WORDS

MOST = 1_000  # vectors of one word
LONGEST = 200  # letters of a word
ENCODERS = ("clip_l", "clip_g")
WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "Stable Diffusion XL"}
_TAKES = "A textual inversion: .safetensors, .pt, or the picture of one."


@dataclass(frozen=True, eq=False)
class EmbeddingFile:
    """A file's words; each with the word vectors [n, width] of as many encoders as it was taught for.

    name     the file's, without its ending: the word to say, where the file holds one
    digest   sha256 of the file
    """

    name: str
    words: Mapping[str, tuple[Tensor, ...]]
    digest: str
    format: str


def open_embedding(path: str | Path) -> EmbeddingFile:
    """The words in a file, their vectors checked to be finite; a UserError for what is no textual inversion."""
    path = Path(path).expanduser()
    with files.reading(path) as (file, _):
        start = file.read(12)
    words: dict[str, tuple[Tensor, ...]]
    if embedding_picture.is_picture(start):
        data = files.read(path, limit=images.LARGEST_FILE)
        own, vectors = embedding_picture.read(data, str(path))
        words, digest, format = {own or path.stem: (vectors,)}, hashlib.sha256(data).hexdigest(), "picture"
    else:
        held = store.single(path.resolve())
        words, digest = _words(held, path.stem), held.files[0].sha256()
        format = "safetensors" if isinstance(held.files[0], store.TensorFile) else "torch"
    if len(words) == 1:
        (vectors_of,) = words.values()
        words = {path.stem: vectors_of} | words
    for word, rows in words.items():
        if not 0 < len(word) <= LONGEST or not word.strip():
            raise UserError(f'"{path}" is for a word of {len(word)} letters.', f"1 to {LONGEST}.")
        for row in rows:
            if row.ndim != 2 or not 1 <= row.shape[0] <= MOST or not row.shape[1]:
                raise UserError(
                    f'"{path}": the vectors of "{word}" are {list(row.shape)}.', f"1 to {MOST:,} vectors of one width."
                )
            check_finite(row, f'"{path}": the embedding "{word}"')
    return EmbeddingFile(path.stem, words, digest, format)


def save_embedding(path: str | Path, word: str, vectors: Sequence[Tensor]) -> Path:
    """Write a word's vectors, [n, width] for each text encoder, where there must be nothing yet, as web UIs read them.

    One tensor "emb_params", or "clip_l" and "clip_g" for two encoders. The word is the file's name to web UIs, and
    stands in the header.
    """
    path = Path(path).expanduser()
    if path.suffix != store.SUFFIX:
        raise UserError(f'"{path}" does not say that it is safetensors.', f"A name that ends in {store.SUFFIX}.")
    names = ENCODERS if len(vectors) > 1 else ("emb_params",)
    rows = {name: row.detach().float().cpu().contiguous() for name, row in zip(names, vectors, strict=True)}
    for row in rows.values():
        check_finite(row, f'The embedding "{word}"')
    files.make_folder(path.parent)
    with files.writing(path, replace=False) as out:
        tensors = [
            writer.Outgoing(name, row.dtype, tuple(row.shape), partial(rows.__getitem__, name))
            for name, row in rows.items()
        ]
        writer.write(out, tensors, {"format": "pt", "name": word})
    return path


def fit_embedding(file: EmbeddingFile, family: Family) -> dict[str, tuple[Tensor, ...]]:
    """The file's words for a family: one tensor [n, width] for each of its text encoders, in their order.

    Raises UserError where the widths are not those of the family's encoders.
    """
    encoders = {net: config for net, config in nets(family).items() if net != "unet"}
    found = {}
    for word, rows in file.words.items():
        by_width = {row.shape[1]: row for row in rows}
        missing = [net for net, config in encoders.items() if config.width not in by_width]  # type: ignore[union-attr]
        alone = bool(family.micro) and len(encoders) == 1  # Stable Diffusion XL's refiner, which has one of its two
        if missing or (len(rows) != len(encoders) and not alone):
            widths = ", ".join(str(config.width) for config in encoders.values())  # type: ignore[union-attr]
            kind = WIDTHS.get(max(by_width), "another family")
            raise UserError(
                f'The embedding "{file.name}" has vectors of width {", ".join(map(str, by_width))}, as {kind} has.',
                f"{family.name}: {widths} ({', '.join(WORDS[net] for net in encoders)}).",
                "Take one that was made for this family.",
            )
        made = tuple(by_width[config.width] for config in encoders.values())  # type: ignore[union-attr]
        if len({len(row) for row in made}) > 1:
            raise UserError(
                f'"{file.name}" has {[len(row) for row in made]} vectors.', "Equally many for each encoder."
            )
        found[word] = made
    return found


def _words(held: store.Held, stem: str) -> dict[str, tuple[Tensor, ...]]:
    """The words in a file of tensors."""
    names = {name for name in held.where if not name.startswith("string_to_token.")}  # ids of a tokenizer, not vectors
    for name in names:
        entry = held.entry(name)
        if entry.dtype not in FLOATS or len(entry.shape) not in (1, 2) or len(names) > 100:
            raise UserError(f'"{held.path}" is no textual inversion (it holds {name[:80]}).', _TAKES)
    if not names:
        raise UserError(f'"{held.path}" holds no tensors.', _TAKES)

    def rows(name: str) -> Tensor:
        tensor = held.tensor(name)
        return (tensor[None] if tensor.ndim == 1 else tensor).float()

    if names in ({"emb_params"}, {"string_to_param.*"}):
        return {stem: (rows(names.pop()),)}
    if names <= set(ENCODERS):
        return {stem: tuple(rows(name) for name in ENCODERS if name in names)}
    return {name: (rows(name),) for name in sorted(names)}
