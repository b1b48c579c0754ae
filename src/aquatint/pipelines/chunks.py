"""From runs of words to chunks of tokens: as many as the encoder reads at once, 75 between start and end.

A1111 fills a chunk to the end, but where the last comma is at most 20 tokens back, what follows it goes over to the
next chunk; BREAK ends a chunk. ComfyUI keeps a word of fewer than 8 tokens whole. "plain" drops what does not fit.
"""

import bisect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from aquatint.nets.tokenizer import Tokenizer
from aquatint.pipelines.emphasis import Note, Run
from aquatint.pipelines.prompt import Scene

BACK = 20  # tokens that a comma may lie back
WHOLE = 8  # ComfyUI breaks words of so many tokens or more
EMBEDDING = "embedding:"
_FILES = (".safetensors", ".pt", ".bin")


class Token(NamedTuple):
    """What the encoder reads at one place.

    id          in the tokenizer's table; 0 where a word vector of an embedding stands
    text        that it spells; a piece that ends a word ends in a space
    start, end  characters of the prompt
    embedding   whose word vector it is, and its row there
    """

    id: int
    text: str
    weight: float
    start: int
    end: int
    embedding: str = ""
    row: int = 0


Chunk: TypeAlias = tuple[Token, ...]
Sizes: TypeAlias = Mapping[str, int]  # embeddings that there are, and how many word vectors each has


def chunks(scene: Scene, grammar: str, tokenizer: Tokenizer, sizes: Sizes, notes: list[Note]) -> tuple[Chunk, ...]:
    """What a scene says, in chunks, one at least; what was dropped goes to notes."""
    return CHUNKS[grammar](scene, tokenizer, sizes, notes)


def _a1111(scene: Scene, tokenizer: Tokenizer, sizes: Sizes, notes: list[Note]) -> tuple[Chunk, ...]:
    comma, room, table = tokenizer.table.get(",</w>", -1), tokenizer.length - 2, _by_ids(tokenizer, sizes)
    done: list[Chunk] = []
    for stretch in scene.stretches:
        chunk: list[Token] = []
        last = -1  # where the last comma of the chunk stands
        for group in _named((token for run in stretch for token in _tokens(run, tokenizer)), table, sizes):
            if group[0].id == comma:
                last = len(chunk)
            elif last >= 0 and len(chunk) == room and room - last <= BACK:
                done.append(tuple(chunk[: last + 1]))
                chunk, last = chunk[last + 1 :], -1
            if len(chunk) + (len(group) if len(group) <= room else 1) > room:
                done.append(tuple(chunk))
                chunk, last = [], -1
            for token in group:
                if len(chunk) == room:  # only within an embedding longer than a chunk
                    done.append(tuple(chunk))
                    chunk = []
                chunk.append(token)
        done.append(tuple(chunk))
    return tuple(done if done[-1] or len(done) == 1 else done[:-1])


def _comfy(scene: Scene, tokenizer: Tokenizer, sizes: Sizes, notes: list[Note]) -> tuple[Chunk, ...]:
    room = tokenizer.length - 2
    done: list[list[Token]] = [[]]
    for run in scene.stretches[0]:
        for match in re.finditer(r"[^ \n]+", run.text):
            for group in _comfy_groups(run.cut(*match.span()), tokenizer, sizes, notes):
                while len(done[-1]) + len(group) > room:
                    fits = room - len(done[-1]) if len(group) >= WHOLE or not done[-1] else 0
                    done[-1] += group[:fits]
                    group = group[fits:]
                    done.append([])
                done[-1] += group
    return tuple(tuple(chunk) for chunk in done)


def _plain(scene: Scene, tokenizer: Tokenizer, sizes: Sizes, notes: list[Note]) -> tuple[Chunk, ...]:
    room = tokenizer.length - 2
    tokens = [token for run in scene.stretches[0] for token in _tokens(run, tokenizer)]
    if len(tokens) > room:
        notes.append(Note(tokens[room].start, tokens[-1].end, f"too long for {tokenizer.length} tokens; not read"))
    return (tuple(tokens[:room]),)


def _tokens(run: Run, tokenizer: Tokenizer) -> Iterator[Token]:
    """The tokens of a run, each with its place in the prompt."""
    offsets = [offset for offset, _ in run.places]

    def place(offset: int) -> int:
        at, start = run.places[max(bisect.bisect_right(offsets, offset) - 1, 0)]
        return start + offset - at

    read = zip(tokenizer.ids(run.text), tokenizer.pieces(run.text), tokenizer.spans(run.text), strict=True)
    for id, text, (start, end) in read:
        yield Token(id, text, run.weight, place(start), place(max(end - 1, start)) + (end > start))


def _vectors(name: str, count: int, weight: float, start: int, end: int) -> list[Token]:
    return [Token(0, f"<{name}> ", weight, start, end, name, row) for row in range(count)]


def _by_ids(tokenizer: Tokenizer, sizes: Sizes) -> dict[int, list[tuple[tuple[int, ...], str]]]:
    """The embeddings' names as token ids, by the first of them, the longest name first."""
    table: dict[int, list[tuple[tuple[int, ...], str]]] = {}
    for name in sizes:
        if ids := tuple(tokenizer.ids(name)):
            table.setdefault(ids[0], []).append((ids, name))
    return {first: sorted(names, key=lambda one: (-len(one[0]), one[1])) for first, names in table.items()}


def _named(
    read: Iterator[Token], table: Mapping[int, Sequence[tuple[tuple[int, ...], str]]], sizes: Sizes
) -> Iterator[list[Token]]:
    """Tokens one by one, but for the names of embeddings: their word vectors stand in their place, as one group."""
    tokens = list(read)
    place = 0
    while place < len(tokens):
        group, length = [tokens[place]], 1
        for ids, name in table.get(tokens[place].id, ()):
            found = tokens[place : place + len(ids)]
            if tuple(token.id for token in found) == ids and len({token.weight for token in found}) == 1:
                group = _vectors(name, sizes[name], found[0].weight, found[0].start, found[-1].end)
                length = len(ids)
                break
        yield group
        place += length


def _comfy_groups(word: Run, tokenizer: Tokenizer, sizes: Sizes, notes: list[Note]) -> Iterator[list[Token]]:
    """A word's tokens; before them an embedding's vectors, where the word is `embedding:name` (and commas)."""
    if word.text.startswith(EMBEDDING):
        named = word.text[len(EMBEDDING) :].rstrip(",")
        name = named if named in sizes else next((named[: -len(end)] for end in _FILES if named.endswith(end)), named)
        length = len(EMBEDDING) + len(named)
        (_, start), *_ = word.places
        if name in sizes:
            yield _vectors(name, sizes[name], word.weight, start, start + length)
        else:
            notes.append(Note(start, start + length, f'an embedding "{name}", which is not known; it is left out'))
        if length == len(word.text):
            return
        word = word.cut(length, len(word.text))
    yield list(_tokens(word, tokenizer))


CHUNKS: dict[str, Callable[[Scene, Tokenizer, Sizes, list[Note]], tuple[Chunk, ...]]] = {
    "a1111": _a1111,
    "comfy": _comfy,
    "plain": _plain,
}
