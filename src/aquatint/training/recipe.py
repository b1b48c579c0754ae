"""What a training run is: an objective, its data, and how long; said by a Python function in recipes/."""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from aquatint.base.errors import UserError, unknown
from aquatint.base.noise import Noise

Batch = Mapping[str, Any]  # tensors with one row a sample, and lists of texts


class Moment(NamedTuple):
    """Where a run stands: steps done, and the share of its length that is behind it (0 to 1)."""

    step: int
    progress: float


class Share(NamedTuple):
    """Which part of every global batch is ours: process `rank` of `world`."""

    rank: int = 0
    world: int = 1


class Loss(NamedTuple):
    """A number that one player wants small, with what is worth writing down about it."""

    player: str
    value: Tensor
    logs: Mapping[str, float]


class Every(NamedTuple):
    """What an objective may ask before its first loss: rows of which each part of the batch needs all others'.

    It is answered by an Answer. A batch is in parts where several processes share it, or where a recipe says so.
    """

    rows: tuple[Tensor, ...]


class Answer(NamedTuple):
    """The rows of all parts [n, ...], in the order of the samples, and which of them are ours.

    Gradients flow back through them to the parts that they came from: an objective that takes its own rows from here
    as well asks for the least work.
    """

    rows: tuple[Tensor, ...]
    own: slice


Losses = Generator[Loss | Every, Answer | None, None]


@runtime_checkable
class Objective(Protocol):
    """What is trained and what for.

    `losses` yields one loss after another; the loop steps its player before it asks for the next, so that a critic
    judges what the generator has just become. A player's gradient comes from its own losses and from nothing else.
    A loss is a mean over samples; what couples these otherwise is asked for by `Every`, for a batch may come in parts.
    """

    @property
    def players(self) -> Mapping[str, nn.Module]:
        """Name -> module, of all that move."""
        ...

    def losses(self, batch: Batch, moment: Moment, noise: Noise) -> Losses:
        """The losses of one batch (or part of it), in the order in which their players move.

        The same numbers for the same arguments and weights: it may be begun again for want of memory.
        """
        ...


def alone(losses: Losses) -> Iterator[Loss]:
    """The losses of a batch that is whole: what it asks of every part is answered by its own rows."""
    answer: Answer | None = None
    while True:
        try:
            said = losses.send(answer)
        except StopIteration:
            return
        if isinstance(said, Every):
            answer = Answer(said.rows, slice(0, len(said.rows[0])))
        else:
            answer = None
            yield said


@dataclass(frozen=True)
class Optim:
    """AdamW (Loshchilov & Hutter 2019) with a warm-up, a hold and a cosine descent.

    lr         the peak; reached after `warmup` steps, held until `hold` (share of the run), then down to lr * final
    decay      weight decay, on matrices and kernels only (never on biases, norms and embeddings of places)
    clip       gradients are scaled to at most this global norm; 0 leaves them
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    decay: float = 0.01
    warmup: int = 100
    hold: float = 0.0
    final: float = 0.05
    clip: float = 1.0

    def __post_init__(self) -> None:
        bounds = {"lr": (0.0, 100.0), "eps": (0.0, 1.0), "decay": (0.0, 100.0), "clip": (0.0, 1e9)}
        for name, (low, high) in (bounds | dict.fromkeys(("hold", "final"), (0.0, 1.0))).items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"optim.{name} = {getattr(self, name):g}.", f"{low:g} to {high:g}.")
        if not 0 <= self.warmup <= 10_000_000:
            raise UserError(f"optim.warmup = {self.warmup}.", "0 to 10,000,000 steps.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas = {self.betas}.", "0 to 1 (not 1 itself), as 0.9,0.999.")


@dataclass(frozen=True)
class Length:
    """How long a run lasts: by steps, or by minutes of training time (added up over interruptions)."""

    steps: int = 0
    minutes: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.steps <= 10**12 and 0 <= self.minutes <= 1e9) or (self.steps > 0) == (self.minutes > 0):
            raise UserError(f"A run of {self.steps} steps, {self.minutes:g} minutes.", "Steps or minutes, above 0.")


@dataclass(frozen=True)
class Recipe:
    """A run, whole. `batch` maps (moment, our share) to our part of that step's global batch, so data needs no state.

    device   where the players live; what `batch` gives is brought there
    dtype    "float32", or "bfloat16": nets compute in it by autocast, over weights, sums and losses in float32
    facts    JSON-able description of the run, written beside its results
    snapshot_steps   after how many steps averages are written down whose length is chosen later (training/averages.py);
             a thirtieth of the run is a good number; 0: none
    parts    into how many equal parts a batch is cut, which each process computes one after the other: memory for one
             part's activations. 1: a part a process. From 2 on the parts' gradients are added in an order that does not
             depend on the processes, so that 1, 2, 4 ... of them give the same bits (docs/scaling.md)
    sharding "none", or "full": weights, gradients, averages and the optimiser's numbers are spread over the processes
    spread   with sharding: each process writes its own piece of a checkpoint, and no process ever holds all of it
    save_steps   after how many steps the state is saved; 0: after `save_minutes` of training
    keep     how many checkpoints stay; the oldest goes only after the newest has been written and read back
    tensorboard   whether to write events for TensorBoard as well (`tensorboard --logdir FOLDER`)
    watch    called as watch(moment, averaged players, folder) every `watch_steps`, or `watch_minutes` where that is 0,
             and at the end: sheets, probes
    """

    name: str
    seed: int
    objective: Objective
    batch: Callable[[Moment, Share], Batch]
    length: Length
    optim: Mapping[str, Optim]
    averages: tuple[float, ...] = (0.999,)
    batch_size: int = 32
    log_steps: int = 50
    snapshot_steps: int = 0
    tensorboard: bool = False
    save_minutes: float = 5.0
    save_steps: int = 0
    keep: int = 2
    watch_minutes: float = 5.0
    watch_steps: int = 0
    watch: Callable[[Moment, Mapping[str, nn.Module], Any], Mapping[str, float]] | None = None
    device: torch.device = field(default=torch.device("cpu"))
    dtype: str = "float32"
    facts: Mapping[str, Any] = field(default_factory=dict)
    parts: int = 1
    sharding: str = "none"
    spread: bool = False

    def __post_init__(self) -> None:
        least = dict.fromkeys(("batch_size", "log_steps", "parts", "keep"), 1)
        least |= dict.fromkeys(("snapshot_steps", "watch_steps", "save_steps"), 0)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UserError(f"{name} = {getattr(self, name)}.", f"A whole number from {low}.")
        for name in ("save_minutes", "watch_minutes"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} = {getattr(self, name):g}.", "From 0, which is after every step.")
        if odd := [decay for decay in self.averages if not 0 <= decay < 1]:
            raise UserError(f"averages hold {odd[0]:g}.", "Decays from 0, below 1.")
        if self.dtype not in ("float32", "bfloat16"):  # float16 would need its losses scaled
            raise unknown("dtype to train in", self.dtype, ("float32", "bfloat16"))
        if self.sharding not in ("none", "full"):
            raise unknown("sharding", self.sharding, ("none", "full"))
        if self.sharding == "none" and self.spread:
            raise UserError("Pieces of a checkpoint without sharding.", "Both, or neither.", 'Set sharding="full".')
        if self.sharding == "full" and self.snapshot_steps:
            raise UserError("Snapshots of averages with sharded weights.", "One of the two.", "Set snapshot_steps=0.")
        if self.sharding == "full" and len(self.objective.players) > 1:
            what = f"{self.name} has {len(self.objective.players)} players."
            raise UserError(what, "One, where weights are sharded (docs/decisions/008).", 'Set sharding="none".')
        if set(self.optim) != set(self.objective.players):
            ours, theirs = (", ".join(sorted(names)) or "nobody" for names in (self.optim, self.objective.players))
            raise UserError(f"optim is for {ours}; those who learn are {theirs}.", "An Optim for each of these.")
