"""What makes a picture quicker and another one, as values of a request (docs/approximations.md); never on unasked."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aquatint.base.errors import UserError
from aquatint.nets.token_merging import MOST
from aquatint.pipelines.checks import number, shown, whole

if TYPE_CHECKING:
    from aquatint.pipelines.request import Request

MOST_STEPS, MOST_SKIPS = 1_000, 100


@dataclass(frozen=True)
class Reuse:
    """Deep features computed in some steps and reused in those between (DeepCache: nets/reuse.py).

    every   steps between two that compute them; at 1 they are never reused
    skips   of the U-Net, from the outside, that are computed always: 1 is quickest, more are nearer to the truth

    Raises UserError for a number out of range.
    """

    every: int = 3
    skips: int = 1

    def __post_init__(self) -> None:
        whole("approximations.reuse.every", self.every, 1, MOST_STEPS)
        whole("approximations.reuse.skips", self.skips, 1, MOST_SKIPS)


@dataclass(frozen=True)
class Approximations:
    """Ways to be quicker that change the picture; what is None is left out.

    reuse   deep features reused from step to step (Ma et al. 2023)
    merge   share of the pixels that are merged into others in the U-Net's largest self-attention, 0 ... 0.75 (Bolya and
            Hoffman 2023: nets/token_merging.py)

    Raises UserError for a number out of range.
    """

    reuse: Reuse | None = None
    merge: float | None = None

    def __post_init__(self) -> None:
        if self.reuse is not None and not isinstance(self.reuse, Reuse):
            raise UserError(f"approximations.reuse = {shown(self.reuse)}.", "Reuse(...), or None.")
        if self.merge is not None:
            object.__setattr__(self, "merge", number("approximations.merge", self.merge, 0.0, MOST))


def checked(approximations: Any) -> Approximations | None:
    """A request's approximations; UserError for what is neither these nor None."""
    if approximations is None or isinstance(approximations, Approximations):
        return approximations
    raise UserError(f"approximations = {shown(approximations)}.", "Approximations(...), or None.")


def reuse_of(request: "Request") -> Reuse | None:
    """What a request reuses; None where that is nothing."""
    reuse = request.approximations.reuse if request.approximations else None
    return None if reuse is None or reuse.every == 1 else reuse


def merge_of(request: "Request") -> float:
    """The share of pixels that a request merges."""
    return (request.approximations.merge if request.approximations else None) or 0.0


def label(request: "Request") -> str | None:
    """What about a request's pictures is approximate, in a line; None where nothing is."""
    reuse, merge = reuse_of(request), merge_of(request)
    said = [
        f"deep features are computed every {reuse.every} steps" if reuse else "",
        f"{100 * merge:g} % of the pixels are merged in self-attention" if merge else "",
        "the tiny autoencoder decodes" if request.decoding is not None and request.decoding.tiny else "",
    ]
    return "; ".join(part for part in said if part) or None
