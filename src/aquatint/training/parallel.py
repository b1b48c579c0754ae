"""Several processes as one: who we are and where, sums over all, and a gather that gradients flow back through."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aquatint.base.errors import UserError
from aquatint.training.pulse import Pulse, board, silence
from aquatint.training.recipe import Share

_pulse: list[Pulse] = []  # of this process, while it has company


class Lost(UserError):
    """Another process of the run has ended."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"Another process of this run is gone ({why[:200]}).",
            "All the processes that it began with.",
            "Start the run again: it goes on from its last checkpoint.",
        )


@contextmanager
def talking() -> Iterator[None]:
    """Within, a connection that breaks is told of as Lost."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(str(error).strip().partition("\n")[0]) from error


def join() -> Share:
    """Join the processes that torchrun started (its environment variables say who we are); alone without them."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(device())
        rank = int(os.environ["RANK"])
        store = board(world, keeper=rank == 0)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timedelta(minutes=10))
        if seconds := silence():
            _pulse.append(Pulse(*share(), seconds))
    return share()


def share() -> Share:
    """Which part of every batch is ours."""
    return Share(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Share()


def device() -> torch.device:
    """Where this process computes: the CUDA device of its number on this machine, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def add_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in one message."""
    if share().world > 1 and tensors:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with talking():
            dist.all_reduce(flat)
        _spread_(flat, tensors)


def sum_(tensors: Sequence[Tensor]) -> None:
    """As `add_`, but as a binary tree over the ranks where their number is a power of two: the same bits as `Sum`.

    Each process exchanges all numbers with one other, 2^k ranks away, for each k: log2(world) messages of full size,
    where the library's own sum sends about two.
    """
    rank, world = share()
    if world & (world - 1):
        add_(tensors)
    elif world > 1 and tensors:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        other, distance = torch.empty_like(flat), 1
        while distance < world:
            partner = rank ^ distance
            with talking():
                both = [dist.P2POp(dist.isend, flat, partner), dist.P2POp(dist.irecv, other, partner)]
                for request in dist.batch_isend_irecv(both):
                    request.wait()
            flat = flat + other  # a new one: what was sent may not change; a + b = b + a, so both have the same bits
            distance *= 2
        _spread_(flat, tensors)


def every(rows: Tensor) -> Tensor:
    """[n, ...] of each process -> [world * n, ...] in rank order, without gradients; the numbers as they are."""
    if share().world == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(share().world)]
    with talking():
        dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def from_first_(module: nn.Module) -> None:
    """Give every process the first one's weights."""
    if share().world > 1:
        for tensor in module.state_dict().values():
            with talking():
                dist.broadcast(tensor, src=0)


def agreed(value: float) -> float:
    """The first process's value, for decisions that all must take alike (what the clock says)."""
    if share().world == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64, device=device())
    with talking():
        dist.broadcast(tensor, src=0)
    return float(tensor)


def told(word: str) -> list[str]:
    """What each process says, in rank order."""
    words = [word] * share().world
    if share().world > 1:
        with talking():
            dist.all_gather_object(words, word)
    return words


class _Gather(torch.autograd.Function):
    """All processes' rows, in rank order; backward sums what every process wants of ours."""

    @staticmethod
    def forward(ctx: object, rows: Tensor) -> Tensor:
        return every(rows)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        with talking():
            dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def _spread_(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def gather(rows: Tensor) -> Tensor:
    """[b, ...] of each process -> [world * b, ...], differentiable: 1 process and N give the same gradients."""
    return rows if share().world == 1 else _Gather.apply(rows)
