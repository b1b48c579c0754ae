"""The library as Python calls it: its structures, its best instruction set, and memory for its work."""

import ctypes
import threading

import torch
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.engines.kernels.build import found

PORTABLE, AVX2, AVX512 = 0, 1, 2  # instruction sets, as face.cpp counts them


class Shape(ctypes.Structure):
    """table.h's Shape."""

    _fields_ = [(name, ctypes.c_long) for name in ("tile", "count", "height", "width", "inside", "outside")]


class Convolution(ctypes.Structure):
    """table.h's Convolution."""

    _fields_ = [
        ("shape", Shape),
        *((name, ctypes.c_void_p) for name in ("x", "packed", "bias", "each", "add", "y", "workspace")),
        ("step", ctypes.c_long),
    ]


class Norm(ctypes.Structure):
    """table.h's Norm."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("count", "pixels", "channels", "groups", "silu")),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "y", "workspace")),
    ]


class Attention(ctypes.Structure):
    """table.h's Attention."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("count", "heads", "queries", "keys", "depth")),
        *((name, ctypes.c_long * 3) for name in ("q_strides", "k_strides", "v_strides")),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "y", "workspace")),
    ]


def library() -> ctypes.CDLL:
    """The kernels' library; a UserError that says why, where there is none."""
    kernels, reason = found()
    if kernels is None:
        raise UserError(f"There are no kernels here. {reason}", "A C++ compiler on the PATH, or in CXX.")
    for name in ("packed", "conv_workspace", "norm_workspace", "attention_workspace"):
        getattr(kernels, f"aquatint_{name}").restype = ctypes.c_long
    return kernels


def chosen(isa: int | None) -> int:
    """The instruction set to use: the best of this processor, or the one asked for, if the processor has it."""
    best = int(library().aquatint_isa())
    if isa is not None and isa not in range(best + 1):
        raise UserError(f"Instruction set {isa} is not here.", f"Up to {best}: portable 0, AVX2 1, AVX-512 2.")
    return best if isa is None else isa


def counted(threads: int | None) -> int:
    """The number of threads asked for; torch's if None."""
    number = torch.get_num_threads() if threads is None else threads
    if number < 1:
        raise UserError(f"{number} threads cannot work.", "At least one.")
    return number


def floats(count: int) -> Tensor:
    """Memory for so many float32, not set to anything, in large pages where the system gives them."""
    made = torch.empty(count, dtype=torch.float32)
    library().aquatint_large_pages(address(made), ctypes.c_long(4 * count))
    return made


def address(tensor: Tensor | None, first: int = 0) -> ctypes.c_void_p:
    """Where a tensor's numbers begin, or the one that so many float32 lie before; the null pointer for none."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr() + 4 * first)


class _Work(threading.local):
    def __init__(self) -> None:
        self.memory: dict[str, Tensor] = {}


_work = _Work()


def workspace(count: int, use: str = "work") -> Tensor:
    """At least so many float32 for a kernel's work, the same memory at every call of a thread for the same use.

    It grows to the largest that was asked for, and begins at a multiple of 64 bytes, as torch's memory does.
    """
    memory = _work.memory.get(use)
    if memory is None or memory.numel() < count:
        _work.memory.pop(use, None)
        del memory
        _work.memory[use] = memory = floats(count)
        assert memory.data_ptr() % 64 == 0
    return memory


def checked(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor that a kernel is to read; a UserError unless it is float32 of that shape, here, without gradient."""
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or tuple(tensor.shape) != shape:
        kind = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}".removeprefix("torch.")
        raise UserError(f"{name} is {kind}.", f"float32 {shape} on cpu.")
    if tensor.requires_grad and torch.is_grad_enabled():
        raise UserError(f"A gradient for {name} is wanted.", "The kernels have none.", "Use torch.no_grad().")
    return tensor.detach()


def laid(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor that is `checked`, and laid out as the kernels read it, channels last: copied only if it is not so."""
    layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return checked(name, tensor, shape).contiguous(memory_format=layout)
