"""A control of a request: a picture that steers the painting, the file that reads it, and how much and when."""

from dataclasses import dataclass
from typing import Any

from aquatint.base.errors import UserError, unknown
from aquatint.pipelines.checks import named, number
from aquatint.pipelines.edit import Fit
from aquatint.pipelines.given import Given
from aquatint.pipelines.preprocess import PREPROCESSORS

STRONGEST = 10.0
MOST = 16  # in one request
FITS = ("crop", "stretch", "pad")


@dataclass(frozen=True)
class Control:
    """One ControlNet, T2I-Adapter or IP-Adapter with its picture (docs/control.md).

    name         as the bundle has it (`load(controls=[...])`): the file's name without its ending. Never a path
    image        the hint; for an IP-Adapter, the picture to paint like
    weight       1 is as trained, 0 nothing
    start, end   shares of the steps between which it acts, 0 <= start < end <= 1
    preprocess   what makes the hint of the picture, a name in PREPROCESSORS; "none": it is the hint
    options      of the preprocessor, by name: (("low", 80), ("high", 160))
    mask         for "inpaint": white where to paint; of the picture's size
    fit          how a picture of another size than the request's becomes the hint: cropped, stretched or padded

    Raises UserError for values out of range or at odds with one another.
    """

    name: str
    image: Given
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    preprocess: str = "none"
    options: tuple[tuple[str, float], ...] = ()
    mask: Given | None = None
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        name = named("control", self.name, "Open the file with load(controls=[...]) or --control, and name it here.")
        for field, low, high in (("weight", -STRONGEST, STRONGEST), ("start", 0.0, 1.0), ("end", 0.0, 1.0)):
            object.__setattr__(self, field, number(f'the {field} of "{name}"', getattr(self, field), low, high))
        if self.start >= self.end:
            raise UserError(
                f'"{name}" acts from {self.start:g} to {self.end:g} of the steps.', "A start before the end."
            )
        if self.fit not in FITS:
            raise unknown("fit", str(self.fit)[:40], FITS)
        object.__setattr__(self, "options", self._options())
        if (self.mask is not None) != (self.preprocess == "inpaint"):
            raise UserError(
                f'"{name}" has {"no" if self.mask is None else "a"} mask, and the preprocessor {self.preprocess}.',
                'A mask with the preprocessor "inpaint", and with no other.',
            )
        if self.mask is not None and (self.mask.width, self.mask.height) != (self.image.width, self.image.height):
            raise UserError(
                f"The mask is {self.mask.width} x {self.mask.height} pixels, "
                f"the picture {self.image.width} x {self.image.height}.",
                "A mask of the picture's size.",
            )

    def _options(self) -> tuple[tuple[str, float], ...]:
        """The preprocessor's options, sorted, each known and within its range."""
        if self.preprocess not in PREPROCESSORS:
            raise unknown("preprocessor", str(self.preprocess)[:80], PREPROCESSORS)
        return PREPROCESSORS[self.preprocess].checked(self.options)


def checked(controls: Any) -> tuple[Control, ...]:
    """A request's controls: a sequence of Control."""
    if isinstance(controls, Control) or not isinstance(controls, tuple | list):
        raise UserError(f"controls = {str(controls)[:60]!r}.", 'A list, as in (Control("canny", given("edges.png")),).')
    if len(controls) > MOST:
        raise UserError(f"{len(controls)} controls.", f"At most {MOST} in one request.")
    if odd := [control for control in controls if not isinstance(control, Control)]:
        raise UserError(f"controls holds {str(odd[0])[:60]!r}.", "Control.")
    return tuple(controls)
