"""Several processes as one: who we are and where, sums over all, and a gather that gradients flow back through."""

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aquatint.training.recipe import Share


def join() -> Share:
    """Join the processes that torchrun started (its environment variables say who we are); alone without them."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=10))
    return share()


def share() -> Share:
    """Which part of every batch is ours."""
    return Share(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Share()


def device() -> torch.device:
    """Where this process computes: the CUDA device of its number on this machine, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def mean_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in one message."""
    if share().world == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= share().world
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def from_first_(module: nn.Module) -> None:
    """Give every process the first one's weights."""
    if share().world > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def agreed(value: float) -> float:
    """The first process's value, for decisions that all must take alike (what the clock says)."""
    if share().world == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64, device=device())
    dist.broadcast(tensor, src=0)
    return float(tensor)


class _Gather(torch.autograd.Function):
    """All processes' rows, in rank order; backward sums what every process wants of ours."""

    @staticmethod
    def forward(ctx: object, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather(rows: Tensor) -> Tensor:
    """[b, ...] of each process -> [world * b, ...], differentiable: 1 process and N give the same gradients."""
    return rows if share().world == 1 else _Gather.apply(rows)
