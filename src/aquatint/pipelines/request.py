"""What one may ask for: a Request is a value, checked when it is made, the same at every door."""

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

from aquatint.base import config
from aquatint.base.errors import UserError, unknown
from aquatint.base.replay import SOURCES
from aquatint.diffusion.cfg_pp import SHARE
from aquatint.diffusion.grids import GRIDS, options_of
from aquatint.diffusion.names import grid_named, sampler_named
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.families import Family
from aquatint.pipelines.approximations import Approximations
from aquatint.pipelines.approximations import checked as checked_approximations
from aquatint.pipelines.checks import number as _found
from aquatint.pipelines.checks import shown as _shown
from aquatint.pipelines.checks import whole as _whole
from aquatint.pipelines.control import Control
from aquatint.pipelines.control import checked as checked_controls
from aquatint.pipelines.edit import Edit
from aquatint.pipelines.given import Given
from aquatint.pipelines.guiding import Guiding
from aquatint.pipelines.guiding import checked as checked_guiding
from aquatint.pipelines.hires import Hires
from aquatint.pipelines.lora import Lora
from aquatint.pipelines.lora import checked as checked_loras
from aquatint.pipelines.micro import Micro
from aquatint.pipelines.prompt import GRAMMARS
from aquatint.pipelines.refine import Refine
from aquatint.pipelines.safety import ACTIONS
from aquatint.pipelines.shown import PICTURE_GUIDANCE, STRENGTH, settled
from aquatint.pipelines.stream import Stream
from aquatint.pipelines.tiling import Decoding, Seamless, Tiling
from aquatint.pipelines.variation import Variation

LONGEST_PROMPT = 6_000  # characters; what any of them needs in a JPEG's or WebP's metadata still fits its 64 KiB
LARGEST_SIDE = 4_096  # pixels
MOST_STEPS = 1_000
MOST_PICTURES = 10_000
MOST_GUIDANCE = 100.0
MOST_LAYERS = 64
LARGEST_SEED = 2**64 - 1
OTHERS = tuple(name for name, row in SOURCES.items() if row is not None)  # noise that is not ours


@dataclass(frozen=True)
class Request:
    """A wish for pictures: one for each seed. What is None is left to the model's family.

    prompt, negative   what to paint, and what to stay away from
    width, height      pixels, multiples of 8
    seeds              each 0 ... 2^64 - 1; the picture for a seed does not depend on the others
    steps              how many times the net is asked (some samplers ask twice a step)
    sampler, grid      how the noise is taken away, and at which levels: names in SAMPLERS and GRIDS, or what other
                       programs call them (diffusion/names.py), which become ours here
    options            of the sampler and the grid, by name: (("order", 2), ("rho", 5)); each sampler takes "start": 1
                       begins with unit noise, 0 with sigma * noise (NoiseSchedule.prior)
    guidance           how much more than probable the prompt is to count (Ho & Salimans 2022); 1 is not at all more
    rescale            how much of the contrast that guidance adds is taken back (Lin et al. 2023), 0 ... 1
    eta                share of fresh noise a step, 0 ... 1, for samplers that take it
    edit               the picture to begin from, and what of it is to change; None paints from noise alone
    noise, ensd        whose random numbers: "aquatint" (ours), or a name in base/replay.py's SOURCES (torch's
                       generators), and what is added to the seed for the noise of steps (A1111's "ENSD"; not
                       with ours)
    grammar            how the prompts are read: a name in GRAMMARS (docs/prompts.md)
    clip_skip          which layer of the text encoder is read, counted from the end: 1 is the last; None the usual one
    micro              what Stable Diffusion XL is told beside the text (docs/families.md); None the usual
    refine             where the bundle's refiner takes over (docs/families.md); None: nowhere
    picture_guidance   how much more than probable the picture is to count, for a model that is shown it
    depth              a map of what is near (white) and far (black), for a model that is shown one
    loras              networks added to the weights, by their names on the bundle's shelf (docs/adapters.md)
    guiding            guidance beyond its scale: interval, thresholds, PAG, FreeU ... (docs/guidance.md)
    controls           pictures that steer the painting, and the bundle's controls that read them (docs/control.md)
    stream             which picture of a batch that was drawn from one stream of noise (not of ours)
    safety             what becomes of pictures that the safety checker flags: "note", "blur" or "refuse"; "off" asks
                       it nothing (pipelines/safety.py)
    variation, hires   a turn towards another seed's noise; a second, larger pass (docs/enlarging.md, as the next three)
    tiling             windows in which the net is asked, for pictures larger than it was trained for
    seamless           edges that meet: "x" (left and right), "y" or "both"
    decoding           how latents become pixels: by tiles, or by the tiny autoencoder
    approximations     ways to be quicker that change the picture (docs/approximations.md)

    Raises UserError for a value out of range.
    """

    prompt: str
    negative: str = ""
    width: int | None = None
    height: int | None = None
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    sampler: str | None = None
    grid: str | None = None
    guidance: float | None = None
    rescale: float | None = None
    eta: float | None = None
    options: tuple[tuple[str, float], ...] = ()
    noise: str = "aquatint"
    ensd: int = 0
    grammar: str = "a1111"
    clip_skip: int | None = None
    edit: Edit | None = None
    loras: tuple[Lora, ...] = ()
    guiding: Guiding | None = None
    micro: Micro | None = None
    controls: tuple[Control, ...] = ()
    stream: Stream | None = None
    safety: str = "off"
    variation: Variation | None = None
    hires: Hires | None = None
    tiling: Tiling | None = None
    seamless: Seamless | None = None
    decoding: Decoding | None = None
    picture_guidance: float | None = None
    depth: Given | None = None
    refine: Refine | None = None
    approximations: Approximations | None = None

    def __post_init__(self) -> None:
        sampler, grid = _sampler(self.sampler)
        checked = {
            "prompt": _text("prompt", self.prompt),
            "negative": _text("negative prompt", self.negative),
            "width": _size("width", self.width),
            "height": _size("height", self.height),
            "seeds": _seeds(self.seeds),
            "steps": None if self.steps is None else _whole("steps", self.steps, 1, MOST_STEPS),
            "sampler": sampler,
            "grid": grid if self.grid is None else _grid(self.grid),
            "guidance": _number("guidance", self.guidance, 0.0, MOST_GUIDANCE),
            "picture_guidance": _number("picture_guidance", self.picture_guidance, 0.0, MOST_GUIDANCE),
            "rescale": _number("rescale", self.rescale, 0.0, 1.0),
            "eta": _number("eta", self.eta, 0.0, 1.0),
            "options": _options(self.options),
            "noise": _name("noise source", self.noise, SOURCES) or "aquatint",
            "ensd": _whole("ensd", self.ensd, -LARGEST_SEED, LARGEST_SEED),
            "grammar": _name("grammar", self.grammar, GRAMMARS) or "a1111",
            "clip_skip": None if self.clip_skip is None else _whole("clip_skip", self.clip_skip, 1, MOST_LAYERS),
            "loras": checked_loras(self.loras),
            "guiding": checked_guiding(self.guiding),
            "approximations": checked_approximations(self.approximations),
            "controls": checked_controls(self.controls),
            "safety": _name("safety", self.safety, ACTIONS) or "off",
            "seamless": _name("seamless", self.seamless, ("x", "y", "both")),
        }
        if not self.prompt.strip():
            raise UserError("The prompt is empty.", "A few words that say what to paint.")
        if self.ensd and self.noise == "aquatint":
            raise UserError(f"ensd = {self.ensd} with our own noise.", f"The noise sources {', '.join(OTHERS)}.")
        if self.stream is not None and self.noise == "aquatint":
            raise UserError("stream with our own noise.", f"The noise sources {', '.join(OTHERS)}.")
        for one, other in (("hires", "edit"), ("tiling", "seamless")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise UserError(f"{one} together with {other}.", "One of the two.")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def resolved(self, family: Family) -> "Resolved":
        """The same request with the family's defaults where it said nothing; refuses what the family cannot do."""
        given, usual = _given(self), family.defaults
        width, height = _own_size(self, family.autoencoder.factor) or (usual.width, usual.height)
        name = self.sampler or usual.sampler
        options = SAMPLERS[name].options
        if self.eta is not None and "eta" not in options:
            takers = sorted(taker for taker, sampler in SAMPLERS.items() if "eta" in sampler.options)
            raise UserError(f'The sampler "{name}" takes no eta.', f"Samplers that do: {', '.join(takers)}.")
        grid = self.grid or usual_grid(family, name)
        takes = [*(other for other in options if other != "eta"), *options_of(grid), "start"]
        for option, _ in self.options:
            if option not in takes:
                raise UserError(
                    f'The sampler "{name}" and the grid "{grid}" have no option "{option}".',
                    f"Their options: {', '.join(takes)}.",
                )
        filled: dict[str, Any] = {
            "width": width,
            "height": height,
            "steps": usual.steps,
            "sampler": name,
            "grid": grid,
            "guidance": usual.guidance / SHARE if SAMPLERS[name].pair else usual.guidance,
            "rescale": usual.rescale,
            "eta": options.get("eta"),
        }
        if family.sees == "picture":
            filled["picture_guidance"] = PICTURE_GUIDANCE
        result = Resolved(**(filled | given | {"edit": settled(self.edit, family)}))
        layers = min(text.layers for text in family.texts)
        if result.clip_skip is not None and result.clip_skip > layers:
            raise UserError(f"clip_skip = {result.clip_skip}.", f"{family.name}'s text encoder has {layers} layers.")
        if result.micro is not None:
            result.micro.check(family)
        factor = family.autoencoder.factor
        if result.width % factor or result.height % factor:
            raise UserError(f"{result.width} x {result.height} pixels.", f"{family.name} takes multiples of {factor}.")
        if not result.made:
            raise UserError(
                f"strength {result.edit.strength if result.edit else 1} of {result.steps} steps is not one step.",
                "A strength and steps whose product is 1 or more.",
            )
        return result

    def alone(self, seed: int) -> "Request":
        """The request for the one picture of `seed`."""
        return replace(self, seeds=(seed,))


@dataclass(frozen=True, kw_only=True)
class Resolved(Request):
    """A Request with nothing left open, as `Request.resolved` makes it (eta stays None where the sampler has none)."""

    width: int
    height: int
    steps: int
    sampler: str
    grid: str
    guidance: float
    rescale: float

    def __post_init__(self) -> None:
        super().__post_init__()
        assert None not in (self.width, self.height, self.steps, self.sampler, self.grid, self.guidance, self.rescale)

    @property
    def made(self) -> int:
        """The steps that are made: all of them, or an edit's share."""
        return self.steps if self.edit is None else int(self.steps * (self.edit.strength or STRENGTH))

    @property
    def total(self) -> int:
        """The steps of all passes."""
        return self.made + (self.hires.steps or self.steps if self.hires and self.hires.strength else 0)


def usual_grid(family: Family, sampler: str) -> str:
    """The grid that goes with a sampler: the family's own for its own sampler, else the one the sampler is known with.

    A schedule that ends in pure noise has to begin there, which only some grids do: for those it is "trailing".
    """
    if sampler == family.defaults.sampler:
        return family.defaults.grid
    return "trailing" if family.schedule.zero_terminal else SAMPLERS[sampler].grid


def from_words(words: dict[str, Any]) -> Request:
    """A Request from plain data ({"prompt": ..., "steps": 20}), strictly: unknown fields are refused."""
    return config.from_data(Request, words)


def _own_size(request: Request, factor: int) -> tuple[int, int] | None:
    """The size that an edit, or else a depth map, brings with it, where it is painted as it is."""
    edit, depth = request.edit, request.depth
    if edit is None and depth is not None and not (depth.width % factor or depth.height % factor):
        return depth.width, depth.height
    if edit is None or edit.masked or edit.fit != "exact":
        return None
    width, height = edit.size
    if width % factor or height % factor:
        raise UserError(
            f"The picture to edit is {width} x {height} pixels.",
            f"Sides that are multiples of {factor}.",
            "Say a size and how it is to fit: stretch, crop or pad.",
        )
    return width, height


def _given(request: Request) -> dict[str, Any]:
    values = {field.name: getattr(request, field.name) for field in fields(Request)}
    return {name: value for name, value in values.items() if value is not None}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"The {name} is {_shown(value)}.", "Text.")
    if len(value) > LONGEST_PROMPT:
        raise UserError(f"The {name} has {len(value):,} characters.", f"At most {LONGEST_PROMPT:,}.", "Say it shorter.")
    for place, letter in enumerate(value, start=1):
        if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\t\n\r":
            raise UserError(
                f"The {name} has the character U+{ord(letter):04X} at place {place}.",
                "Text in UTF-8 without control characters.",
            )
    return value


def _size(name: str, value: Any) -> int | None:
    if value is None:
        return None
    number = _whole(name, value, 8, LARGEST_SIDE)
    if number % 8:
        below = number // 8 * 8
        nearest = below if number - below < 4 or below + 8 > LARGEST_SIDE else below + 8
        raise UserError(f"The {name} is {number}.", "A multiple of 8.", f"The nearest is {nearest}.")
    return number


def _seeds(value: Any) -> tuple[int, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise UserError(f"The seeds are {_shown(value)}.", "A list of whole numbers.", "seeds=(7,) is a list of one.")
    seeds = tuple(islice(value, MOST_PICTURES + 1))
    if not seeds:
        raise UserError("There is no seed.", "One for each picture.")
    if len(seeds) > MOST_PICTURES:
        raise UserError(f"More than {MOST_PICTURES:,} seeds.", f"At most {MOST_PICTURES:,} pictures in one request.")
    return tuple(_whole("seed", seed, 0, LARGEST_SEED) for seed in seeds)


def _number(name: str, value: Any, low: float, high: float) -> float | None:
    return None if value is None else _found(name, value, low, high)


def _sampler(value: Any) -> tuple[str | None, str | None]:
    """Our names of a sampler and of the grid that its name brings with it."""
    if value is None or (isinstance(value, str) and value in SAMPLERS):
        return value, None
    named = sampler_named(value) if isinstance(value, str) else None
    if named is None:
        raise unknown("sampler", str(value)[:80], SAMPLERS)
    return named


def _grid(value: Any) -> str:
    name = value if isinstance(value, str) and value in GRIDS else grid_named(str(value))
    if name is None:
        raise unknown("grid", str(value)[:80], GRIDS)
    return name


def _options(pairs: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    """The same in the order of their names, each name once and each number finite."""
    for name, number in pairs:
        if not math.isfinite(number):
            raise UserError(f"The option {_shown(name)} is {number}.", "A finite number.")
    if len({name for name, _ in pairs}) != len(pairs):
        raise UserError(f"options = {_shown(pairs)}.", "Each option once.")
    return tuple(sorted((name, float(number) + 0.0) for name, number in pairs))


def _name(kind: str, value: Any, known: Iterable[str]) -> str | None:
    if value is None or (isinstance(value, str) and value in known):
        return value
    raise unknown(kind, str(value)[:80], known)
