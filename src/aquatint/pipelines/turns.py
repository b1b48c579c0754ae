"""Prompts that change while the picture grows: `[a:b:0.3]` goes over from a to b, `[a|b]` takes turns at every step.

The grammar is the AUTOMATIC1111 web UI's. A square bracket is one of these only if what stands in it is well formed:
brackets that pair, no bar and no colon out of place. Any other bracket is left to emphasis.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from aquatint.pipelines.signs import NUMBER, Sign


@dataclass(frozen=True)
class Turn:
    """A bracket whose content depends on the step.

    choices   ranges of signs [start, end), of which one is said
    when      the last step of the first choice; None: they take turns, one a step
    close     where the closing bracket stands
    """

    choices: tuple[tuple[int, int], ...]
    when: int | None
    close: int

    def choice(self, step: int) -> int:
        """Which choice is said at a step, counted from 1."""
        return (step - 1) % len(self.choices) if self.when is None else int(step > self.when)


@dataclass
class _Frame:
    """A bracket that is open: where it and the bars and colons directly in it stand; whether it is ill formed."""

    start: int
    bars: list[int] = field(default_factory=list)
    colons: list[int] = field(default_factory=list)
    ill: bool = False


def turns(said: Sequence[Sign], steps: int) -> Iterator[tuple[int, tuple[Sign, ...]]]:
    """What is said as (last step, signs), in their order; the last of them ends with the last step.

    The same choices give the same tuple, not only an equal one.
    """
    found = _found(said, steps)
    ends = {turn.when for turn in found.values() if turn.when is not None and turn.when >= 1} | {steps}
    if any(turn.when is None for turn in found.values()):
        ends = set(range(1, steps + 1))
    made: dict[tuple[int, ...], tuple[Sign, ...]] = {}
    for end in sorted(ends):
        key = tuple(turn.choice(end) for turn in found.values())
        if key not in made:
            made[key] = tuple(_flat(said, found, end))
        yield end, made[key]


def _found(said: Sequence[Sign], steps: int) -> dict[int, Turn]:
    """The turns, by the place of their opening bracket."""
    found: dict[int, Turn] = {}
    frames = [_Frame(-1)]
    for place, sign in enumerate(said):
        if sign.kind != "mark":
            continue
        frame = frames[-1]
        if sign.text in "([":
            frames.append(_Frame(place))
        elif sign.text == "|":
            frame.bars.append(place)
        elif sign.text == ":":
            frame.colons.append(place)
        elif frame.start < 0 or said[frame.start].text != {")": "(", "]": "["}[sign.text]:
            frame.ill = True
        else:
            frames.pop()
            turn = _turn(said, frame, place, steps)
            if turn is not None:
                found[frame.start] = turn
            elif frame.ill or frame.bars or len(frame.colons) > (said[frame.start].text == "("):
                frames[-1].ill = True
    return found


def _turn(said: Sequence[Sign], frame: _Frame, close: int, steps: int) -> Turn | None:
    """The turn that a pair of brackets is, or None."""
    if frame.ill or said[frame.start].text != "[" or bool(frame.bars) == bool(frame.colons):
        return None
    cuts = [frame.start, *(frame.bars or frame.colons), close]
    choices = [(before + 1, after) for before, after in itertools.pairwise(cuts)]
    if frame.bars:
        return Turn(tuple(choices), None, close)
    (start, end), choices = choices[-1], choices[:-1]
    if len(choices) > 2 or end - start != 1 or not NUMBER.fullmatch(said[start].text):
        return None
    nothing = (frame.start + 1, frame.start + 1)
    return Turn(tuple(choices) if len(choices) == 2 else (nothing, *choices), _when(said[start].text, steps), close)


def _when(text: str, steps: int) -> int:
    """A step; with a point in it, a share of all steps. Below 1: from the beginning."""
    value = float(text) * steps if "." in text else float(text)
    return steps if value >= steps else int(max(value, 0.0))


def _flat(said: Sequence[Sign], found: dict[int, Turn], step: int) -> Iterator[Sign]:
    """The signs that are said at a step."""
    place, back = 0, [(len(said), len(said))]  # where the choice ends, and where to go on
    while True:
        while back and place == back[-1][0]:
            place = back.pop()[1]
        if not back:
            return
        turn = found.get(place)
        if turn is None:
            yield said[place]
            place += 1
            continue
        start, end = turn.choices[turn.choice(step)]
        back.append((end, turn.close + 1))
        place = start
