"""A convolutional net tile by tile, with the numbers that it gives for the whole picture at once.

Each tile is computed with as much of its surroundings as the net's convolutions reach, which is cut off again. What is
left differs from the whole picture's numbers by rounding only. Where a net normalises over the whole picture, its norms
are measured first, one after the other, over all tiles (`measured`).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aquatint.nets.shared import shared_copy

Piece: TypeAlias = Callable[[Tensor], Tensor]
Around: TypeAlias = tuple[bool, bool]  # down, across
M = TypeVar("M", bound=nn.Module)


class Enough(Exception):
    """A norm has seen a tile, and what comes after it is not needed yet."""


class TiledNorm(nn.Module):
    """A GroupNorm whose mean and variance are those of the whole picture, gathered tile by tile.

    inner   rows and columns of the present tile that are its own
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.inner = (slice(None), slice(None))
        self.measuring = False
        self.count = 0
        self.mean: Tensor | None = None  # [b, groups, 1]
        self.spread: Tensor | None = None  # summed squares of the distance from the mean

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The tile, normalised with the whole picture's numbers; while measuring, Enough."""
        if self.measuring:
            self._see(x[:, :, self.inner[0], self.inner[1]])
            raise Enough
        assert self.mean is not None, "a norm is measured before it is used"
        assert self.spread is not None, "as is its mean"
        norm, b = self.norm, len(x)
        scale = (self.spread / self.count + norm.eps).rsqrt()
        weight = scale.repeat_interleave(x.shape[1] // norm.num_groups, dim=1).reshape(b, -1)
        shift = -(self.mean * scale).repeat_interleave(x.shape[1] // norm.num_groups, dim=1).reshape(b, -1)
        weight, shift = weight * norm.weight, shift * norm.weight + norm.bias
        return (x.float() * weight[:, :, None, None].float() + shift[:, :, None, None].float()).to(x.dtype)

    def _see(self, x: Tensor) -> None:
        """Chan, Golub and LeVeque's update (1979): two parts' means and squares into one's."""
        kind = torch.float32 if x.device.type in ("mps", "xpu") else torch.float64  # which those may not have
        values = x.float().reshape(len(x), self.norm.num_groups, -1)
        count = values.shape[2]
        variance, mean = torch.var_mean(values, dim=2, correction=0, keepdim=True)
        mean, spread = mean.to(kind), variance.to(kind) * count
        if self.mean is None or self.spread is None:
            self.count, self.mean, self.spread = count, mean, spread
            return
        apart, total = mean - self.mean, self.count + count
        self.spread = self.spread + spread + apart.square() * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total


def by_tiles(
    piece: Piece,
    x: Float[Tensor, "b c h w"],
    tile: int,
    reach: int,
    *,
    up: int = 1,
    down: int = 1,
    around: Around = (False, False),
) -> Float[Tensor, "b c2 h2 w2"]:
    """piece(x), computed for tiles of `tile` pixels of x a side.

    up, down   how much larger, or smaller, a side is after the piece; tile, reach and x's sides are multiples of down
    reach      how many pixels of x beyond a tile its result depends on
    around     whether the picture goes on at its other side, down and across
    """
    made: Tensor | None = None
    for spot in _tiles(x, tile, reach, around):
        part = piece(spot.taken(x))
        rows, columns = (_scaled(span, up, down) for span in spot.inner)
        part = part[:, :, rows, columns]
        if made is None:
            height, width = (side * up // down for side in x.shape[2:])
            made = part.new_empty(len(part), part.shape[1], height, width)
        rows, columns = (_scaled(span, up, down) for span in spot.own)
        made[:, :, rows, columns] = part
    assert made is not None, "a picture has pixels"
    return made


def measured(
    piece: M, x: Float[Tensor, "b c h w"], tile: int, reach: int, *, finer: int = 1, around: Around = (False, False)
) -> M:
    """A copy of the piece whose norms hold the whole picture's numbers, to be given to `by_tiles`.

    The norms are measured in the order in which they are asked, each in a pass over all tiles up to it: a piece of n
    norms takes about n / 2 times its own time. Memory is a tile's.

    finer   how many times more pixels a side the norms see than x has
    """
    twin = shared_copy(piece)
    norms = with_tiled_norms(twin)
    for _ in norms:
        waiting = None
        for spot in _tiles(x, tile, reach, around):
            for norm in norms:
                norm.inner = _scaled(spot.inner[0], finer, 1), _scaled(spot.inner[1], finer, 1)
                norm.measuring = norm.mean is None or norm is waiting
            try:
                twin(spot.taken(x))
            except Enough:
                waiting = next(norm for norm in norms if norm.measuring and norm.count)
        for norm in norms:
            norm.measuring = False
    return twin


def with_tiled_norms(net: nn.Module) -> list[TiledNorm]:
    """Put a TiledNorm in the place of each GroupNorm of the net, which must be a copy; the new ones."""
    made = []
    for part in list(net.modules()):
        for name, inner in list(part._modules.items()):
            if isinstance(inner, nn.GroupNorm):
                part._modules[name] = norm = TiledNorm(inner)
                made.append(norm)
    return made


class _Tile(NamedTuple):
    """Rows and columns of a tile: its own, those that it is computed from, and its own among these."""

    own: tuple[slice, slice]
    seen: tuple[Tensor, Tensor]
    inner: tuple[slice, slice]

    def taken(self, x: Tensor) -> Tensor:
        return x.index_select(2, self.seen[0]).index_select(3, self.seen[1])


def _tiles(x: Tensor, tile: int, reach: int, around: Around) -> Iterator[_Tile]:
    rows, columns = (_spans(side, tile, reach, meets) for side, meets in zip(x.shape[2:], around, strict=True))
    for own, seen, inner in rows:
        for own2, seen2, inner2 in columns:
            yield _Tile((own, own2), (seen.to(x.device), seen2.to(x.device)), (inner, inner2))


def _spans(side: int, tile: int, reach: int, meets: bool) -> list[tuple[slice, Tensor, slice]]:
    """In one direction, for each tile: its own pixels, all that it is computed from, and its own among these."""
    made = []
    for begin in range(0, side, tile):
        end = min(begin + tile, side)
        first, last = (begin - reach, end + reach) if meets else (max(begin - reach, 0), min(end + reach, side))
        made.append((slice(begin, end), torch.arange(first, last) % side, slice(begin - first, end - first)))
    return made


def _scaled(span: slice, up: int, down: int) -> slice:
    return slice(span.start * up // down, span.stop * up // down)
