"""A second model for the last levels of noise: Stable Diffusion XL's refiner goes on with the base's latents.

An "ensemble of expert denoisers" (Balaji et al. 2022; Podell et al. 2023, section 2.5): one path through the levels,
whose noisy part the base walks and whose clean part the refiner, each with its own text encoders and conditions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aquatint.base.errors import UserError
from aquatint.diffusion.schedule import Level, NoiseSchedule
from aquatint.families import Family
from aquatint.pipelines.micro import Micro

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.record import File
    from aquatint.pipelines.request import Resolved


@dataclass(frozen=True)
class Refine:
    """Where the bundle's refiner takes over, and what it is told beside text and sizes.

    after                share of the noise schedule that the base walks, 0 < a < 1 (diffusers' denoising_end): the
                         refiner is asked at times below (1 - after) of the schedule's length
    aesthetic            how beautiful a picture it aims at; None is 6.0
    negative_aesthetic   and avoids; None is 2.5

    Raises UserError for a number out of range.
    """

    after: float = 0.8
    aesthetic: float | None = None
    negative_aesthetic: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.after, bool) or not 0 < self.after < 1:
            raise UserError(f"refine after = {str(self.after)[:60]}.", "A number between 0 and 1.")
        Micro(aesthetic=self.aesthetic, negative_aesthetic=self.negative_aesthetic)  # refuses what is out of range

    def level(self, levels: Sequence[Level], schedule: NoiseSchedule) -> Level:
        """The first of the levels that is the refiner's; UserError where it would be asked at none."""
        below = round((schedule.last + 1) * (1 - self.after))
        for level in levels[:-1]:
            if float(level.t) < below:
                return level
        raise UserError(
            f"refine after = {self.after:g} of {len(levels) - 1} steps leaves none to the refiner.",
            "A smaller share, or more steps.",
        )


def refiner_of(bundle: "Bundle", request: "Resolved") -> "tuple[Bundle, Resolved]":
    """The bundle's refiner, and the request as the refiner reads it; UserError where it has none.

    Prompt, negative, guidance and sizes are the same; it has one text encoder, so that clip_skip is its own again.
    """
    assert request.refine is not None, "only asked of requests that refine"
    if bundle.refiner is None:
        raise UserError(
            "refine without a refiner.", "A bundle that has one.", "load(..., refiner=PATH), or --refiner PATH."
        )
    if bundle.unet.config.channels_in != bundle.autoencoder.config.latents:
        raise UserError(
            f"refine with {bundle.family.name}, whose U-Net is shown a picture or a mask.",
            "A base model that takes latents alone.",
            "Refine its picture in a request of its own.",
        )
    given, told = request.micro or Micro(), bundle.refiner.family.micro
    values: dict[str, Any] = {name: getattr(given, name) for name in ("original", "crop", "target") if name in told}
    if "aesthetic" in told:
        values |= {"aesthetic": request.refine.aesthetic, "negative_aesthetic": request.refine.negative_aesthetic}
    micro = Micro(**values) if told else None
    return bundle.refiner, replace(request, refine=None, micro=micro, loras=(), clip_skip=None)


def check_refiner(base: Family, refiner: Family) -> None:
    """Whether one model can go on where the other stops: latents and schedule must be the same; else a UserError."""
    differs = [
        name
        for name, one, two in (
            ("schedule", base.schedule, refiner.schedule),
            ("latents", _latents(base), _latents(refiner)),
        )
        if one != two
    ]
    if refiner.unet.channels_in != refiner.autoencoder.latents:
        differs.append("channels in")
    if differs:
        raise UserError(
            f"{refiner.name} cannot refine {base.name}: it has other {' and other '.join(differs)}.",
            "A refiner that was trained on the same latents and noise, as Stable Diffusion XL's for its base.",
        )


def files_of(bundle: "Bundle", request: "Resolved") -> "tuple[File, ...]":
    """The refiner that a request uses, for its record."""
    from aquatint.pipelines.record import File  # which knows what a Request is

    if request.refine is None:
        return ()
    refiner, _ = refiner_of(bundle, request)
    return (File("refiner", refiner.name, refiner.digest, refiner.digest),)


def _latents(family: Family) -> tuple[float, ...]:
    autoencoder = family.autoencoder
    return autoencoder.latents, autoencoder.factor, autoencoder.scale, autoencoder.shift
