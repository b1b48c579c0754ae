"""How much each word counts: brackets read as A1111 and as ComfyUI read them, into runs of text with one weight.

A1111: `(a)` counts 1.1 times, `[a]` 1 / 1.1, `(a:1.3)` 1.3 times; round and square brackets do not see each other, what
is never closed reaches to the end, what closes nothing is a sign like others. ComfyUI: `(a)` and `(a:1.3)` alone, a
number replaces what the brackets outside it said, and what does not pair is text.
"""

import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from aquatint.pipelines.signs import NUMBER, Sign

ROUND, SQUARE = 1.1, 1 / 1.1
DEEPEST = 64  # brackets of one kind that count round one word
HEAVIEST = 1000.0  # beyond it, float32 could overflow
_COMFY = re.compile(r"\\[()]|[()]|[^\\()]+|\\")


class Note(NamedTuple):
    """Characters [start, end) of a prompt that were dropped or not understood, and why."""

    start: int
    end: int
    why: str


class Run(NamedTuple):
    """Text with one weight; places: (offset in the text, place in the prompt) of each piece that it is made of."""

    text: str
    weight: float
    places: tuple[tuple[int, int], ...]

    @staticmethod
    def of(text: str, weight: float = 1.0, start: int = 0) -> "Run":
        """A run that stands in the prompt as it is."""
        return Run(text, weight, ((0, start),))

    def cut(self, start: int, end: int) -> "Run":
        """The part [start, end) of the text."""
        places = [(max(offset - start, 0), place + max(start - offset, 0)) for offset, place in self.places]
        kept = [at for at, after in zip(places, [*places[1:], (end, 0)], strict=True) if after[0] > 0]
        return Run(self.text[start:end], self.weight, tuple(at for at in kept if at[0] < end - start))


class _Brackets:
    """The open brackets of one kind, as a chain: each knows the one round it, its factor and when it was closed."""

    def __init__(self) -> None:
        self.open: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self.factors: list[float] = []
        self.closed: list[int] = []

    @property
    def top(self) -> int:
        return self.open[-1] if self.open else -1

    def enter(self) -> None:
        self.parents.append(self.top)
        self.depths.append(len(self.open) + 1)
        self.factors.append(1.0)
        self.closed.append(0)
        self.open.append(len(self.parents) - 1)

    def leave(self, factor: float, when: int) -> None:
        node = self.open.pop()
        self.factors[node], self.closed[node] = factor, when

    def around(self, node: int) -> list[tuple[int, float]]:
        """(when closed, factor) of a bracket and of those round it, the innermost DEEPEST of them."""
        found: list[tuple[int, float]] = []
        while node >= 0 and len(found) < DEEPEST:
            found.append((self.closed[node], self.factors[node]))
            node = self.parents[node]
        return found


class _Piece(NamedTuple):
    """Text, where it stands, and the innermost round and square bracket about it (-1: none)."""

    text: str
    start: int
    inner: tuple[int, int]


_NOWHERE = (-1, -1)


def emphasised(said: Sequence[Sign], notes: list[Note]) -> tuple[tuple[Run, ...], ...]:
    """Signs -> stretches (which BREAK parts) of runs, neighbours of one weight joined. What is odd goes to notes.

    Weights are multiplied from the inside out, as A1111 does, so that they agree to the last bit.
    """
    kinds = (_Brackets(), _Brackets())
    weights: dict[tuple[int, int], float] = {}
    stretches: list[list[tuple[float, list[_Piece]]]] = [[]]
    for piece in _pieces(said, kinds, notes):
        if piece is None:
            stretches.append([])
            continue
        if piece.inner not in weights:
            weights[piece.inner] = _weight(kinds, piece, notes)
        weight, stretch = weights[piece.inner], stretches[-1]
        if stretch and stretch[-1][0] == weight:
            stretch[-1][1].append(piece)
        else:
            stretch.append((weight, [piece]))
    joined = [[_joined(weight, pieces) for weight, pieces in stretch] for stretch in stretches]
    for before, after in itertools.pairwise(joined):  # the white space round a BREAK belongs to it
        _trim(before, -1)
        _trim(after, 0)
    return tuple(map(tuple, joined))


def _joined(weight: float, pieces: Sequence["_Piece"]) -> Run:
    ends = itertools.accumulate(len(piece.text) for piece in pieces)
    places = tuple((end - len(piece.text), piece.start) for end, piece in zip(ends, pieces, strict=True))
    return Run("".join(piece.text for piece in pieces), weight, places)


def _trim(runs: list[Run], end: int) -> None:
    """Take the white space off one end of a stretch, in place."""
    while runs and not runs[end].text.strip():
        del runs[end]
    if runs:
        text = runs[end].text
        left, right = (len(text) - len(text.lstrip()), len(text)) if end == 0 else (0, len(text.rstrip()))
        runs[end] = runs[end].cut(left, right)


def _pieces(said: Sequence[Sign], kinds: tuple[_Brackets, _Brackets], notes: list[Note]) -> list[_Piece | None]:
    """The pieces of text, None for a BREAK; fills the brackets."""
    curved, straight = kinds
    pieces: list[_Piece | None] = []
    starts: tuple[list[int], list[int]] = ([], [])  # where the open brackets stand, for the notes
    place = 0
    while place < len(said):
        sign, count, factor = said[place], 1, ROUND
        if sign == ("mark", ":", sign.start) and curved.open:
            factor, count = _figure(said[place + 1 : place + 3], notes)
        if sign.kind == "break":
            pieces.append(None)
        elif sign.kind == "lone":
            notes.append(Note(sign.start, sign.start + 1, "a backslash before nothing; it is left out"))
        elif sign.kind == "mark" and sign.text in "([":
            which = "([".index(sign.text)
            kinds[which].enter()
            starts[which].append(sign.start)
        elif count == 3 or (sign.kind == "mark" and sign.text == ")" and curved.open):
            curved.leave(factor, place)
            starts[0].pop()
        elif sign.kind == "mark" and sign.text == "]" and straight.open:
            straight.leave(SQUARE, place)
            starts[1].pop()
        else:
            if sign.kind == "mark" and sign.text in ")]":
                notes.append(Note(sign.start, sign.start + 1, "closes nothing; it is read as a sign"))
            pieces.append(_Piece(sign.text, sign.start, (curved.top, straight.top)))
        place += count
    for kind, factor, opened in zip(kinds, (ROUND, SQUARE), starts, strict=True):
        for start in opened:
            notes.append(Note(start, start + 1, "is never closed; it reaches to the end"))
            kind.leave(factor, len(said))
    return pieces


def _figure(after: Sequence[Sign], notes: list[Note]) -> tuple[float, int]:
    """The number of `:1.3)` and its three signs; or one sign, a colon like others."""
    if len(after) == 2 and after[0].kind == "text" and after[1][:2] == ("mark", ")"):
        text, start = after[0].text, after[0].start
        if NUMBER.fullmatch(text) and math.isfinite(float(text)):
            return float(text), 3
        if re.fullmatch(r"[\s0-9.+-]+", text):
            notes.append(Note(start, start + len(text), "is no number; it is read as words"))
    return ROUND, 1


def _weight(kinds: tuple[_Brackets, _Brackets], piece: _Piece, notes: list[Note]) -> float:
    around = [kind.around(node) for kind, node in zip(kinds, piece.inner, strict=True)]
    weight = 1.0
    for _, factor in sorted(around[0] + around[1], key=lambda one: one[0]):
        weight *= factor
    if any(node >= 0 and kind.depths[node] > DEEPEST for kind, node in zip(kinds, piece.inner, strict=True)):
        why = f"stands in more than {DEEPEST} brackets; the outer ones do not count"
        notes.append(Note(piece.start, piece.start + len(piece.text), why))
    if abs(weight) > HEAVIEST:
        why = f"its weight would be beyond {HEAVIEST:g}, and is {HEAVIEST:g}"
        notes.append(Note(piece.start, piece.start + len(piece.text), why))
    return held(weight)


def held(weight: float) -> float:
    """A weight within -HEAVIEST ... HEAVIEST."""
    return max(-HEAVIEST, min(HEAVIEST, weight))


def comfy_runs(text: str, notes: list[Note]) -> tuple[Run, ...]:
    """A text in ComfyUI's grammar -> runs, one for each stretch between two brackets. What is odd goes to notes."""
    found = list(_COMFY.finditer(text))
    closing = dict(_pairs([match[0] for match in found]))
    paired = {*closing, *closing.values()}
    notes += [
        Note(match.start(), match.end(), "does not pair; it is read as a sign")
        for place, match in enumerate(found)
        if match[0] in "()" and place not in paired
    ]
    runs: list[Run] = []
    pieces: list[_Piece] = []
    weights, ends = [1.0], [len(found)]

    def end_run() -> None:
        if pieces:
            runs.append(_joined(weights[-1], pieces))
            pieces.clear()

    for place, match in enumerate(found):
        said, start = match[0], match.start()
        if place in closing:
            end_run()
            close = closing[place]
            number = _last_number(found[close - 1], start + 1) if close - place > 1 else None
            weights.append(held(weights[-1] * ROUND if number is None else number))
            ends.append(close if number is None else close - 1)
        elif place == ends[-1] and said == ")":
            end_run()
            del weights[-1], ends[-1]
        elif place == ends[-1]:  # the piece that ends in the weight
            pieces.append(_Piece(said[: said.rindex(":")], start, _NOWHERE))
            ends[-1] += 1
        else:
            escaped = len(said) == 2 and said[0] == "\\"
            pieces.append(_Piece(said[escaped:], start + escaped, _NOWHERE))
    end_run()
    return tuple(run for run in runs if run.text)


def _pairs(marks: Sequence[str]) -> list[tuple[int, int]]:
    """The brackets that pair, as places (opening, closing). One that is never closed makes all after it text."""
    done: list[tuple[int, int]] = []
    level, opened, waiting = 0, list[int](), list[tuple[int, int]]()
    for place, mark in enumerate(marks):
        if mark == "(":
            if level >= 0:
                opened.append(place)
            level += 1
        elif mark == ")":
            level -= 1
            if level >= 0 and opened:
                waiting.append((opened.pop(), place))
            if level == 0:
                done += waiting
                waiting.clear()
    return done


def _last_number(match: re.Match[str], start: int) -> float | None:
    """The weight that stands behind the last colon of a bracket whose content begins at `start`."""
    before, colon, figure = match[0].rpartition(":")
    if not colon or match.start() + len(before) == start:
        return None
    try:
        number = float(figure)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
