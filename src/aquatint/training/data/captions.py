"""Words for a scene: templates over kinds, synonyms and word orders; and the vocabulary that follows from them.

Slots: {thing} a noun phrase with its article ("a big red circle"), {bare} the same without one, {other} the second
thing, {back} a phrase that follows the thing ("on a blue background", "in the snow"), {tag} the same as a label
("blue background", "snow"), {place} a position phrase ("in the top left corner"), {many} a counted plural.
"""

import re
from string import Formatter

from aquatint.training.data.scenes import Draws, Scene, Thing
from aquatint.training.data.world import COUNTS, POSITIONS, SIZES, World

MEDIA: tuple[str, ...] = (
    "a picture of ",
    "a drawing of ",
    "an image of ",
    "an emoji of ",
    "a painting of ",
    "a photo of ",
)
OWN_COLOUR_SHARE = 0.15  # of the mentions of a subject that also say the colour it always has ("a red apple")
MEDIA_SHARE = 0.3  # of the captions that begin with a noun phrase

TEMPLATES: dict[str, tuple[str, ...]] = {
    "single": (
        "{thing} {back}",
        "{thing} {back}",
        "{thing} {back}",
        "{bare} {back}",
        "{bare}, {tag}",
        "{thing}, {tag}",
        "{tag}, {bare}",
        "{tag} with {thing}",
        "{thing} in the middle, {tag}",
        "{thing} in the center {back}",
        "there is {thing} {back}",
        "one {bare} {back}",
        "the {bare} {back}",
    ),
    "placed": (
        "{thing} {place} {back}",
        "{thing} {place} {back}",
        "{thing} {back}, {place}",
        "{thing} {place}, {tag}",
        "{bare} {place}, {tag}",
        "{bare}, {tag}, {place}",
        "{place} there is {thing}, {tag}",
        "{place} {thing} {back}",
        "{tag} with {thing} {place}",
        "{tag}, {thing} {place}",
    ),
    "left of": (
        "{thing} left of {other} {back}",
        "{thing} to the left of {other} {back}",
        "{thing} on the left and {other} on the right {back}",
        "{other} with {thing} on its left {back}",
        "{tag}, {thing} left of {other}",
        "{bare} left of {other}, {tag}",
    ),
    "right of": (
        "{thing} right of {other} {back}",
        "{thing} to the right of {other} {back}",
        "{thing} on the right and {other} on the left {back}",
        "{other} with {thing} on its right {back}",
        "{tag}, {thing} right of {other}",
        "{bare} right of {other}, {tag}",
    ),
    "above": (
        "{thing} above {other} {back}",
        "{thing} over {other} {back}",
        "{thing} at the top and {other} at the bottom {back}",
        "{other} with {thing} above it {back}",
        "{tag}, {thing} above {other}",
        "{bare} above {other}, {tag}",
    ),
    "below": (
        "{thing} below {other} {back}",
        "{thing} under {other} {back}",
        "{thing} at the bottom and {other} at the top {back}",
        "{other} with {thing} below it {back}",
        "{tag}, {thing} below {other}",
        "{bare} under {other}, {tag}",
    ),
    "next to": (
        "{thing} next to {other} {back}",
        "{thing} beside {other} {back}",
        "{thing} and {other} {back}",
        "{thing} and {other} side by side {back}",
        "{tag} with {thing} and {other}",
        "{bare} and {other}, {tag}",
    ),
    "count": (
        "{many} {back}",
        "{many} {back}",
        "{many}, {tag}",
        "{tag}, {many}",
        "{tag} with {many}",
        "there are {many} {back}",
        "{many} {back}",
    ),
}
DROPPED: tuple[str, ...] = ("{thing}", "{bare}", "{tag}", "{thing} {back}")  # what a caption with gaps may look like
PLAIN = (
    "on {a} {} background",
    "on {a} {} background",
    "on {}",
    "against {a} {} background",
    "with {a} {} background",
)
FADES = (
    "on a gradient from {} to {}",
    "on {a} {} to {} gradient",
    "on a background fading from {} to {}",
    "with a gradient background from {} to {}",
)
TAGS = {
    "plain": ("{} background", "{a} {} background"),
    "gradient": ("{} to {} gradient", "gradient from {} to {}"),
    "painted": ("{}", "{} background"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "medium": ("medium",), "big": ("big", "large")}
PLACES: dict[str, tuple[str, ...]] = {
    "middle": ("in the middle", "in the center", "in the centre"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "top left": ("in the top left", "in the top left corner"),
    "top right": ("in the top right", "in the top right corner"),
    "bottom left": ("in the bottom left", "in the bottom left corner"),
    "bottom right": ("in the bottom right", "in the bottom right corner"),
}
PLURALS = {"square": "squares", "cross": "crosses"}  # shapes that do not only take an s go here


def _a(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" and not phrase.startswith("uni") else "a"


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it, by its first letter; "a unicorn"."""
    return f"{_a(phrase)} {phrase}"


def noun(world: World, thing: Thing, draws: Draws | None = None, *, plural: bool = False) -> str:
    """The thing's name: its own word, or with `draws` a synonym in three captions of ten."""
    if thing.kind == "shape":
        return PLURALS.get(thing.word, thing.word + "s") if plural else thing.word
    subject = world.subjects[thing.word]
    if plural:
        return subject.plural
    if draws is not None and subject.synonyms and draws.uniform() < 0.3:
        return draws.choice(subject.synonyms)
    return thing.word


def _bare(scene: Scene, thing: Thing, draws: Draws, colour: bool, size: bool) -> str:
    words = [noun(scene.world, thing, draws)]
    if colour and thing.colour is not None:
        words.insert(0, thing.colour)
    elif thing.kind == "subject" and draws.uniform() < OWN_COLOUR_SHARE:
        words[:0] = [own for own in (scene.world.subjects[thing.word].colour,) if own]
    if size:
        words.insert(0, draws.choice(SIZE_WORDS[thing.size]))
    return " ".join(words)


def _back(scene: Scene, draws: Draws) -> str:
    back = scene.background
    if back.kind == "painted":
        return draws.choice(scene.world.painted[back.words[0]].phrases)
    return draws.choice(PLAIN if back.kind == "plain" else FADES).format(*back.words, a=_a(back.words[0]))


def _tag(scene: Scene, draws: Draws) -> str:
    back = scene.background
    return draws.choice(TAGS[back.kind]).format(*back.words, a=_a(back.words[0]))


def caption(scene: Scene, draws: Draws, complete: float = 0.7, empty: float = 0.1) -> str:
    """One of the many ways to say the scene.

    complete  share of captions that name every object, its colour and the background (and position or relation where
              the scene is about it); in the rest some of these are dropped, but never a place or a second
              thing
    empty     share of captions that are "", counted first; what classifier-free guidance needs
    """
    if draws.uniform() < empty:
        return ""
    whole = draws.uniform() < complete
    first = scene.things[0]
    colour = whole or draws.uniform() < 0.5
    size = scene.kind == "placed" if whole else False
    size = size or (scene.kind == "single" and draws.uniform() < 0.15)
    template = draws.choice(TEMPLATES[scene.relation or scene.kind])
    if not whole and scene.kind in ("single", "count"):  # else "a cat" would mean any cat, anywhere, with company
        template = draws.choice((*DROPPED, template))
    bare = _bare(scene, first, draws, colour, size)
    fill = {"bare": bare, "thing": article(bare), "back": _back(scene, draws), "tag": _tag(scene, draws)}
    if scene.kind == "placed":
        fill["place"] = draws.choice(PLACES[first.position])
    if scene.kind == "pair":
        fill["other"] = article(_bare(scene, scene.things[1], draws, colour, size=False))
    if scene.kind == "count":
        fill["many"] = fill["thing"] = fill["bare"] = _many(scene, colour)
        template = template.replace("there are", "there is") if len(scene.things) == 1 else template
    text = template.format(**fill)
    if template.startswith(("{thing}", "{many}")) and draws.uniform() < MEDIA_SHARE:
        text = draws.choice(MEDIA) + text
    return text


def _many(scene: Scene, colour: bool = True) -> str:
    thing, count = scene.things[0], len(scene.things)
    words = [COUNTS[count], noun(scene.world, thing, plural=count > 1)]
    if colour and thing.colour is not None:
        words.insert(1, thing.colour)
    return " ".join(words)


def canonical(scene: Scene) -> str:
    """The scene in one full plain caption: "a small red circle in the top left corner on a blue background"."""
    back, world = scene.background, scene.world
    where = {
        "plain": lambda: f"on {article(back.words[0])} background",
        "gradient": lambda: f"on a gradient from {back.words[0]} to {back.words[1]}",
        "painted": lambda: world.painted[back.words[0]].phrases[0],
    }[back.kind]()
    names = [article(f"{t.colour} {t.word}" if t.colour else t.word) for t in scene.things[:2]]
    if scene.kind == "pair":
        return f"{names[0]} {scene.relation} {names[1]} {where}"
    if scene.kind == "count":
        return f"{_many(scene)} {where}"
    if scene.kind == "placed":
        first = scene.things[0]
        return f"{article(f'{first.size} ' + names[0].split(' ', 1)[1])} {PLACES[first.position][-1]} {where}"
    return f"{names[0]} {where}"


def _words(*phrases: str) -> list[str]:
    """The words of templates or phrases in order of appearance, slots left out."""
    literal = " ".join(text for phrase in phrases for text, *_ in Formatter().parse(phrase))
    return list(dict.fromkeys(re.findall(r"[a-z]+", literal)))


def vocabulary(world: World) -> dict[str, list[str]]:
    """The words that captions of this world are made of, by category; what JSON takes."""
    phrases = [phrase for painted in world.painted.values() for phrase in painted.phrases]
    templates = [template for group in TEMPLATES.values() for template in group]
    other = _words(
        *templates, *MEDIA, *PLAIN, *FADES, *(tag for group in TAGS.values() for tag in group), *phrases, "a an"
    )
    found = {
        "subjects": [*world.subjects],
        "synonyms": [synonym for subject in world.subjects.values() for synonym in subject.synonyms],
        "plurals": [subject.plural for subject in world.subjects.values()]
        + [PLURALS.get(shape, shape + "s") for shape in world.shapes],
        "shapes": [*world.shapes],
        "colours": [*world.colours],
        "backgrounds": [*world.grounds, *world.painted],
        "sizes": [word for size in SIZES for word in SIZE_WORDS[size]],
        "positions": [place for position in POSITIONS for place in PLACES[position]],
        "counts": [*COUNTS.values()],
    }
    known = set(_words(*(entry for entries in found.values() for entry in entries)))
    return {**found, "other": [word for word in other if word not in known]}
