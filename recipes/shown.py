"""What the pocket model is shown: the scenes of its world, and groups of scenes that look alike."""

from dataclasses import replace

from aquatint.training.data.scenes import Scene, held_out
from aquatint.training.data.stream import Stream
from aquatint.training.data.world import MEDIUM

SEED = 2026
WORLD = MEDIUM
GROUP = 16  # scenes that look alike


def described(numbers: range) -> list[Scene]:
    """The scenes of the world with these numbers."""
    stream = Stream(WORLD, SEED + 4)
    return [stream.scene(number) for number in numbers]


def alike(numbers: range) -> list[Scene]:
    """Single objects by groups, each group in one colour on one background, that of its first shape; what would be
    held out stays as it was."""
    stream = Stream(WORLD, SEED + 1, kinds={"single": 1.0})
    found: list[Scene] = []
    for first in range(numbers.start, numbers.stop, GROUP):
        group = [stream.scene(number) for number in range(first, min(first + GROUP, numbers.stop))]
        model = next((scene for scene in group if scene.things[0].colour), None)
        found += group if model is None else [resembling(scene, model) for scene in group]
    return found


def resembling(scene: Scene, model: Scene) -> Scene:
    """The scene on the model's background and, if it shows a shape, in the model's colour."""
    colour = model.things[0].colour
    things = tuple(replace(thing, colour=colour if thing.colour else None) for thing in scene.things)
    made = replace(scene, things=things, background=model.background)
    return scene if held_out(made) else made
