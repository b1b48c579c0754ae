"""Hires fix: a picture painted small, enlarged, and painted over at its new size, in one request."""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from aquatint.base.errors import UserError
from aquatint.diffusion.cfg_pp import SHARE
from aquatint.diffusion.grids import options_of
from aquatint.diffusion.names import grid_named, sampler_named
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.families import Family
from aquatint.pipelines.checks import named, number, shown, whole

if TYPE_CHECKING:
    from aquatint.pipelines.request import Request, Resolved

LARGEST_SCALE = 16.0
LARGEST_SIDE = 4_096  # pixels
MOST_STEPS = 1_000
MOST_GUIDANCE = 100.0

# Ours, and what A1111 calls them.
LATENT_NAMES = {
    "latent": "Latent",
    "latent_antialiased": "Latent (antialiased)",
    "latent_bicubic": "Latent (bicubic)",
    "latent_bicubic_antialiased": "Latent (bicubic antialiased)",
    "latent_nearest": "Latent (nearest)",
    "latent_nearest_exact": "Latent (nearest-exact)",
}
PIXEL_NAMES = {"lanczos": "Lanczos", "nearest": "Nearest"}


@dataclass(frozen=True)
class Hires:
    """The second pass: how large, by what, and how it differs from the first.

    scale           times the request's sides; 2 if no size is given
    width, height   pixels instead; with one of them the picture keeps its shape, with both it covers them and is cut
    upscaler        "latent" and its kin enlarge the latents; "lanczos", "nearest" and the name of a file that the
                    bundle was opened with (load(upscalers=[...])) the decoded picture. A1111's names become ours
    strength        how far the second pass goes from the enlarged picture, 0 (not at all) ... 1
    steps           that are made in it, the last of a grid of int(steps / strength) as A1111 counts; None: the first's
    sampler, grid, prompt, negative, guidance   of the second pass; None: the first's

    Raises UserError for a value out of range or at odds with another.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    upscaler: str = "latent"
    strength: float = 0.7
    steps: int | None = None
    sampler: str | None = None
    grid: str | None = None
    prompt: str | None = None
    negative: str | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        sized = self.width is not None or self.height is not None
        if sized and self.scale is not None:
            raise UserError("hires with both scale and a size.", "One of the two.")
        for name in ("width", "height"):
            side = getattr(self, name)
            if side is not None and whole(f"hires {name}", side, 8, LARGEST_SIDE) % 8:
                raise UserError(f"hires {name} = {side}.", "A multiple of 8.")
        if not sized:
            scale = 2.0 if self.scale is None else self.scale
            object.__setattr__(self, "scale", number("hires scale", scale, 1.0, LARGEST_SCALE))
        object.__setattr__(self, "strength", number("hires strength", self.strength, 0.0, 1.0))
        object.__setattr__(self, "upscaler", _upscaler(self.upscaler))
        if self.steps is not None:
            whole("hires steps", self.steps, 1, MOST_STEPS)
        if self.guidance is not None:
            object.__setattr__(self, "guidance", number("hires guidance", self.guidance, 0.0, MOST_GUIDANCE))
        if self.sampler is not None and self.sampler not in SAMPLERS:
            object.__setattr__(self, "sampler", _known("sampler", sampler_named(str(self.sampler)), self.sampler)[0])
        if self.grid is not None:
            object.__setattr__(self, "grid", _known("grid", grid_named(str(self.grid)) or self.grid, self.grid))

    def sizes(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """For a first picture of that size: the size it is enlarged to, and the size that is cut from its middle.

        Both in pixels, multiples of 8, the arithmetic being A1111's.
        """
        if self.scale is not None:
            whole_size = _eights(int(width * self.scale)), _eights(int(height * self.scale))
            return whole_size, whole_size
        across = (self.width or 0), (self.width or 0) * height // width
        down = (self.height or 0) * width // height, (self.height or 0)
        if self.width is None or self.height is None:
            size = across if self.height is None else down
            return (_eights(size[0]), _eights(size[1])), (_eights(size[0]), _eights(size[1]))
        cover = across if width * self.height < self.width * height else down
        return (_eights(cover[0]), _eights(cover[1])), (self.width, self.height)


def second(request: "Resolved", family: Family) -> "tuple[Resolved, int] | None":
    """The request of the second pass, and the steps of the grid whose end it takes; None without one.

    Its `steps` are those that are made. UserError for what the family cannot do at the second size.
    """
    from aquatint.pipelines.request import Request, usual_grid

    hires = request.hires
    if hires is None:
        return None
    _, (width, height) = hires.sizes(request.width, request.height)
    sampler = hires.sampler or request.sampler
    grid = hires.grid or (request.grid if sampler == request.sampler else usual_grid(family, sampler))
    takes, steps = SAMPLERS[sampler].options, hires.steps or request.steps
    whole_grid = int(steps / min(hires.strength, 0.999)) if hires.strength else steps
    if whole_grid > MOST_STEPS:
        raise UserError(
            f"hires steps {steps} at strength {hires.strength:g} are the end of {whole_grid:,}.",
            f"At most {MOST_STEPS:,}.",
        )
    plain: dict[str, Any] = {field.name: getattr(request, field.name) for field in fields(Request)}
    plain |= {"width": width, "height": height, "sampler": sampler, "grid": grid, "steps": steps, "hires": None}
    plain |= {"eta": request.eta if "eta" in takes else None, "guidance": _guidance(request, hires, sampler)}
    kept = {*takes, *options_of(grid)}
    plain["options"] = tuple(pair for pair in request.options if pair[0] in kept)
    plain |= {name: text for name in ("prompt", "negative") if (text := getattr(hires, name)) is not None}
    return Request(**plain).resolved(family), whole_grid


def passes(request: "Request") -> "tuple[Request, ...]":
    """The request as each pass reads its words: once, or with those of the second pass too."""
    hires = request.hires
    if hires is None:
        return (request,)
    said = {name: text for name in ("prompt", "negative") if (text := getattr(hires, name)) is not None}
    return (request, replace(request, **said)) if said else (request,)


def _guidance(request: "Resolved", hires: Hires, sampler: str) -> float:
    """The second pass's guidance; that of the first, counted anew where only one of the two samplers is CFG++."""
    if hires.guidance is not None:
        return hires.guidance
    before, after = SAMPLERS[request.sampler].pair, SAMPLERS[sampler].pair
    return request.guidance if before == after else request.guidance / SHARE if after else request.guidance * SHARE


def _eights(side: int) -> int:
    return side // 8 * 8


def _upscaler(name: Any) -> str:
    """Our name for an upscaler of ours or A1111's; a file's name stays as it is."""
    known = ", ".join([*LATENT_NAMES, *PIXEL_NAMES])
    named("hires upscaler", name, f"One of {known}, or a file of load(upscalers=[...]).")
    ours = {theirs.casefold(): own for own, theirs in (LATENT_NAMES | PIXEL_NAMES).items()}
    return ours.get(name.casefold(), name)


def _known(kind: str, found: Any, said: Any) -> Any:
    from aquatint.base.errors import unknown
    from aquatint.diffusion.grids import GRIDS

    if found is None or (kind == "grid" and found not in GRIDS):
        raise unknown(f"hires {kind}", shown(said), SAMPLERS if kind == "sampler" else GRIDS)
    return found
