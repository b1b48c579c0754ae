"""A batch in parts: one gradient from many, added in an order that does not depend on how many processes there are.

The parts go in lock step, for a critic is to judge what the generator has just become: all parts give their first
loss, its player moves, then all give their second. A part's activations are freed before the next part begins; where
the parts need one another's rows first (`Every`), each is begun again once these are known (as in GradCache, Gao et
al. 2021: memory for one part, and two more forward passes).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.training import parallel
from aquatint.training.recipe import Answer, Every, Loss, Losses, Recipe, Share


class Found(NamedTuple):
    """What the whole batch says to one player: its gradient, a tensor for each weight, and the mean of the logs."""

    player: str
    gradients: list[Tensor]
    logs: Mapping[str, float]


class Ways(NamedTuple):
    """How a run computes.

    advance         the next thing that losses say, in the run's number format; None at their end
    weights         a player's, in the order in which its gradient is wanted
    differentiate   a number's gradient by each of some tensors, zeros where it does not depend on them
    sharded         for each weight of a player, whether that gradient is the mean over processes already
    """

    advance: Callable[[Losses, Answer | None], Loss | Every | None]
    weights: Callable[[str], Sequence[Tensor]]
    differentiate: Callable[[Tensor, Sequence[Tensor]], list[Tensor]]
    sharded: Callable[[str], Sequence[bool]]


def own_parts(recipe: Recipe, share: Share) -> list[Share]:
    """The parts of every batch that this process computes, as if each were a process of its own.

    Raises UserError where the batch or its parts cannot be shared evenly.
    """
    parts = share.world if recipe.parts == 1 else recipe.parts
    if parts % share.world:
        raise UserError(f"{recipe.parts} parts for {share.world} processes.", "1, or a multiple of their number.")
    if recipe.batch_size % parts:
        what = f"{share.world} processes" if recipe.parts == 1 else f"{parts} parts"
        raise UserError(f"A batch of {recipe.batch_size} for {what}.", "A multiple of their number.")
    each = parts // share.world
    return [Share(share.rank * each + place, parts) for place in range(each)]


class Sum:
    """Lists of tensors, added as the leaves of a binary tree: ((a + b) + (c + d)) + ...; in place of the first ones.

    Holds one partial sum for each binary digit of their number. 2^k leaves that begin at a multiple of 2^k are a tree
    of their own: where processes divide the leaves so, and add their trees by `parallel.sum_`, the bits are the same.
    """

    def __init__(self) -> None:
        self._partial: list[tuple[int, list[Tensor]]] = []

    def add(self, tensors: list[Tensor]) -> None:
        """One more leaf; its tensors are ours from now on."""
        size = 1
        while self._partial and self._partial[-1][0] == size:
            tensors = self._joined(tensors)
            size *= 2
        self._partial.append((size, tensors))

    def total(self) -> list[Tensor]:
        """The sum of all leaves."""
        _, tensors = self._partial.pop()
        while self._partial:
            tensors = self._joined(tensors)
        return tensors

    def _joined(self, tensors: list[Tensor]) -> list[Tensor]:
        _, older = self._partial.pop()
        torch._foreach_add_(older, tensors)
        return older


class Parts:
    """One batch: iterating gives what it says to each player in turn, which must have moved before the next is asked.

    begin   starts each of our parts' losses anew
    total   how many parts all processes have
    fixed   whether the sums are to have the same bits however the parts are spread
    """

    def __init__(self, begin: Sequence[Callable[[], Losses]], ways: Ways, share: Share, *, fixed: bool) -> None:
        self.begin, self.ways, self.share, self.fixed = begin, ways, share, fixed
        self.total = len(begin) * share.world
        self.running: list[Losses] = []

    def __iter__(self) -> Iterator[Found]:
        yield self._first()
        while (said := self.ways.advance(self.running[0], None)) is not None:
            rest = (_loss(self.ways.advance(run, None)) for run in self.running[1:])
            yield self._found(_loss(said), rest)

    def _first(self) -> Found:
        """The first loss; before it, each part may have asked for every part's rows."""
        said = self._started(0)
        if isinstance(said, Every) and self.fixed:
            said = self._forgotten(0, said)
            return self._asked(said)
        if isinstance(said, Every):  # one part a process: nothing is computed twice
            rows = tuple(parallel.gather(rows) for rows in said.rows)
            said = self.ways.advance(self.running[0], Answer(rows, self._own(0, len(said.rows[0]))))
        return self._found(_loss(said), (_loss(self._started(place)) for place in range(1, len(self.begin))))

    def _started(self, place: int) -> Loss | Every | None:
        """What a part says first, now that it is begun (again)."""
        self.running[place:] = [self.begin[place]()]
        return self.ways.advance(self.running[place], None)

    def _found(self, first: Loss, rest: Iterable[Loss]) -> Found:
        weights = self.ways.weights(first.player)
        if self.total == 1:
            return Found(first.player, self.ways.differentiate(first.value, weights), first.logs)
        total = Sum()
        total.add([*self.ways.differentiate(first.value, weights), _numbers(first)])
        for loss in rest:
            total.add([*self.ways.differentiate(loss.value, weights), _numbers(loss)])
        *gradients, numbers = self._mean(first.player, total.total())
        return Found(first.player, gradients, dict(zip(first.logs, numbers.tolist(), strict=True)))

    def _asked(self, said: Every) -> Found:
        """The first loss of parts that need one another's rows, with one part's activations at a time.

        All rows are computed, and forgotten but for their numbers. Each part's loss then is differentiated by all rows
        as if they were given; last, each part's rows are computed again and pulled in the direction that all losses
        together want of them.
        """
        count, learning = len(said.rows[0]), [rows.requires_grad for rows in said.rows]
        others = [self._forgotten(place, self._started(place)) for place in range(1, len(self.begin))]
        numbers = zip(said.rows, *(other.rows for other in others), strict=True)
        every = [parallel.every(torch.cat(rows)).detach() for rows in numbers]
        direct = Sum()
        for place in range(len(self.begin)):
            self._started(place)
            given = [rows.clone().requires_grad_(learns) for rows, learns in zip(every, learning, strict=True)]
            loss = _loss(self.ways.advance(self.running[place], Answer(tuple(given), self._own(place, count))))
            weights = self.ways.weights(loss.player)
            wanted = self.ways.differentiate(loss.value, [*weights, *(rows for rows in given if rows.requires_grad)])
            direct.add([*wanted, _numbers(loss)])
        found = self._mean(loss.player, direct.total())
        gradients, pulls, logs = found[: len(weights)], found[len(weights) : -1], found[-1]
        if pulls:
            through = Sum()
            for place in range(len(self.begin)):
                own = self._own(place, count)
                run = self.begin[place]()
                again = self.ways.advance(run, None)
                assert isinstance(again, Every), "all parts ask, or none"
                live = [rows for rows in again.rows if rows.requires_grad]
                pulled = torch.stack([(rows * pull[own]).sum() for rows, pull in zip(live, pulls, strict=True)]).sum()
                run.close()
                through.add(self.ways.differentiate(pulled, weights))
            torch._foreach_mul_(shares := self._mean(loss.player, through.total()), float(self.total))
            torch._foreach_add_(gradients, shares)
        return Found(loss.player, gradients, dict(zip(loss.logs, logs.tolist(), strict=True)))

    def _forgotten(self, place: int, said: Loss | Every | None) -> Every:
        """What a part asks, without what led to it, whose memory is free again."""
        assert isinstance(said, Every), "all parts ask, or none"
        self.running[place].close()
        return Every(tuple(rows.detach().requires_grad_(rows.requires_grad) for rows in said.rows))

    def _own(self, place: int, count: int) -> slice:
        """Where the rows of one of our parts are among all."""
        first = (self.share.rank * len(self.begin) + place) * count
        return slice(first, first + count)

    def _mean(self, player: str, sums: list[Tensor]) -> list[Tensor]:
        """Our parts' sums -> means over all parts, in place; what follows the weights is added up like these."""
        done = self.ways.sharded(player)
        ours = [*done, *(False for _ in sums[len(done) :])]
        apart = [tensor for tensor, sharded in zip(sums, ours, strict=True) if not sharded]
        (parallel.sum_ if self.fixed else parallel.add_)(apart)
        torch._foreach_div_(apart, float(self.total))
        if any(done):
            meant = [tensor for tensor, sharded in zip(sums, ours, strict=True) if sharded]
            torch._foreach_div_(meant, float(len(self.begin)))
        return sums


def _loss(said: Loss | Every | None) -> Loss:
    assert isinstance(said, Loss), "an objective asks once, before its first loss, and all parts give the same losses"
    return said


def _numbers(loss: Loss) -> Tensor:
    return torch.tensor(list(loss.logs.values()), dtype=torch.float32, device=loss.value.device)
