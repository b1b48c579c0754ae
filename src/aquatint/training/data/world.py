"""The world that a pocket model is taught: its subjects, shapes, colours, backgrounds and their words, as data.

A World is a plain value that base/config.py turns into JSON and back, so that the words a model was taught can travel
beside its weights. What a scene *is* stands in scenes.py, how it is put into words in captions.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from aquatint.training.data.subjects import MANY, Subject

RGB = tuple[int, int, int]
SIZES: dict[str, tuple[float, float]] = {"small": (0.24, 0.32), "medium": (0.40, 0.48), "big": (0.64, 0.80)}
POSITIONS: dict[str, tuple[float, float]] = {
    "middle": (0.5, 0.5),
    "left": (0.0, 0.5),
    "right": (1.0, 0.5),
    "top": (0.5, 0.0),
    "bottom": (0.5, 1.0),
    "top left": (0.0, 0.0),
    "top right": (1.0, 0.0),
    "bottom left": (0.0, 1.0),
    "bottom right": (1.0, 1.0),
}
RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below", "next to")
COUNTS: dict[int, str] = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
KINDS: tuple[str, ...] = ("single", "placed", "pair", "count")


@dataclass(frozen=True)
class Painted:
    """A painted background: phrases that follow the object ("in the snow"), and shape colours that vanish on it."""

    phrases: tuple[str, ...]
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """Everything that may occur in a scene, and how often. A mix is {name: weight}; weights need not sum to 1."""

    name: str
    canvas: int  # side of the square picture, px
    subjects: Mapping[str, Subject]
    shapes: tuple[str, ...]
    colours: Mapping[str, RGB]  # of shapes
    grounds: Mapping[str, RGB]  # plain backgrounds: the same words, softer tints, so that edges stay visible
    painted: Mapping[str, Painted]
    kinds: Mapping[str, float]  # mix of scene kinds, of KINDS
    things: Mapping[str, float]  # mix of "subject" and "shape"
    backs: Mapping[str, float]  # mix of "plain", "gradient" and "painted"


PAINTED: dict[str, Painted] = {
    "meadow": Painted(("in a meadow", "on the grass", "on a green meadow", "in a field"), ("green", "blue")),
    "sea": Painted(("on the sea", "in the sea", "at the sea", "on the ocean"), ("blue", "white")),
    "night": Painted(("at night", "under the stars", "in the night sky"), ("black", "blue", "purple")),
    "snow": Painted(("in the snow", "on a snowy day", "in winter snow"), ("white",)),
    "desert": Painted(("in the desert", "on the sand", "in a sandy desert"), ("yellow", "orange")),
    "sunset": Painted(("at sunset", "in front of a sunset", "in the evening sun"), ("orange", "red", "purple", "pink")),
}

SMALL = World(
    name="small",
    canvas=128,
    subjects={
        "cat": Subject("\U0001f431", "cats", ("kitten", "kitty"), "yellow"),
        "dog": Subject("\U0001f436", "dogs", ("puppy",)),
        "panda": Subject("\U0001f43c", "pandas", ("panda bear",)),
        "frog": Subject("\U0001f438", "frogs", ("toad",), "green"),
        "fish": Subject("\U0001f41f", "fish", (), "blue"),
        "bird": Subject("\U0001f426", "birds", ("bluebird",), "blue"),
        "butterfly": Subject("\U0001f98b", "butterflies", (), "orange"),
        "tree": Subject("\U0001f333", "trees", (), "green"),
        "flower": Subject("\U0001f338", "flowers", ("blossom",), "pink"),
        "mushroom": Subject("\U0001f344", "mushrooms", ("toadstool",), "red"),
        "apple": Subject("\U0001f34e", "apples", (), "red"),
        "house": Subject("\U0001f3e0", "houses", ("home",)),
        "car": Subject("\U0001f697", "cars", ("automobile",), "red"),
        "boat": Subject("\u26f5", "boats", ("sailboat", "ship")),
    },
    shapes=("circle", "square", "triangle", "star", "heart", "diamond"),
    colours={
        "red": (220, 30, 38),
        "orange": (247, 127, 20),
        "yellow": (253, 212, 20),
        "green": (24, 148, 62),
        "blue": (28, 84, 224),
        "purple": (124, 42, 188),
        "pink": (246, 104, 176),
        "black": (24, 24, 28),
        "white": (252, 252, 252),
    },
    grounds={
        "red": (236, 84, 84),
        "orange": (255, 170, 92),
        "yellow": (255, 224, 92),
        "green": (128, 204, 124),
        "blue": (106, 160, 248),
        "purple": (176, 128, 228),
        "pink": (255, 180, 214),
        "black": (44, 44, 50),
        "white": (250, 250, 250),
    },
    painted=PAINTED,
    kinds={"single": 1.0},
    things={"subject": 0.6, "shape": 0.4},
    backs={"plain": 0.55, "gradient": 0.15, "painted": 0.30},
)

MEDIUM = replace(
    SMALL,
    name="medium",
    canvas=256,
    subjects=MANY,
    shapes=(*SMALL.shapes, "oval", "cross", "arrow", "crescent"),
    colours={**SMALL.colours, "brown": (122, 70, 34), "grey": (132, 134, 140)},
    grounds={**SMALL.grounds, "brown": (178, 130, 92), "grey": (176, 178, 184)},
    painted={
        **PAINTED,
        "city": Painted(("in the city", "in a city street", "in front of a skyline", "in town"), ("grey", "black")),
        "water": Painted(("under water", "underwater", "deep under water"), ("blue", "green")),
    },
    kinds={"single": 0.42, "placed": 0.2, "pair": 0.2, "count": 0.18},
    things={"subject": 0.65, "shape": 0.35},
)

WORLDS: dict[str, World] = {"small": SMALL, "medium": MEDIUM}
