"""Prompts whose right answer is known: each comes with the scene that it describes, and `judge` checks a picture's."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from aquatint.base.errors import unknown
from aquatint.evaluation.detector import Found, Sight
from aquatint.training.data.captions import canonical, caption
from aquatint.training.data.scenes import WORDS, Draws, Scene, Thing, scene, size_of
from aquatint.training.data.world import POSITIONS, World

SEED = 500_000  # of the prompts' scenes; no training uses it
FACTS = ("object", "colour", "background", "size", "position", "number")


@dataclass(frozen=True)
class Prompt:
    """A category, the words, and the scene that they describe."""

    category: str
    text: str
    scene: Scene


# What each category draws: its scene kind, the sort of thing if only one, whether held out, whether freely worded.
_CATEGORIES: dict[str, tuple[str, str | None, bool, bool]] = {
    "subject": ("single", "subject", False, False),
    "shape": ("single", "shape", False, False),
    "wording": ("single", None, False, True),
    "held-out": ("single", None, True, False),
    "placed": ("placed", None, False, False),
    "pair": ("pair", None, False, False),
    "count": ("count", None, False, False),
}
CATEGORIES = tuple(_CATEGORIES)
SINGLE = ("subject", "shape", "wording", "held-out")


def prompts(world: World, categories: Sequence[str] = CATEGORIES, each: int = 84) -> list[Prompt]:
    """`each` prompts of every category, the same for ever.

    subject   one subject on each kind of background, canonical words ("a cat in the snow")
    shape     one coloured shape on each kind of background
    wording   either, in the many wordings of the training captions
    held-out  a (subject, background) or (shape, colour, background) that training never shows
    placed    size and position as well        pair  two things in a relation        count  one to five of the same
    In the first two the things take turns, so that every one is asked for equally often.
    """
    result: list[Prompt] = []
    for category in categories:
        if category not in _CATEGORIES:
            raise unknown("category", category, _CATEGORIES)
        kind, thing, held, varied = _CATEGORIES[category]
        drawn = _draw(world, category, kind, thing, held)
        for index in range(each):
            facts = next(drawn)
            text = caption(facts, Draws(SEED, index, WORDS), 1.0, 0.0) if varied else canonical(facts)
            result.append(Prompt(category, text, facts))
    return result


def _draw(world: World, category: str, kind: str, thing: str | None, held: bool) -> Iterator[Scene]:
    """Scenes of one category without end, things in turn where only one sort is drawn; none comes twice before
    all have come (500 draws in a row have brought nothing new)."""
    ours = replace(world, things={thing: 1.0}) if thing else world
    seed = SEED + CATEGORIES.index(category)
    names = {"subject": tuple(world.subjects), "shape": world.shapes}.get(thing or "", ())
    seen: set[str] = set()
    turn = tries = 0
    for index in count():
        drawn = scene(ours, seed, index, kinds={kind: 1.0}, held=held)
        tries += 1
        wanted = not names or drawn.things[0].word == names[turn % len(names)]
        if tries > 500:
            seen.clear()
        if wanted and canonical(drawn) not in seen:
            seen.add(canonical(drawn))
            turn, tries = turn + 1, 0
            yield drawn


def judge(sight: Sight, facts: Scene) -> dict[str, bool]:
    """Which facts of the scene the sight confirms; only those that the scene's kind makes a claim about.

    object      each thing asked for is there        colour    ... in its colour (scenes with shapes)
    background  its kind and its words               size      small, medium or big (kind "placed")
    position    one of nine places (kind "placed"), or the relation (kind "pair")
    number      as many things as asked for, none besides
    """
    pairs = _matched(sight.things, facts.things)
    verdict = {"object": all(found is not None for _, found in pairs)}
    coloured = [(thing, found) for thing, found in pairs if thing.colour is not None]
    if coloured:
        verdict["colour"] = all(found is not None and found.colour == thing.colour for thing, found in coloured)
    back = facts.background
    verdict["background"] = sight.background == back.kind and sight.words == back.words
    thing, first = pairs[0]
    if facts.kind == "placed":
        verdict["size"] = first is not None and size_of(first.side) == thing.size
        verdict["position"] = first is not None and _position(first) == thing.position
    if facts.relation is not None:
        second = pairs[1][1]
        verdict["position"] = first is not None and second is not None and _RELATED[facts.relation](first, second)
    verdict["number"] = len(sight.things) == len(facts.things)
    return {name: verdict[name] for name in FACTS if name in verdict}


def _matched(found: Sequence[Found], wanted: Sequence[Thing]) -> list[tuple[Thing, Found | None]]:
    """Each wanted thing with the found one of its word that fits it best, none used twice: colour, then place."""
    left = list(found)
    pairs: list[tuple[Thing, Found | None]] = []
    for thing in wanted:
        fits = [f for f in left if f.word == thing.word]
        fits.sort(key=lambda f: (f.colour != thing.colour, math.hypot(f.x - thing.x, f.y - thing.y)))
        pairs.append((thing, fits[0] if fits else None))
        if fits:
            left.remove(fits[0])
    return pairs


def _position(found: Found) -> str:
    """The word for a place: three columns by three rows, the middle ones from 0.38 to 0.62."""
    cell = tuple(0.0 if at < 0.38 else 1.0 if at > 0.62 else 0.5 for at in (found.x, found.y))
    return next(name for name, place in POSITIONS.items() if place == cell)


_RELATED: dict[str, Callable[[Found, Found], bool]] = {
    "left of": lambda a, b: b.x - a.x > max(0.1, abs(b.y - a.y)),
    "right of": lambda a, b: a.x - b.x > max(0.1, abs(b.y - a.y)),
    "above": lambda a, b: b.y - a.y > max(0.1, abs(b.x - a.x)),
    "below": lambda a, b: a.y - b.y > max(0.1, abs(b.x - a.x)),
    "next to": lambda a, b: abs(a.x - b.x) > max(0.1, abs(b.y - a.y)),
}
