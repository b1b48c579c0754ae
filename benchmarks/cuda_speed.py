"""How fast Stable Diffusion 1.5 paints on CUDA: guided steps, decoding, whole pictures; eager, as a graph, compiled.

    PYTHONPATH=src python benchmarks/cuda_speed.py --out FOLDER --seconds 80              # and --compile for that rung
    PYTHONPATH=src python benchmarks/cuda_speed.py --out FOLDER --device cpu --toy        # a rehearsal

Random weights, 512 x 512 pixels, two rows a picture with guidance, prepared as `aquatint.load` prepares them. "exact"
is how aquatint paints (no kernel is chosen by timing, cuDNN deterministic); "free" lets cuDNN choose. A graph's answer
is held against the eager one before it is timed. Single kernels are at the end (cuda_kernels.py). Medians.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cuda_parity import random_weights  # noqa: E402
from benchmarks.timebox import Box, Row, flop_of, milliseconds, off, options, settle, share  # noqa: E402

from aquatint.base import runtime  # noqa: E402
from aquatint.base.noise import Noise  # noqa: E402
from aquatint.diffusion.denoisers import Conditioning, Denoiser, guided  # noqa: E402
from aquatint.diffusion.grids import GRIDS  # noqa: E402
from aquatint.diffusion.prediction import PREDICTIONS  # noqa: E402
from aquatint.diffusion.samplers import SAMPLERS  # noqa: E402
from aquatint.diffusion.schedule import Level, NoiseSchedule  # noqa: E402
from aquatint.engines.plain import prepare  # noqa: E402
from aquatint.families import SD15, TINY  # noqa: E402
from aquatint.nets.autoencoder import Autoencoder  # noqa: E402
from aquatint.nets.unet import UNet  # noqa: E402
from benchmarks import cuda_kernels  # noqa: E402

ALLOWED = 90.0  # seconds for a compilation
CLOSE = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float32: 1e-3}  # rms of a difference that may be timed


class Captured:
    """A function of tensors as one CUDA graph: same shapes, same memory, one launch. On the CPU the function itself.

    The answer is overwritten by the next call.
    """

    def __init__(self, call: Callable[..., Tensor], *given: Tensor) -> None:
        self.call, self.given, self.graph = call, [tensor.clone() for tensor in given], None
        if given[0].device.type == "cuda":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    call(*self.given)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.answer = call(*self.given)

    def __call__(self, *given: Tensor) -> Tensor:
        for place, tensor in zip(self.given, given, strict=True):
            place.copy_(tensor)
        return self.replay()

    def replay(self) -> Tensor:
        """The answer to what stands in `given`."""
        if self.graph is None:
            return self.call(*self.given)
        self.graph.replay()
        return self.answer


class Subject:
    """The networks in one number format, and what they are asked."""

    def __init__(self, box: Box, toy: bool, dtype: torch.dtype, *, last: bool = True) -> None:
        self.device, self.dtype, family = box.device, dtype, TINY if toy else SD15
        self.family, self.side = family, 8 if toy else 64
        self.unet = random_weights(UNet, family.unet, box.device).to(dtype)
        self.autoencoder = random_weights(Autoencoder, family.autoencoder, box.device).to(dtype)
        if last:
            prepare(self.unet), prepare(self.autoencoder)
        self.schedule = NoiseSchedule(family.schedule)
        latent = torch.zeros(1, 4, self.side, self.side, device="meta")
        told = torch.zeros(2, 77, family.unet.context, device="meta")
        rows = latent.expand(2, -1, -1, -1)
        self.step_flop = flop_of(lambda net: net(rows, rows[:, 0, 0, 0], told), UNet, family.unet)
        self.decode_flop = flop_of(lambda net: net.decode(latent), Autoencoder, family.autoencoder)

    def latents(self, batch: int) -> Tensor:
        """Noise."""
        return Noise(range(batch)).normal((4, self.side, self.side), device=self.device)

    def denoiser(self, batch: int, net: Callable[..., Tensor] | None = None) -> Denoiser:
        """The guided U-Net."""
        said = Noise(range(2 * batch)).normal((77, self.family.unet.context), draw=1, device=self.device)
        conds = Conditioning(said[:batch]), Conditioning(said[batch:])
        return guided(self.unet if net is None else net, PREDICTIONS[self.family.prediction], *conds, 7.5)

    def captured(self, batch: int, net: Callable[..., Tensor] | None = None) -> tuple[Denoiser, Captured]:
        """The same as one graph, told the level in tensors; and the graph."""
        plain, one = self.denoiser(batch, net), torch.ones(1, 1, 1, 1, device=self.device)

        def call(x: Tensor, alpha: Tensor, sigma: Tensor, t: Tensor) -> Tensor:
            return plain(x, Level(alpha, sigma, t))

        level = self.schedule.at(500)
        graph = Captured(call, self.latents(batch), *(one * number for number in (level.alpha, level.sigma, level.t)))

        def denoise(x: Tensor, level: Level) -> Tensor:
            for place, number in zip(graph.given[1:], (level.alpha, level.sigma, level.t), strict=True):
                place.fill_(number)
            graph.given[0].copy_(x)
            return graph.replay().clone()

        return denoise, graph

    def paint(self, denoise: Denoiser, batch: int, steps: int, decode: Callable[[Tensor], Tensor]) -> Tensor:
        """Whole pictures by DDIM, as tensors on the device."""
        levels = GRIDS["leading"](self.schedule, steps)
        *_, last = SAMPLERS["ddim"](denoise, self.latents(batch), levels, Noise(range(batch)))
        return decode(last.x)


def exact(device: torch.device) -> AbstractContextManager[None]:
    """As aquatint paints."""
    return runtime.exact(device, torch.get_num_threads())


def free() -> AbstractContextManager[None]:
    """cuDNN times its kernels and takes the fastest."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False)


class Ladder:
    """The sections, over networks that are made once a number format."""

    def __init__(self, box: Box, toy: bool) -> None:
        self.box, self.toy, self.device = box, toy, box.device
        self.subject = cache(partial(Subject, box, toy))
        self.eager_ms: dict[int, float] = {}

    def time(self, call: Callable[[], object], budget: float = 0.6) -> float:
        """The median in milliseconds."""
        return milliseconds(call, self.device, budget=0.0 if self.toy else budget, warm=1 if self.toy else 3, most=30)

    def row(self, what: str, batch: int, ms: float, flop: float) -> Row:
        """A line of the table; the rate is of steps, decodings or whole pictures, for one picture."""
        return {"what": what, "batch": batch, "ms": ms, "a picture, ms": ms / batch, **share(batch * flop, ms)}

    def eager(self, batches: Sequence[int], dtype: torch.dtype = torch.bfloat16, how: str = "exact") -> Iterator[Row]:
        """The guided step as torch runs it."""
        subject = self.subject(dtype)
        level = subject.schedule.at(500)
        for batch in batches:
            x, denoise = subject.latents(batch), subject.denoiser(batch)
            with exact(self.device), exact(self.device) if how == "exact" else free():
                ms = self.time(partial(denoise, x, level))
            yield self.row(f"step, eager, {how}, {_name(dtype)}", batch, ms, subject.step_flop)

    def graph(self, batches: Sequence[int], dtype: torch.dtype = torch.bfloat16, how: str = "exact") -> Iterator[Row]:
        """The guided step as one graph."""
        subject = self.subject(dtype)
        level = subject.schedule.at(321)
        for batch in batches:
            x = subject.latents(batch)
            with exact(self.device), exact(self.device) if how == "exact" else free():
                want = subject.denoiser(batch)(x, level)
                denoise, graph = subject.captured(batch)
                found = _close(denoise(x, level), want, dtype)
                ms = self.time(graph.replay)
            yield {**self.row(f"step, graph, {how}, {_name(dtype)}", batch, ms, subject.step_flop), "rms": found}

    def decode(self, batches: Sequence[int]) -> Iterator[Row]:
        """The decoder, eager and as one graph."""
        subject = self.subject(torch.bfloat16)
        for batch in batches:
            z = subject.latents(batch)
            for how in ("exact", "free"):
                with exact(self.device), exact(self.device) if how == "exact" else free():
                    ms = self.time(partial(subject.autoencoder.decode, z))
                    yield self.row(f"decode, eager, {how}", batch, ms, subject.decode_flop)
                    graph = Captured(subject.autoencoder.decode, z)
                    found = _close(graph(z), subject.autoencoder.decode(z), subject.dtype)
                    ms = self.time(graph.replay)
                yield {**self.row(f"decode, graph, {how}", batch, ms, subject.decode_flop), "rms": found}

    def pictures(self, counts: Sequence[int], batches: Sequence[int] = (1,)) -> Iterator[Row]:
        """Whole pictures: noise, steps, decoder."""
        subject = self.subject(torch.bfloat16)
        for batch in batches:
            with exact(self.device), free():
                denoise, _ = subject.captured(batch)
                decode = Captured(subject.autoencoder.decode, subject.latents(batch))
            plain = subject.denoiser(batch), subject.autoencoder.decode
            for how, nets in {"graph, free": (denoise, decode), "eager, exact": plain}.items():
                for steps in counts:
                    paint = partial(subject.paint, nets[0], batch, steps, nets[1])
                    with exact(self.device):
                        ms = milliseconds(paint, self.device, budget=0.0, warm=1)
                    flop = steps * subject.step_flop + subject.decode_flop
                    row = self.row(f"{steps} steps, decoder, {how}", batch, ms, flop)
                    yield {**row, "pictures/s": 1e3 * batch / ms}

    def layouts(self) -> Iterator[Row]:
        """Kernels as they were opened, not channels last."""
        subject = self.subject(torch.bfloat16, last=False)
        level = subject.schedule.at(500)
        for batch in (1, 4):
            with exact(self.device):
                ms = self.time(partial(subject.denoiser(batch), subject.latents(batch), level))
            yield self.row("step, eager, exact, not channels last", batch, ms, subject.step_flop)

    def compiled(self) -> Iterator[Row]:
        """torch.compile, in a process of its own that is stopped after ALLOWED seconds."""
        command = [sys.executable, __file__, "--child", "--out", str(self.box.out), "--device", str(self.device)]
        command += ["--toy"] if self.toy else []
        with (self.box.out / "compile.log").open("w") as log:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        try:
            said, _ = child.communicate(timeout=max(1.0, min(ALLOWED, self.box.left)))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            said, _ = child.communicate()
            self.box.note(f"compiled: stopped after {ALLOWED:.0f} s or at the end of the box.")
        if child.returncode > 0:
            self.box.note(f"compiled: its process ended with {child.returncode}; compile.log tells more.")
        for line in (said or "").splitlines():
            if line.startswith("{"):
                yield json.loads(line)


def compile_here(ladder: Ladder) -> None:
    """What the process for torch.compile does: a line of JSON for each row."""
    subject = ladder.subject(torch.bfloat16)
    net = torch.compile(subject.unet, fullgraph=True, dynamic=False)
    level = subject.schedule.at(321)
    for batch in (1, 4):
        x, began = subject.latents(batch), time.perf_counter()
        with exact(ladder.device), free():
            found = _close(subject.denoiser(batch, net)(x, level), subject.denoiser(batch)(x, level), subject.dtype)
            settle(ladder.device)
            seconds = time.perf_counter() - began
            ms = ladder.time(partial(subject.denoiser(batch, net), x, level))
            rows = [
                {**ladder.row("step, compiled", batch, ms, subject.step_flop), "rms": found, "compiling, s": seconds}
            ]
            _, graph = subject.captured(batch, net)
            ms = ladder.time(graph.replay)
            rows.append(dict(ladder.row("step, compiled and as one graph", batch, ms, subject.step_flop)))
        for row in rows:
            print(json.dumps(row), flush=True)


def _close(got: Tensor, want: Tensor, dtype: torch.dtype) -> float:
    """The root mean square of the difference; an error if it is too large to time anything."""
    found = off(got, want)
    if not found["finite"] or found["rms"] > CLOSE[dtype]:
        raise ValueError(f"not the eager answer: {found}")
    return found["rms"]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def sections(ladder: Ladder, given: argparse.Namespace) -> dict[str, Callable[[], Iterator[Row]]]:
    """What is worth most comes first."""
    bf16, half = torch.bfloat16, torch.float16
    large = (2,) if given.toy else (8, 16)
    made: dict[str, Callable[[], Iterator[Row]]] = {
        "eager": partial(ladder.eager, (1, 4)),
        "graph": partial(ladder.graph, (1, 4), bf16, "free"),
        "decode": partial(ladder.decode, (1, 4)),
        "pictures": partial(ladder.pictures, (2, 3) if given.toy else (20, 50)),
        "eager, free": partial(ladder.eager, (1, 4), bf16, "free"),
        "large batches": partial(ladder.graph, large, bf16, "free"),
        "large batches, eager": partial(ladder.eager, (2, *large)),
    }
    if given.compile:
        made["compiled"] = ladder.compiled
    kernels = {name: partial(run, ladder.box, given.toy) for name, run in cuda_kernels.SECTIONS.items()}
    return (
        made
        | kernels
        | {
            "float16": partial(ladder.eager, (1, 4), half),
            "layouts": ladder.layouts,
            "graph, exact": partial(ladder.graph, (1, 4)),
        }
    )


def main(words: Sequence[str] | None = None) -> Box:
    """Measure, print, write."""
    parser = options(__doc__ or "", 80)
    parser.add_argument("--compile", action="store_true", help="also torch.compile, up to 90 s more")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given: Any = parser.parse_args(words)
    box = Box("CUDA speed", given)
    with torch.no_grad():
        ladder = Ladder(box, given.toy)
        if given.child:
            compile_here(ladder)
        else:
            box.run(sections(ladder, given))
    return box


if __name__ == "__main__":
    main()
