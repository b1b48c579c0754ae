"""The CUDA engine: whole passes as graphs, fewer and better kernels within them, put round a built net from outside.

`prepare` is for every net that paints, once, when it is on its device; `quick` for the net that is asked at every step,
when it is complete (adapters and controls on it). Which parts are used follows from the card and from what is
installed, and from no timing, so the same machine has the same bits in every run; `name` says which they are.
docs/decisions/010-cuda-engine.md tells why these.
"""

from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.engines import plain
from aquatint.engines.fp8 import shorten
from aquatint.engines.graphs import CudaRecorder, Graphs, Net, Recorder, Taking
from aquatint.engines.projections import parted
from aquatint.nets.unet import UNet

NUMERICS = 1  # raised by every change of this engine that may change the bits of a picture
OLDEST = (8, 0)  # of the cards that the kernels are written for; earlier ones run as torch has it
FP8 = (8, 9)
CLOSE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}  # rms of the kernels against float32


class Fit(NamedTuple):
    """What of the engine a device can use: graphs, and kernels by a compiler ("": none); and why not the rest."""

    graphs: bool
    compiler: str
    reason: str = ""


class Cuda:
    """The engine of one device.

    compiler   of our own kernels, which take part if there is one
    fp8        whether the feed-forwards multiply in 8-bit floats: not the same numbers (engines/fp8.py)
    split      whether small convolutions are ours as well: not yet timed on a card
    """

    def __init__(self, recorder: Recorder, compiler: str = "", *, fp8: bool = False, split: bool = False) -> None:
        self.compiler, self.fp8, self.split = compiler, fp8, split
        self.graphs = Graphs(recorder, self._taken)

    @property
    def name(self) -> str:
        """What a picture's bits depend on, for the reproduction key: revision, parts, and the compiler of kernels."""
        options = ["split"] * (self.split and self.compiler != "") + ["fp8"] * self.fp8
        return " ".join([f"cuda {NUMERICS} graphs", *([self.compiler] if self.compiler else []), *options])

    def prepare(self, net: nn.Module) -> None:
        """Lay a net's weights out and have its blocks compute with fewer kernels; in place, names stay."""
        plain.prepare(net)
        if self.compiler:
            from aquatint.engines.fused import fuse

            fuse(net, split=self.split)

    def quick(self, net: Net) -> Net:
        """The net as graphs, with the same signature; its modules and weights are not to change while it is used."""
        return self.graphs.of(net)

    def _taken(self, net: Net) -> Taking | None:
        if not isinstance(net, UNet):
            return None
        tell, step, twin = parted(net)
        if self.fp8:
            shorten(twin)
        return Taking(tell, step)


def engine(device: torch.device, dtype: torch.dtype, *, fp8: bool = False, split: bool = False) -> Cuda | None:
    """The engine for a device and number format; None where torch alone is to compute.

    Raises UserError for fp8 where it cannot be had.
    """
    fit = fits(device, dtype)
    if fp8 and (not fit.compiler or torch.cuda.get_device_capability(device) < FP8):
        raise UserError(f"8-bit floats on {device}.", "A CUDA card of capability 8.9 or more, with Triton.", fit.reason)
    if not fit.graphs:
        return None
    return Cuda(CudaRecorder(device), fit.compiler, fp8=fp8, split=split)


@cache
def fits(device: torch.device, dtype: torch.dtype) -> Fit:
    """What of the engine a device can use. The kernels are tried against torch's own answer first, once a process."""
    if device.type != "cuda" or torch.version.cuda is None:  # ROCm calls its devices "cuda" too
        return Fit(False, "", "The engine for cards is for CUDA.")
    have = torch.cuda.get_device_capability(device)
    if have < OLDEST:
        return Fit(False, "", f"The card's capability is {have[0]}.{have[1]}; this engine begins at 8.0.")
    if not (known := compiler()):
        return Fit(True, "", "Triton is not installed.")
    wrong = proof(device, dtype)
    return Fit(True, "" if wrong else known, wrong)


def compiler() -> str:
    """Triton, with its version; "" where it is not installed. Versions may differ in the kernels that they make."""
    for name in ("triton", "pytorch-triton", "triton-windows"):
        try:
            return f"triton {version(name)}"
        except PackageNotFoundError:
            continue
    return ""


@torch.no_grad()
def proof(device: torch.device, dtype: torch.dtype) -> str:
    """What is wrong with the kernels on a device: held against torch's answers in float32. "" if nothing is."""
    try:
        from aquatint.engines import triton_kernels as ours
        from aquatint.engines.triton_norm import norm_silu

        draw = partial(_drawn, Noise([1, 2]), device, dtype)
        add, weight, bias, gates = draw(60), draw(60, draw=1)[0], draw(60, draw=2)[0], draw(7, 52)
        tried = {"gate": (ours.geglu(gates), gates.float()[..., :26] * F.gelu(gates.float()[..., 26:]))}
        for side in (5, 17):  # a picture that one program measures, and one that several do
            x = draw(60, side, side, draw=3)
            tried[f"norm of {side}"] = norm_silu(x, 4, weight, bias, 1e-5, add), _norm(x, weight, bias, add)
            tried[f"sum of {side}"] = ours.summed(x, x, bias), 2 * x.float() + bias.float()[:, None, None]
        for name, (got, want) in tried.items():
            if not (got.float() - want).norm() <= CLOSE[dtype] * want.norm():
                return f"Triton's {name} in {dtype} is not torch's."
    except Exception as error:  # whatever a compiler or a driver raises: the engine does without
        return f"Triton does not work here: {type(error).__name__}: {str(error)[:200]}"
    return ""


def _drawn(noise: Noise, device: torch.device, dtype: torch.dtype, *shape: int, draw: int = 0) -> Tensor:
    return noise.normal(shape, draw=draw, device=device).to(dtype)


def _norm(x: Tensor, weight: Tensor, bias: Tensor, add: Tensor) -> Tensor:
    return F.silu(F.group_norm(x.float() + add.float()[:, :, None, None], 4, weight.float(), bias.float()))
