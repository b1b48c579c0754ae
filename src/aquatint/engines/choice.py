"""Which engine runs a bundle's nets: torch's own ways, our kernels for the CPU, or graphs and kernels for CUDA."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aquatint.base import runtime
from aquatint.base.errors import UserError, unknown
from aquatint.engines import cpu, cuda, plain
from aquatint.engines.cpu import Packs
from aquatint.engines.cuda import Cuda
from aquatint.engines.graphs import Net
from aquatint.engines.kernels.build import found

ENGINES = ("auto", "torch", "kernels", "fp8")
TORCH = "torch"  # the name, in reproduction keys, of every engine that only calls torch
WORK = 1_500_000_000  # bytes that a 512 x 512 picture of Stable Diffusion 1.5 takes beside weights, and all libraries
Lay = Callable[[Tensor, torch.dtype], Tensor]


@dataclass(frozen=True, eq=False)
class Engine:
    """How nets are run.

    name    in reproduction keys: what bits depend on
    packs   the transformed weights that are kept; None: not the CPU's kernels
    note    why it is not the quicker one that one would expect
    card    what runs nets on a CUDA card; with neither, torch alone computes
    """

    name: str = TORCH
    packs: Packs | None = None
    note: str = ""
    card: Cuda | None = None

    def prepare(self, net: nn.Module, *, often: bool = False) -> None:
        """Make a built net quicker. often: it is asked at every step, and what is made of its weights worth keeping."""
        if self.card is not None:
            self.card.prepare(net)
        elif self.packs is None:
            plain.prepare(net)
        else:
            cpu.prepare(net, self.packs if often else None)

    def quick(self, net: Net) -> Net:
        """A prepared net that is asked at every step, complete with adapters and controls, as it is best asked."""
        return net if self.card is None else self.card.quick(net)

    def lay(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """A weight as `prepare` will want it, so that it need not be moved twice: the kernels take any layout."""
        return plain.laid(weight, dtype) if self.packs is None else weight.to(dtype).contiguous()

    def leave_room(self, nets: Sequence[nn.Module | None]) -> None:
        """Count what nets take as memory that transformed weights cannot have."""
        if self.packs is not None:
            weights = {
                weight.data_ptr(): weight.nbytes for net in nets if net is not None for weight in net.parameters()
            }
            self.packs.limit -= sum(weights.values())


def choose_engine(
    name: "str | Engine" = "auto",
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    memory: int | None = None,
) -> Engine:
    """An engine itself, or that of a name, else of AQUATINT_ENGINE; "auto" takes kernels on a CPU where there are any.

    On a card "auto" is torch until the engine for cards has been seen to run on one.
    kernels   ours: for float32 on a CPU; graphs and, with Triton, kernels on a CUDA card of capability 8.0 or more
    fp8       the same on a card of 8.9 or more, which multiplies part in 8-bit floats: other numbers (engines/fp8.py)
    memory   bytes that the process may take in all, with a picture of 512 x 512 pixels; three quarters of what is free
             if None. What is left beside the weights goes to transformed weights; how much that is changes no bit
    Raises UserError for a name that is not known, and for "kernels" where they are not to be had.
    """
    if isinstance(name, Engine):
        return name
    wish = name if name != "auto" else os.environ.get("AQUATINT_ENGINE") or name
    if wish not in ENGINES:
        raise unknown("engine", wish, ENGINES)
    where, card, missing = device or torch.device("cpu"), None, ""
    if wish == "fp8" or (wish == "kernels" and where.type == "cuda"):
        card, missing = cuda.engine(where, dtype, fp8=wish == "fp8"), cuda.fits(where, dtype).reason
    if card is not None:
        return Engine(card.name, note=missing and f"without our kernels for cards, slower: {missing}", card=card)
    fits = dtype == torch.float32 and where.type == "cpu"
    if wish == TORCH or (wish == "auto" and not fits):
        return Engine()
    if wish == "auto" and found().library is None:
        return Engine(note=f"torch alone computes, slower: {found().reason}")
    if not fits:
        kind = str(dtype).removeprefix("torch.")
        kind = f"{kind} ({missing.rstrip('.')})" if missing else kind
        takes = "float32 on a CPU, or a CUDA card of capability 8.0 or more."
        raise UserError(f"Kernels for {kind} on {device}.", takes, 'Say engine "auto" (--engine auto).')
    return Engine(cpu.name(), Packs((usual_memory() if memory is None else memory) - WORK))


def usual_memory() -> int:
    """Bytes that the process takes at most where nobody says how many: three quarters of what is free."""
    return runtime.free_memory() * 3 // 4
