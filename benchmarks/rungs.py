"""The CUDA engine's ladder for the scripts that measure it, and a stand-in for rehearsals where there is no card."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aquatint.base.errors import UserError
from aquatint.engines.cuda import Cuda, engine, fits
from aquatint.engines.graphs import CudaRecorder, Graphs, Net, Recorded, Recorder
from aquatint.engines.plain import prepare


class Again:
    """In a graph's place where there is none: the call itself, again, into the same answer."""

    def record(self, call: Callable[[], Tensor]) -> Recorded:
        """Do it once."""
        out = call()
        return Recorded(lambda: out.copy_(call()), out)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else is there."""
        yield


@dataclass(frozen=True)
class Rung:
    """A way to run nets: how they are prepared, and how the one that is asked at every step is run.

    estimate   of a guided step of Stable Diffusion 1.5 at batch 1 on an H200, milliseconds (../shared/speed.md)
    """

    name: str
    prepare: Callable[[nn.Module], None]
    quick: Callable[[Net], Net]
    estimate: str = ""


def recorder(device: torch.device) -> Recorder:
    """What records on a device."""
    return CudaRecorder(device) if device.type == "cuda" else Again()


def engine_of(device: torch.device, dtype: torch.dtype, *, fp8: bool = False, split: bool = False) -> Cuda:
    """The engine as it is used on a card; for a rehearsal, and on a card that is too old, one without kernels."""
    made = engine(device, dtype, fp8=fp8, split=split) if device.type == "cuda" else None
    return made or Cuda(recorder(device), fp8=fp8)


def ladder(device: torch.device, dtype: torch.dtype) -> Iterator[Rung]:
    """From torch as it is to all that the engine has, each with what came before."""
    yield Rung("eager", prepare, lambda net: net, "14-17")
    yield Rung("graph", prepare, Graphs(recorder(device), lambda net: None).of, "8")
    yield Rung("graph, joined products", prepare, Cuda(recorder(device)).quick)
    whole = engine_of(device, dtype)
    yield Rung(f"engine ({whole.name})", whole.prepare, whole.quick, "6")
    for name, estimate, parts in (("split", "4.9", {"split": True}), ("fp8", "4.3-4.6", {"fp8": True})):
        try:
            more = engine_of(device, dtype, **parts)
        except UserError:  # a card without 8-bit floats
            continue
        yield Rung(f"engine, {name}", more.prepare, more.quick, estimate)


def prepared(net: nn.Module, rung: Rung) -> nn.Module:
    """A copy of a net, prepared for a rung."""
    made = copy.deepcopy(net)
    rung.prepare(made)
    return made


def missing(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str:
    """Why a part of the engine is not used on a device; "" if all is."""
    return fits(device, dtype).reason
