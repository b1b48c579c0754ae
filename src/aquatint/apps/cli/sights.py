"""What the net is shown when `aquatint train` paints its sheets: what belongs to its first pictures."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aquatint.base.errors import unknown

if TYPE_CHECKING:
    from PIL import Image

    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.given import Given
    from aquatint.pipelines.request import Request
    from aquatint.training.data.examples import Hinter
    from aquatint.training.lesson import Tuning

SHOWN = 3  # pictures of a prompt in a sheet


@dataclass(frozen=True)
class Sight:
    """What one picture of a sheet is painted after, None where there is no such thing.

    hint     for the ControlNet that is taught
    before   the picture that InstructPix2Pix changes;   depth: a depth model's map; both of the model's own size
    """

    hint: "Given | None" = None
    before: "Given | None" = None
    depth: "Given | None" = None

    @property
    def pictures(self) -> "list[Image.Image]":
        """Those that are there."""
        return [one.pixels for one in (self.hint, self.before, self.depth) if one is not None]

    def shown(self, request: "Request", bundle: "Bundle") -> "Request":
        """The request with these, the hint only where the bundle has its ControlNet."""
        from aquatint.pipelines.control import Control
        from aquatint.pipelines.edit import Edit

        if self.hint is not None and bundle.controls.nets:
            request = replace(request, controls=(Control(next(iter(bundle.controls.nets)), self.hint),))
        return replace(request, edit=None if self.before is None else Edit(self.before), depth=self.depth)


def sights_of(settings: "Tuning", bundle: "Bundle") -> list[Sight]:
    """A sight for each picture of a row, of the first examples, in turn where these are fewer."""
    from aquatint.pipelines.given import given
    from aquatint.training.data.beside import SIGHTS, sight
    from aquatint.training.data.buckets import Shape
    from aquatint.training.data.folder import read
    from aquatint.training.tuning import Hinted

    sees = bundle.family.sees
    if not isinstance(settings, Hinted) and sees not in SIGHTS:
        return [Sight()] * SHOWN
    shape, found = Shape(bundle.family.defaults.width, bundle.family.defaults.height), []
    for one in read(settings.data, words=["-"])[:SHOWN]:
        made, picture = Sight(), one.picture()
        if isinstance(settings, Hinted):
            hinter = hinter_of(settings.hint)
            made = Sight(hint=given(hinter(picture) if hinter else replace(one, path=one.hint or one.path).picture()))
        if sees in SIGHTS:
            seen = given(sight(one, picture, shape, sees))
            made = replace(made, before=seen) if sees == "picture" else replace(made, depth=seen)
        found.append(made)
    return [found[index % len(found)] for index in range(SHOWN)]


def hinter_of(name: str) -> "Hinter | None":
    """What makes a hint of a picture: the preprocessor of that name, None for ""."""
    from aquatint.pipelines.preprocess import PREPROCESSORS

    if not name:
        return None
    if name not in PREPROCESSORS or name == "inpaint":
        raise unknown("hint", name, [known for known in PREPROCESSORS if known != "inpaint"])
    return PREPROCESSORS[name]
