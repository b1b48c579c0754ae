"""Pictures of other programs: what their files say, as a Request of ours, and an account of what became of each thing.

`read_foreign` takes what metadata.find found. The readers (a1111.py, comfyui.py, invokeai.py) are total and take linear
time: whatever stands there, they give a Reading or raise a UserError.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from aquatint.base.errors import UserError
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.pipelines.control import Control
from aquatint.pipelines.edit import Fit
from aquatint.pipelines.given import Given
from aquatint.pipelines.request import Request

LONGEST = 8 * 2**20  # characters of JSON
SHOWN = 200  # characters of a value


@dataclass(frozen=True)
class Said:
    """One thing that a file says: its name there, its value as text, and why it is not as it was."""

    name: str
    value: str
    why: str = ""


@dataclass(frozen=True)
class Account:
    """What of another program's picture is repeated, what is repeated differently, and what is left out."""

    honoured: tuple[Said, ...] = ()
    changed: tuple[Said, ...] = ()
    ignored: tuple[Said, ...] = ()

    def told(self) -> list[str]:
        """The changes and omissions as sentences for people."""
        rows = [("changed", said) for said in self.changed] + [("left out", said) for said in self.ignored]
        return [f"{how}: {said.name} {said.value}".rstrip() + f" ({said.why})" for how, said in rows]


@dataclass
class Notes:
    """An account in the making."""

    honoured: list[Said] = field(default_factory=list)
    changed: list[Said] = field(default_factory=list)
    ignored: list[Said] = field(default_factory=list)

    def honour(self, name: str, value: Any = "") -> None:
        """It is repeated."""
        self.honoured.append(Said(name, shown(value)))

    def change(self, name: str, value: Any, why: str) -> None:
        """It is repeated, but differently."""
        self.changed.append(Said(name, shown(value), why))

    def ignore(self, name: str, value: Any, why: str) -> None:
        """It is left out."""
        self.ignored.append(Said(name, shown(value), why))

    def account(self) -> Account:
        """What was noted."""
        return Account(tuple(self.honoured), tuple(self.changed), tuple(self.ignored))


@dataclass(frozen=True)
class Start:
    """That a picture was painted over another one, which the file does not hold.

    name       what it is called there, "" if nobody says
    strength   as ours counts it
    mask       whether a part of it was masked; blur, masked, padding, fill: as Edit has them
    """

    name: str = ""
    strength: float = 0.75
    mask: bool = False
    blur: float | None = None
    masked: bool = False
    padding: int | None = None
    fill: str = "original"


@dataclass(frozen=True)
class Steer:
    """That a picture was steered by a control, whose file and picture nobody's metadata holds.

    name, image   what the control and its picture are called there, "" if nobody says; the rest as Control has it
    """

    name: str = ""
    image: str = ""
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    preprocess: str = "none"
    options: tuple[tuple[str, float], ...] = ()
    fit: Fit = "crop"

    def check(self) -> None:
        """UserError where its numbers are none that a Control takes."""
        Control("control", Given("picture", 8, 8, ""), self.weight, self.start, self.end, self.preprocess, self.options)


@dataclass(frozen=True)
class Reading:
    """Another program's picture as ours.

    program, profile      who painted it, and the name of the way in which it is repeated (profiles.py)
    model, model_hash     the weights' name, and the first digits of their file's sha256, where it says them
    start                 the picture that it was painted over, if it was
    lora_hashes           the first digits of LoRAs' sha256 without their heads, by name
    steers                the controls, in the order in which the file names them
    """

    program: str
    profile: str
    request: Request
    account: Account
    model: str = ""
    model_hash: str = ""
    start: Start | None = None
    lora_hashes: tuple[tuple[str, str], ...] = ()
    steers: tuple[Steer, ...] = ()


def parse_json(text: str, what: str) -> Any:
    """JSON of another program as plain data; NaN, which ComfyUI writes, is None. UserError for anything else."""
    if len(text) > LONGEST:
        raise UserError(f"{what} has {len(text):,} characters.", f"At most {LONGEST:,} are read.")
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not JSON that can be read ({type(error).__name__}).", "JSON text.") from None


def shown(value: Any) -> str:
    """A value as a short line of text."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, list | dict):  # of any depth, so that nobody may spell it out
        return f"a list of {len(value)}" if isinstance(value, list) else f"an object of {len(value)}"
    text = value if isinstance(value, str) else "" if value is None else str(value)
    line = " ".join(text[: 4 * SHOWN].split())
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."


def note_sampler(notes: Notes, name: str, value: str, request: Request) -> None:
    """What of a sampler's ways cannot be repeated: steps of its choice, and a stride that does not fit the table."""
    if request.sampler is not None and SAMPLERS[request.sampler].free:
        notes.change(name, value, "it chooses its own steps, and its fresh noise may fall in another order")
    else:
        notes.honour(name, value)
    if request.grid in ("leading", "ddim_uniform") and request.steps and 1000 % request.steps:
        notes.change("steps", request.steps, "it makes a step more where the steps do not divide 1000")
