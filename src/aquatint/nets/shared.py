"""A second copy of a net that shares the numbers of the first."""

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def shared_copy(net: M) -> M:
    """The same tree of modules, new, over the same memory: what is put into the copy leaves the original alone.

    Modules, parameters and buffers may be replaced, moved, cast and hooked there; only writing into a tensor in place
    would reach both. Costs no memory for weights.
    """
    twin = net.__class__.__new__(net.__class__)
    for name, value in net.__dict__.items():  # torch keeps its tables of tensors, modules and hooks there
        twin.__dict__[name] = value.copy() if isinstance(value, dict | set) else value
    for name, tensor in net._parameters.items():
        if tensor is not None:
            twin._parameters[name] = nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
    for name, inner in net._modules.items():
        twin._modules[name] = None if inner is None else shared_copy(inner)
    return twin
