"""Byte-pair merges in CLIP's form: the table of ids that they make, how they are learnt, and CLIP's own list."""

import gzip
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import islice, pairwise

from aquatint.base.errors import UserError

Merge = tuple[str, str]

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
BARE = 2 * 256 + 2  # tokens without any merge: the bytes, the bytes that end a word, start and end


@cache
def alphabet() -> dict[str, int]:
    """A printable character for each byte, in CLIP's order of ids.

    Bytes that print as Latin-1 stand for themselves and come first; the others take the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


def table_of(merges: Sequence[Merge]) -> dict[str, int]:
    """Token -> id: bytes, bytes that end a word, one token a merge, start, end.

    Raises UserError for a merge of tokens that are not there yet, or into one that already is.
    """
    table = {sign + mark: None for mark in ("", WORD_END) for sign in alphabet()}
    for number, (left, right) in enumerate(merges, start=1):
        joined = left + right
        if left not in table or right not in table or left.endswith(WORD_END) or joined in table:
            raise UserError(
                f'Merge {number} of the tokenizer ("{left}" with "{right}") is out of order.',
                "A merge joins two tokens that exist into one that does not.",
                "Its files may be truncated: fetch them again.",
            )
        table[joined] = None
    return {token: index for index, token in enumerate([*table, START, END])}


def learn(words: Counter[str], wanted: int) -> list[Merge]:
    """At most `wanted` times, join the pair of neighbours that occurs most often in the counted words.

    Byte-pair encoding (Sennrich et al. 2016, algorithm 1). Equal counts go by the pieces' spelling, so that the order
    in which the words came does not matter.
    """
    spelled = {word: [*word[:-1], word[-1] + WORD_END] for word in words}
    counts: Counter[Merge] = Counter()
    places: dict[Merge, set[str]] = {}
    for word, pieces in spelled.items():
        for pair in pairwise(pieces):
            counts[pair] += words[word]
            places.setdefault(pair, set()).add(word)
    merges: dict[str, Merge] = {}
    while counts and len(merges) < wanted:
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        joined = best[0] + best[1]
        if joined in merges:
            # "a" with "bc", after "ab" with "c", spells a token again; it has its id, so this pair is passed over.
            del counts[best]
            continue
        merges[joined] = best
        for word in places[best]:
            before = spelled[word]
            spelled[word] = _join(before, best)
            counts.subtract({pair: n * words[word] for pair, n in Counter(pairwise(before)).items() if pair in counts})
            for pair in pairwise(spelled[word]):
                counts[pair] += words[word]
                if pair != best:
                    places.setdefault(pair, set()).add(word)
        counts = +counts
    return list(merges.values())


def filled(merges: Sequence[Merge], wanted: int) -> list[Merge]:
    """`merges`, and after them as many of CLIP's own, in their order, as make `wanted`."""
    known = {left + right for left, right in merges}
    more = (merge for merge in packaged_merges() if merge[0] + merge[1] not in known)
    return [*merges, *islice(more, wanted - len(merges))]


@cache
def packaged_merges() -> tuple[Merge, ...]:
    """The 48,894 merges of OpenAI's CLIP, from the package's data."""
    text = gzip.decompress((files("aquatint.nets") / "clip_merges.txt.gz").read_bytes()).decode("utf-8")
    pairs = [line.split(" ") for line in text.splitlines()]
    return tuple((left, right) for left, right in pairs)


def _join(pieces: list[str], pair: Merge) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        # Left to right; a piece already made by joining cannot be the left of the same pair again.
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out
