"""Variations: a picture that begins a little, or a good part, of the way from its own noise to another seed's."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.base.noise import PRIOR
from aquatint.base.replay import noise_from
from aquatint.pipelines.checks import number, whole

LARGEST_SEED = 2**64 - 1
LARGEST_SIDE = 4_096  # pixels
NEAR = 0.9995  # cosine above which two columns have no angle worth speaking of


@dataclass(frozen=True)
class Variation:
    """What the noise that a picture begins with is besides its seed's.

    seed       of the noise that it is turned towards: 0 ... 2^64 - 1
    strength   how far: 0 is the picture's own, 1 the other's
    width, height   "seed resize from": the noise is drawn for a picture of this size in pixels and lies in the middle
                    of the larger one (or is cut to the smaller one); None: for the size that is painted

    Raises UserError for a value out of range.
    """

    seed: int = 0
    strength: float = 0.0
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", whole("variation seed", self.seed, 0, LARGEST_SEED))
        object.__setattr__(self, "strength", number("variation strength", self.strength, 0.0, 1.0))
        if (self.width is None) != (self.height is None):
            raise UserError("A variation with one of width and height.", "Both, or neither.")
        for name in ("width", "height"):
            if (side := getattr(self, name)) is not None and whole(f"variation {name}", side, 8, LARGEST_SIDE) % 8:
                raise UserError(f"variation {name} = {side}.", "A multiple of 8.")


def first_noise(
    source: str,
    seed: int,
    shape: tuple[int, int, int],
    variation: Variation | None = None,
    *,
    turn: int = 0,
    place: int = 0,
    of: int = 1,
    factor: int = 8,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "1 c h w"]:
    """The noise that a pass begins with: the seed's own, turned towards the variation's where there is one.

    source, turn, place, of   as in base.replay.noise_from;  factor   pixels a latent
    With the sources "cpu" and "nv" these are A1111's very numbers.
    """

    noise_of = partial(noise_from, source, turn=turn, place=place, of=of)
    if variation is None:
        return noise_of((seed,)).normal(shape, draw=PRIOR, device=device)

    def drawn(own: int, size: tuple[int, int, int]) -> Tensor:
        return noise_of((own,)).normal(size, draw=PRIOR)

    small = shape
    if variation.width is not None and variation.height is not None:
        small = (shape[0], variation.height // factor, variation.width // factor)
    x = drawn(seed, small)
    if variation.strength:
        # in float64 on the CPU, and rounded once: libraries differ in a sine's last bits
        x = slerp(variation.strength, x.double(), drawn(variation.seed, small).double()).float()
    return (x if small == shape else _laid(x, drawn(seed, shape))).to(device)


def slerp(share: float, low: Float[Tensor, "b c h w"], high: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """sin((1 - s) w) / sin(w) low + sin(s w) / sin(w) high: along the arc between the two (Shoemake 1985).

    w is the angle between them, one for every column of every channel, as A1111 has it: a column's h numbers are the
    vector. Columns that point the same way, or opposite ways, to within NEAR are mixed in a straight line.
    """
    cosine = (low / low.norm(dim=2, keepdim=True) * (high / high.norm(dim=2, keepdim=True))).sum(dim=2, keepdim=True)
    angle = torch.acos(cosine)
    arc = torch.sin((1.0 - share) * angle) / torch.sin(angle) * low
    arc = arc + torch.sin(share * angle) / torch.sin(angle) * high
    return torch.where(cosine.abs() > NEAR, (1.0 - share) * low + share * high, arc)


def _laid(x: Tensor, over: Tensor) -> Tensor:
    """x in the middle of `over`, or its middle where it is the larger; in each direction by itself."""
    here, there = [], []
    for small, large in zip(x.shape[2:], over.shape[2:], strict=True):
        shift = (large - small) // 2
        size = small if shift >= 0 else small + 2 * shift
        there.append(slice(max(shift, 0), max(shift, 0) + size))
        here.append(slice(max(-shift, 0), max(-shift, 0) + size))
    made = over.clone()
    made[:, :, there[0], there[1]] = x[:, :, here[0], here[1]]
    return made
