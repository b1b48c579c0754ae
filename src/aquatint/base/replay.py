"""The random numbers of other programs, stateless as ours are: what it takes to paint their pictures again.

They draw from a generator that goes on from one call to the next. A picture's draws come in a fixed order, the first
noise and then one tensor a step, so that each is a function of (seed, which draw) here too. Draws that those programs
do not make are taken from our own noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aquatint.base.brownian import Draw, path
from aquatint.base.errors import UserError, unknown
from aquatint.base.noise import PRIOR, STEP, WORD, Noise, philox


class Replay(Noise):
    """Another generator's numbers: row i is what a generator seeded with seeds[i] gives to one picture alone.

    delta   added to the seed for the noise of steps, which then comes from a generator of its own (A1111's ENSD;
            ComfyUI adds 1 on the CPU); with 0 the generator of the first noise goes on
    late    the generator of the steps' noise, if it is another kind: then it begins anew, whatever delta is
    tree    the generator of a Brownian path, from which samplers take their new noise that ask for its changes
    ends    the ratios between which that path runs (`over`)
    place, of   each draw is made for `of` pictures at once, and row i is the one at `place` (ComfyUI's batches)
    pictures    of our own noise, where a draw is taken from that; those programs seed their generator anew
    """

    def __init__(
        self,
        seeds: Sequence[int],
        draw: Draw,
        delta: int = 0,
        pictures: Sequence[int] | None = None,
        *,
        late: Draw | None = None,
        tree: Draw | None = None,
        ends: tuple[float, float] | None = None,
        place: int = 0,
        of: int = 1,
    ) -> None:
        super().__init__(seeds, pictures)
        assert 0 <= place < of, f"picture {place} of {of}"
        self._draw, self.delta, self._late, self.place, self.of = draw, delta, late, place, of
        self._tree, self.ends = tree, ends

    def __getitem__(self, rows: slice) -> "Replay":
        return self._with(self.seeds[rows], self.pictures[rows], self.ends)

    def over(self, low: float, high: float) -> "Replay":
        """The noise of a walk between these ratios, whose Brownian path it is."""
        return self._with(self.seeds, self.pictures, (low, high))

    def _with(self, seeds: Sequence[int], pictures: Sequence[int], ends: tuple[float, float] | None) -> "Replay":
        more = {"place": self.place, "of": self.of}
        return Replay(seeds, self._draw, self.delta, pictures, late=self._late, tree=self._tree, ends=ends, **more)

    def normal(
        self, shape: tuple[int, ...], *, step: int = 0, draw: int = 0, device: torch.device | str | None = None
    ) -> Tensor:
        """Standard normal deviates, float32 [b, *shape]."""
        if draw not in (PRIOR, STEP):
            return super().normal(shape, step=step, draw=draw, device=device)
        own = draw == STEP and (self.delta != 0 or self._late is not None)
        number = 0 if draw == PRIOR else step if own else step + 1
        seeds = [seed + self.delta if own else seed for seed in self.seeds]
        take = self._late if own and self._late is not None else self._draw
        drawn = [take(seed, math.prod(shape) * self.of, number) for seed in seeds]
        return self._own(drawn, shape, device)

    def change(
        self,
        shape: tuple[int, ...],
        start: float,
        goal: float,
        *,
        step: int = 0,
        draw: int = 0,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A Brownian path's change, where these are one's: its sign is k-diffusion's, upwards less downwards."""
        if self._tree is None:
            return super().change(shape, start, goal, step=step, draw=draw, device=device)
        assert self.ends is not None, "a path has ends"
        low, high, start, goal = (float(np.float32(ratio)) for ratio in (*self.ends, start, goal))  # as theirs are held
        size, root, drawn = math.prod(shape) * self.of, math.sqrt(start - goal) or 1.0, []
        for seed in self.seeds:
            there, here = (path(seed, self._tree, size, low, high, ratio) for ratio in (goal, start))
            drawn.append(torch.from_numpy(((there - here) / root).astype(np.float32)))
        return self._own(drawn, shape, device)

    def _own(self, drawn: Sequence[Tensor], shape: tuple[int, ...], device: torch.device | str | None) -> Tensor:
        """Of each row that was drawn for `of` pictures, the part of the one at `place`."""
        size = math.prod(shape)
        mine = [row[size * self.place :][:size].reshape(shape) for row in drawn]
        return torch.stack(mine).to(device or "cpu")


def torch_cpu(seed: int, size: int, number: int) -> Tensor:
    """What torch's CPU generator gives: the Mersenne twister (Matsumoto and Nishimura 1998), 32 bits of the seed.

    Uniform deviates have 24 bits; every 16 of them make 16 normal ones, the first 8 being radii and the others angles
    (Box and Muller 1958); the last 16 of a size that 16 does not divide are drawn anew. Below 16 torch goes another
    way, which no latents need. Equal to torch's to rounding: its logarithm and cosine differ between machines.
    """
    if size < 16:
        raise UserError(f'The noise source "cpu" for a picture of {size} latent numbers.', "At least 16 x 16 pixels.")
    taken = size if size % 16 == 0 else size + 16
    words = np.frombuffer(np.random.RandomState(seed & WORD).bytes(4 * taken * (number + 1)), dtype="<u4")
    uniform = (words[taken * number :] & (2**24 - 1)).astype(np.float32) * np.float32(2.0**-24)
    whole = size // 16 * 16
    normal = np.empty(size, np.float32)
    normal[:whole] = _box_muller(uniform[:whole])
    if whole < size:
        normal[size - 16 :] = _box_muller(uniform[size:])
    return torch.from_numpy(normal)


def torch_cuda(seed: int, size: int, number: int) -> Tensor:
    """What torch's CUDA generator gives on a card with a thread for each number, on any machine ("NV" in A1111).

    Philox 4x32-10 keyed by the seed, the draw's number and the position; two of its four words make one deviate:
    sqrt(-2 ln u) sin(2 pi v) (cuRAND's Box-Muller, in float32).
    """
    position = torch.arange(size)
    zero = torch.zeros_like(position)
    u, v, _, _ = philox((zero + number, zero, position, zero), (zero + (seed & WORD), zero + (seed >> 32 & WORD)))
    share, turn = np.float32(2.0**-32), np.float32(2.0**-31 * math.pi)
    radius = np.sqrt(-2 * np.log(_float32(u) * share + share / 2))
    return torch.from_numpy(radius * np.sin(_float32(v) * turn + turn / 2))


def noise_from(
    source: str, seeds: Sequence[int], delta: int = 0, *, turn: int = 0, place: int = 0, of: int = 1
) -> Noise:
    """The noise of a named source for these seeds; UserError for a source that is not known.

    turn   which pass over one picture it is for, from 0: no pass shares a number with another. Other programs begin
           their generators again for each pass
    """
    if source not in SOURCES:
        raise unknown("noise source", source, SOURCES)
    row, pictures = SOURCES[source], (turn,) * len(seeds)
    if row is None:
        return Noise(seeds, pictures)
    return Replay(seeds, row.first, delta, pictures, late=row.late, tree=row.tree, place=place, of=of)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """Blocks of 16 uniform deviates -> blocks of 16 normal ones."""
    radii, angles = uniform.reshape(-1, 2, 8).swapaxes(0, 1)
    radius = np.sqrt(-2 * np.log1p(-radii))
    angle = np.float32(2 * math.pi) * angles
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


def _float32(words: Tensor) -> np.ndarray:
    return words.numpy().astype(np.uint32).astype(np.float32)


@dataclass(frozen=True)
class Source:
    """A row of the table: the generators of the first noise, of the steps' where it is another, and of a Brownian
    path where the SDE samplers take theirs from one.
    """

    first: Draw
    late: Draw | None = None
    tree: Draw | None = None


# A1111 takes paths from the generator that it has, ComfyUI from the CPU's, for samplers called _gpu from the card's.
SOURCES: dict[str, Source | None] = {
    "aquatint": None,
    "cpu": Source(torch_cpu),
    "nv": Source(torch_cuda),
    "cpu+nv": Source(torch_cpu, torch_cuda),
    "cpu+tree": Source(torch_cpu, tree=torch_cpu),
    "nv+tree": Source(torch_cuda, tree=torch_cuda),
    "cpu+nv+cputree": Source(torch_cpu, torch_cuda, torch_cpu),
    "cpu+nv+nvtree": Source(torch_cpu, torch_cuda, torch_cuda),
}
