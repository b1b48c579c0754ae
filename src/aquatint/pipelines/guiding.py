"""Guidance of a request beyond its scale, as values (docs/guidance.md)."""

import re
from dataclasses import dataclass
from typing import Any

from aquatint.base.errors import UserError
from aquatint.pipelines.checks import number

MOST = 100.0  # of any scale
_PLACE = re.compile(r"(?:middle|(?:descent|ascent)\.[0-9]{1,2}(?:\.cells\.[0-9]{1,2})?)")


@dataclass(frozen=True)
class Interval:
    """Where there is guidance: between two shares of the steps in their order. Elsewhere the prompt alone is asked."""

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _hold(self, "guiding.interval", start=(0.0, 1.0), end=(0.0, 1.0))
        if not self.start < self.end:
            raise UserError(
                f"guiding.interval goes from {self.start:g} to {self.end:g}.", "A start below its end, 0 to 1."
            )


@dataclass(frozen=True)
class Threshold:
    """Dynamic thresholding of x0.

    percentile   share of the values, 0 ... 1, that is to be kept within the bound; 0.995 if not given, 1 with mimic
    mimic        the scale of guidance whose spread is the bound, channel by channel; None: the bound is `limit`
    limit        largest value of latents; 1 for pixels in the paper, and about 3 for latents of deviation 1
    """

    percentile: float | None = None
    mimic: float | None = None
    limit: float = 3.0

    def __post_init__(self) -> None:
        if self.percentile is None:
            object.__setattr__(self, "percentile", 0.995 if self.mimic is None else 1.0)
        _hold(self, "guiding.threshold", percentile=(0.0, 1.0), mimic=(0.0, MOST), limit=(1e-3, 1e6))

    @property
    def share(self) -> float:
        """The percentile, given or usual."""
        assert self.percentile is not None
        return self.percentile


@dataclass(frozen=True)
class Apg:
    """Adaptive projected guidance.

    eta        how much of what lies along x0 is kept, 0 ... 1
    norm       how long the change of x0 may be; 0: any. It grows with the side: 7.5 at 512 pixels is 1.9 at 128
    momentum   of the change over the steps; the paper takes it below 0
    """

    eta: float = 0.0
    norm: float = 7.5
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _hold(self, "guiding.apg", eta=(0.0, 1.0), norm=(0.0, 1e6), momentum=(-0.99, 0.99))


@dataclass(frozen=True)
class Pag:
    """Perturbed-attention guidance: its scale, and where self-attention is perturbed ("middle", "descent.1", ...)."""

    scale: float = 3.0
    layers: tuple[str, ...] = ("middle",)

    def __post_init__(self) -> None:
        _hold(self, "guiding.pag", scale=(0.0, MOST))
        if not isinstance(self.layers, tuple | list) or not 0 < len(self.layers) <= 64:
            raise UserError(f"guiding.pag.layers = {str(self.layers)[:60]!r}.", 'A list, as in ("middle",).')
        for layer in self.layers:
            if not isinstance(layer, str) or not _PLACE.fullmatch(layer):
                raise UserError(
                    f"guiding.pag.layers names {str(layer)[:60]!r}.", "middle, descent.1, ascent.0, ascent.0.cells.1."
                )
        object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))


@dataclass(frozen=True)
class Sag:
    """Self-attention guidance: its scale, and the deviation in latent pixels of the blur."""

    scale: float = 0.75
    blur: float = 1.0

    def __post_init__(self) -> None:
        _hold(self, "guiding.sag", scale=(0.0, MOST), blur=(0.01, MOST))


@dataclass(frozen=True)
class FreeU:
    """FreeU: factors of backbone and skips (1 is neutral), and the version; the defaults are for Stable Diffusion 1."""

    b1: float = 1.5
    b2: float = 1.6
    s1: float = 0.9
    s2: float = 0.2
    version: int = 2

    def __post_init__(self) -> None:
        _hold(self, "guiding.freeu", **dict.fromkeys(("b1", "b2", "s1", "s2"), (0.0, 10.0)))
        if isinstance(self.version, bool) or self.version not in (1, 2):
            raise UserError(f"guiding.freeu.version = {str(self.version)[:40]}.", "1 or 2.")


@dataclass(frozen=True)
class Guiding:
    """What guides a picture beside prompt, scale and rescale; what is None is left out.

    interval    where there is guidance at all (Kynkaanniemi et al. 2024)
    threshold   dynamic thresholding (Saharia et al. 2022)
    apg         adaptive projected guidance (Sadat et al. 2024)
    perp_neg    weight of that part of the negative which is perpendicular to the prompt (Armandpour et al. 2023)
    pag         perturbed-attention guidance (Ahn et al. 2024)
    sag         self-attention guidance (Hong et al. 2023)
    freeu       FreeU (Si et al. 2024)

    Raises UserError for a number out of range, and where two would set the scale each in its own way.
    """

    interval: Interval | None = None
    threshold: Threshold | None = None
    apg: Apg | None = None
    perp_neg: float | None = None
    pag: Pag | None = None
    sag: Sag | None = None
    freeu: FreeU | None = None

    def __post_init__(self) -> None:
        kinds = {"interval": Interval, "threshold": Threshold, "apg": Apg, "pag": Pag, "sag": Sag, "freeu": FreeU}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise UserError(f"guiding.{name} = {str(value)[:60]!r}.", f"{kind.__name__}(...), or None.")
        _hold(self, "guiding", perp_neg=(0.0, MOST))
        if self.apg is not None and self.mimic is not None:
            raise UserError("guiding.apg and guiding.threshold.mimic.", "One of the two: each makes the scale its own.")

    @property
    def mimic(self) -> float | None:
        """The scale that a threshold mimics."""
        return self.threshold.mimic if self.threshold else None


def checked(guiding: Any) -> Guiding | None:
    """A request's guiding; UserError for what is neither Guiding nor None."""
    if guiding is None or isinstance(guiding, Guiding):
        return guiding
    raise UserError(f"guiding = {str(guiding)[:60]!r}.", "Guiding(...), or None.")


def _hold(value: Any, place: str, **bounds: tuple[float, float]) -> None:
    """Numbers as floats within their bounds (None stays where it is the default); UserError with the field's name."""
    for name, (low, high) in bounds.items():
        held = getattr(value, name)
        if held is not None or getattr(type(value), name) is not None:
            object.__setattr__(value, name, number(f"{place}.{name}", held, low, high))
