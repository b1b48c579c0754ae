"""A stand-in for CUDA graphs on the CPU, which has of them what can go wrong."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aquatint.engines.graphs import Recorded


class Traced:
    """As a CUDA graph: kernels are noted with the memory that they read and write, and run again without Python.

    Tensors are noted by where they are (weights and inputs too), numbers by their value; all answers are overwritten by
    the next replay; a look at a number of a tensor while it is recorded is an error.
    """

    def __init__(self) -> None:
        self.recorded = self.replays = self.turns = 0

    def record(self, call: Callable[[], Tensor]) -> Recorded:
        with _Notes() as notes:
            out = call()
        self.recorded += 1

        def replay() -> None:
            self.replays += 1
            notes.replay()

        return Recorded(replay, out)

    @contextmanager
    def turn(self) -> Iterator[None]:
        self.turns += 1
        yield


class Watching(TorchDispatchMode):
    """A mode that sees every kernel, and does not have torch import its compiler (seconds) to be left alone by it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Notes(Watching):
    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a look at a number while a graph is recorded")
        out = func(*args, **(kwargs or {}))
        self.kernels.append((func, args, kwargs or {}, _tensors(out)))
        return out

    def replay(self) -> None:
        for func, args, kwargs, places in self.kernels:
            for place, it in zip(places, _tensors(func(*args, **kwargs)), strict=True):
                if place.data_ptr() != it.data_ptr():  # no view, and not done in place
                    place.copy_(it)


def _tensors(out: Any) -> list[Tensor]:
    return [it for it in tree_leaves(out) if isinstance(it, Tensor)]
