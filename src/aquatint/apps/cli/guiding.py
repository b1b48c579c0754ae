"""Options for guidance beyond its scale."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.pipelines.guiding import Guiding, Interval

NAMES = {
    "threshold": ("percentile", "mimic", "limit"),
    "apg": ("eta", "norm", "momentum"),
    "freeu": ("b1", "b2", "s1", "s2", "version"),
}


@Parameter(name="*")
@dataclass
class Guidance:
    """What guides the picture besides --guidance (docs/guidance.md)."""

    guidance_interval: Annotated[str | None, Parameter(help="START,END: shares of the steps that are guided.")] = None
    threshold: Annotated[str | None, Parameter(help="on, or percentile=P,limit=L; mimic=SCALE for CFG scale fix.")] = (
        None
    )
    apg: Annotated[str | None, Parameter(help="on, or eta=E,norm=N,momentum=M: adaptive projected guidance.")] = None
    perp_neg: Annotated[float | None, Parameter(help="Weight of the negative's part across the prompt.")] = None
    pag: Annotated[float | None, Parameter(help="Scale of perturbed-attention guidance, as 3.")] = None
    pag_layers: Annotated[str | None, Parameter(help="Where, as in middle,descent.1; middle if not given.")] = None
    sag: Annotated[float | None, Parameter(help="Scale of self-attention guidance, as 0.75.")] = None
    sag_blur: Annotated[float | None, Parameter(help="Its blur in latent pixels; 1 if not given.")] = None
    freeu: Annotated[str | None, Parameter(help="on, or b1=B,b2=B,s1=S,s2=S,version=V.")] = None


def read_guiding(said: Guidance | None) -> "Guiding | None":
    """The options as a Guiding; None where nothing is said."""
    if said is None or said == Guidance():
        return None
    from aquatint.pipelines.guiding import Apg, FreeU, Guiding, Pag, Sag, Threshold

    if said.pag is None and said.pag_layers is not None:
        raise UserError("--pag-layers without --pag.", "--pag SCALE, as in --pag 3.")
    if said.sag is None and said.sag_blur is not None:
        raise UserError("--sag-blur without --sag.", "--sag SCALE, as in --sag 0.75.")
    places = {} if said.pag_layers is None else {"layers": tuple(part.strip() for part in said.pag_layers.split(","))}
    freeu = numbers("freeu", said.freeu)
    version = {"version": int(freeu["version"]) if freeu["version"].is_integer() else 0} if "version" in freeu else {}
    return Guiding(
        interval=_interval(said.guidance_interval),
        threshold=None if said.threshold is None else Threshold(**numbers("threshold", said.threshold)),
        apg=None if said.apg is None else Apg(**numbers("apg", said.apg)),
        perp_neg=said.perp_neg,
        pag=None if said.pag is None else Pag(said.pag, **places),
        sag=None if said.sag is None else Sag(said.sag, 1.0 if said.sag_blur is None else said.sag_blur),
        freeu=None if said.freeu is None else FreeU(**{**freeu, **version}),  # type: ignore[arg-type]
    )


def numbers(option: str, text: str | None) -> Mapping[str, float]:
    """ "b1=1.2,s1=0.9" -> the numbers by name; "on" -> none, which leaves them all as usual."""
    if text is None or text.strip() == "on":
        return {}
    found: dict[str, float] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([a-z0-9]+)\s*=\s*(-?[0-9.]{1,20}(?:e-?[0-9]{1,3})?)\s*", part)
        if match and match[1] in NAMES[option] and match[1] not in found:
            try:
                found[match[1]] = float(match[2])
                continue
            except ValueError:
                pass
        takes = f"on, or NAME=NUMBER,..., each of {', '.join(NAMES[option])} at most once."
        raise UserError(f'--{option} "{text[:80]}".', takes)
    return found


def _interval(text: str | None) -> "Interval | None":
    if text is None:
        return None
    from aquatint.pipelines.guiding import Interval

    try:
        start, end = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f'--guidance-interval "{text[:80]}".', "START,END in 0 to 1, as in 0.2,0.8.") from None
    return Interval(start, end)
