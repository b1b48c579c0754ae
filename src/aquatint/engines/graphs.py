"""A net's forward pass as one CUDA graph: launched as a whole, with no word from Python between its kernels.

A graph reads and writes fixed memory. So inputs are copied into it and the answer out of it at every call, and a graph
belongs to shapes, to weights (by where they are), and to torch's settings for choosing kernels. A net that changed
since, or is asked about another shape, gets another graph.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

Net: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]  # as diffusion/denoisers.py has it


class Recorded(NamedTuple):
    """Work that can be done again: `replay` reads what it read, and overwrites `out`."""

    replay: Callable[[], None]
    out: Tensor


@runtime_checkable
class Recorder(Protocol):
    """What makes graphs on a device."""

    def record(self, call: Callable[[], Tensor]) -> Recorded:
        """Do the work of `call`, and note its kernels and the memory that they use."""

    def turn(self) -> AbstractContextManager[None]:
        """One call at a time, also among threads and streams: they share the memory of their graphs."""


class CudaRecorder:
    """torch.cuda.CUDAGraph. All graphs share one pool of memory, since none needs it after its call."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.lock = device, threading.RLock()
        self.pool: Any = None
        self.done: torch.cuda.Event | None = None

    def record(self, call: Callable[[], Tensor]) -> Recorded:
        """Once as it is, for libraries to get ready; once as a graph."""
        with torch.cuda.device(self.device):
            side, here = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(here)
            with torch.cuda.stream(side):
                call()
            here.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                out = call()
            self.pool = graph.pool()
        return Recorded(graph.replay, out)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """After whatever was last, on any stream."""
        with self.lock, torch.cuda.device(self.device):
            stream = torch.cuda.current_stream()
            if self.done is not None:
                stream.wait_event(self.done)
            yield
            self.done = self.done or torch.cuda.Event()
            self.done.record(stream)


class Taking(NamedTuple):
    """A net in two, to be recorded: what its context is turned into once a prompt, and the rest."""

    tell: Callable[[Tensor], Tensor]
    step: Net


class Given(NamedTuple):
    """What a net is asked."""

    x: Tensor
    t: Tensor
    context: Tensor
    vector: Tensor | None


class Graph:
    """One net, recorded for one shape."""

    def __init__(self, recorder: Recorder, net: Net, taking: Taking | None, given: Given) -> None:
        x, t, context = (it.clone(memory_format=torch.contiguous_format) for it in given[:3])
        vector = None if given.vector is None else given.vector.clone(memory_format=torch.contiguous_format)
        self.given = Given(x, t, context, vector)
        step = net if taking is None else taking.step
        self.tell = None if taking is None else recorder.record(lambda: taking.tell(context))
        told = context if self.tell is None else self.tell.out
        self.step = recorder.record(lambda: step(x, t, told, vector))
        self.told: tuple[Tensor, int] | None = None

    def __call__(self, given: Given) -> Tensor:
        """The answer, in memory of its own. The context is read only if it is another than last time."""
        seen = (given.context, given.context._version)
        again = self.told is not None and self.told[0] is seen[0] and self.told[1] == seen[1]
        for place, it in zip(self.given, given, strict=True):
            if place is not None and it is not None and not (again and it is given.context):
                place.copy_(it)
        if self.tell is not None and not again:
            self.tell.replay()
        self.told = seen
        self.step.replay()
        return self.step.out.clone()


class Known:
    """A net as it was when it was last asked for, and its graphs by shape, the last used at the end."""

    def __init__(self, net: Net, taking: Taking | None) -> None:
        parts = list(net.modules()) if isinstance(net, nn.Module) else []
        tables = [table for part in parts for table in (part._modules, part._parameters, part._buffers)]
        self.tables = [(table, dict(table)) for table in tables]
        weights = [it for table in tables for it in table.values() if isinstance(it, Tensor)]
        # detached: so that the memory stays theirs, and no other tensor comes to lie at the same place
        self.weights = [(it, it.detach()) for it in weights]
        self.taking = taking
        self.graphs: OrderedDict[Hashable, Graph | None] = OrderedDict()

    def holds(self) -> bool:
        """Whether its modules and weights are the same, at the same place."""
        return all(
            len(table) == len(was) and all(table.get(name) is it for name, it in was.items())
            for table, was in self.tables
        ) and all(it.data_ptr() == at.data_ptr() and it.dtype is at.dtype for it, at in self.weights)

    def plain(self, net: Net, given: Given) -> Tensor:
        """What the net says, without a graph."""
        if self.taking is None:
            return net(*given)
        return self.taking.step(given.x, given.t, self.taking.tell(given.context), given.vector)


class Graphs:
    """The graphs of nets on one device: kept as long as their nets live, at most `most` for each.

    taken   how a net is taken apart before it is recorded; None: as it is. Where recording fails, for want of memory or
            because the net looks at a number, the same work is done without a graph, with the same bits
    """

    def __init__(self, recorder: Recorder, taken: Callable[[Net], Taking | None], most: int = 4) -> None:
        self.recorder, self.taken, self.most = recorder, taken, most
        self.kept: weakref.WeakKeyDictionary[Net, Known] = weakref.WeakKeyDictionary()

    def of(self, net: Net) -> Net:
        """The net, by graphs. Ask again when its modules or weights have been changed: what changed is seen here only.

        Whatever else its answer depends on must not change. Asked for a gradient, it answers itself.
        """
        with self.recorder.turn():
            known = self.kept.get(net)
            if known is None or not known.holds():
                known = self.kept[net] = Known(net, self.taken(net))

        def quick(x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None = None) -> Tensor:
            if torch.is_grad_enabled():
                return net(x, t, context, vector)
            with self.recorder.turn():
                given = Given(x, t, context, vector)
                graph = self._graph(net, known, given)
                return known.plain(net, given) if graph is None else graph(given)

        return quick

    def _graph(self, net: Net, known: Known, given: Given) -> Graph | None:
        """The graph for these shapes, made if it is not there; None: it cannot be made."""
        key = tuple(None if it is None else (tuple(it.shape), it.dtype, it.device) for it in given) + settings()
        if key not in known.graphs:
            while len(known.graphs) >= self.most:
                known.graphs.popitem(last=False)
            try:
                known.graphs[key] = Graph(self.recorder, net, known.taking, given)
            except RuntimeError:  # what torch raises for a look at a number within a graph, and for too little memory
                known.graphs[key] = None
        known.graphs.move_to_end(key)
        return known.graphs[key]


def settings() -> tuple[Hashable, ...]:
    """What of torch's settings decides which kernels are recorded."""
    cudnn = torch.backends.cudnn
    return (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, torch.backends.cuda.matmul.fp32_precision)
