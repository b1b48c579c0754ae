"""Weights spread over processes (`torch.distributed.fsdp.fully_shard`, Zhao et al. 2023): each holds its rows of each.

A sharded weight is a DTensor. Averages and optimisers work on the rows that are here (`own`), checkpoints hold whole
tensors (`whole`) or pieces (training/spread.py), and both are read at any number of processes (`like`).
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from aquatint.base.errors import UserError
from aquatint.nets.blocks import Grow, ResBlock, Shrink, TransformerLayer
from aquatint.nets.text import Layer

BLOCKS = (ResBlock, TransformerLayer, Shrink, Grow, Layer)  # whose weights are gathered, used and let go of as one


def shard(player: nn.Module, device: torch.device) -> None:
    """Spread a player's weights over all processes, block by block; its nets are used as before.

    Raises UserError for a player without a net of its own (adapters, word vectors), which has nothing to spread.
    """
    found = nets(player)
    if not found:
        raise UserError("There is no whole net among what learns.", 'sharding="none" for adapters and word vectors.')
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    with torch.no_grad():
        for weight in player.parameters():  # channels_last and other orders are not sharded
            weight.data = weight.contiguous()
    for net in found:
        for block in [part for part in net.modules() if isinstance(part, BLOCKS)]:
            fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh)


def nets(player: nn.Module) -> list[nn.Module]:
    """The outermost modules of a player that are called as one."""
    if type(player).forward is not nn.Module.forward:
        return [player]
    return [net for child in player.children() for net in nets(child)]


def split(tensor: Tensor) -> bool:
    """Whether other processes hold other rows of it."""
    return isinstance(tensor, DTensor)


def own(tensor: Tensor) -> Tensor:
    """The rows that are here, in the same memory; the tensor itself if it is not sharded."""
    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def cut(tensor: Tensor, pattern: Tensor) -> bool:
    """Whether it is some rows of many: a sharded tensor, or what an optimiser holds for our rows of one."""
    return split(tensor) or (split(pattern) and tensor.shape == own(pattern).shape)


def whole(tensor: Tensor, pattern: Tensor) -> Tensor:
    """All rows, where there are others; all processes ask for them at once. pattern: the weight that it belongs to."""
    if isinstance(pattern, DTensor) and not split(tensor) and cut(tensor, pattern):
        tensor = DTensor.from_local(
            tensor, pattern.device_mesh, pattern.placements, shape=pattern.shape, stride=pattern.stride()
        )
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor, sharded as the pattern is."""
    if not isinstance(pattern, DTensor) or tensor.shape != pattern.shape:
        return tensor
    return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh, pattern.placements, src_data_rank=None)
