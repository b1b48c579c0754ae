"""How fast Stable Diffusion 1.5 paints on CUDA: guided steps, decoding, whole pictures, rung by rung of the engine.

    PYTHONPATH=src python benchmarks/cuda_speed.py --out FOLDER --seconds 80              # and --compile for that rung
    PYTHONPATH=src python benchmarks/cuda_speed.py --out FOLDER --device cpu --toy        # a rehearsal

Random weights, 512 x 512 pixels, two rows a picture with guidance. The rungs are those of benchmarks/rungs.py: torch as
it is (eager), its step as one graph, products joined, our kernels (the engine as it paints), and what is optional.
"exact" is how aquatint paints (no kernel is chosen by timing, cuDNN deterministic); "free" lets cuDNN choose. A rung's
answer is held against the eager one before it is timed, at another level. Single kernels come last (cuda_kernels.py).
Medians.
"""

import argparse
import copy
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
from benchmarks.rungs import Rung, ladder, missing, prepared, recorder  # noqa: E402
from benchmarks.timebox import Box, Row, flop_of, milliseconds, off, options, settle, share  # noqa: E402

from aquatint.base import runtime  # noqa: E402
from aquatint.base.noise import Noise  # noqa: E402
from aquatint.diffusion.denoisers import Conditioning, Denoiser, Net, guided  # noqa: E402
from aquatint.diffusion.grids import GRIDS  # noqa: E402
from aquatint.diffusion.prediction import PREDICTIONS  # noqa: E402
from aquatint.diffusion.samplers import SAMPLERS  # noqa: E402
from aquatint.diffusion.schedule import NoiseSchedule  # noqa: E402
from aquatint.engines.graphs import Graphs  # noqa: E402
from aquatint.engines.plain import prepare  # noqa: E402
from aquatint.families import SD15, TINY  # noqa: E402
from aquatint.nets.autoencoder import Autoencoder  # noqa: E402
from aquatint.nets.unet import UNet  # noqa: E402
from benchmarks import cuda_kernels  # noqa: E402

ALLOWED = 90.0  # seconds for a compilation
CLOSE = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float32: 1e-3}  # rms of a difference that may be timed
SHORT = 0.3  # the same, of 8-bit floats


class Subject:
    """The networks in one number format, and what they are asked."""

    def __init__(self, box: Box, toy: bool, dtype: torch.dtype) -> None:
        self.device, self.dtype, family = box.device, dtype, TINY if toy else SD15
        self.family, self.side = family, 8 if toy else 64
        self.unet = random_weights(UNet, family.unet, box.device).to(dtype)
        self.autoencoder = random_weights(Autoencoder, family.autoencoder, box.device).to(dtype)
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

    def denoiser(self, batch: int, net: Net) -> Denoiser:
        """A net, guided."""
        said = Noise(range(2 * batch)).normal((77, self.family.unet.context), draw=1, device=self.device)
        conds = Conditioning(said[:batch]), Conditioning(said[batch:])
        return guided(net, PREDICTIONS[self.family.prediction], *conds, 7.5)

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

    def time(self, call: Callable[[], object], budget: float = 0.6) -> float:
        """The median in milliseconds."""
        return milliseconds(call, self.device, budget=0.0 if self.toy else budget, warm=1 if self.toy else 3, most=30)

    def row(self, what: str, batch: int, ms: float, flop: float) -> Row:
        """A line of the table; the rate is of steps, decodings or whole pictures, for one picture."""
        return {"what": what, "batch": batch, "ms": ms, "a picture, ms": ms / batch, **share(batch * flop, ms)}

    def rungs(self, dtype: torch.dtype = torch.bfloat16) -> dict[str, Rung]:
        """By their names, without what the engine says of itself."""
        return {rung.name.split(" (")[0]: rung for rung in ladder(self.device, dtype)}

    def steps(
        self,
        batches: Sequence[int],
        names: Sequence[str] = (),
        dtype: torch.dtype = torch.bfloat16,
        how: str = "exact",
    ) -> Iterator[Row]:
        """The guided step, rung by rung; a rung that fails says why and the next begins."""
        subject, rungs = self.subject(dtype), self.rungs(dtype)
        first, then = subject.schedule.at(500), subject.schedule.at(321)
        for name in names or rungs:
            rung = rungs[name]
            net = prepared(subject.unet, rung)
            for batch in batches:
                x, plain = subject.latents(batch), subject.denoiser(batch, subject.unet)
                try:
                    with exact(self.device), exact(self.device) if how == "exact" else free():
                        denoise = subject.denoiser(batch, rung.quick(net))
                        denoise(x, first)
                        found = _close(denoise(x, then), plain(x, then), SHORT if "fp8" in name else CLOSE[dtype])
                        ms = self.time(partial(denoise, x, then))
                except Exception as error:
                    self.box.note(f"{rung.name}, batch {batch}: {type(error).__name__}: {str(error)[:200]}")
                    continue
                row = self.row(f"step, {rung.name}, {how}, {_name(dtype)}", batch, ms, subject.step_flop)
                yield {**row, "estimate, ms": rung.estimate if batch == 1 else "", "rms": found}
            del net

    def decode(self, batches: Sequence[int]) -> Iterator[Row]:
        """The decoder, as torch runs it and with our kernels, each also as one graph."""
        subject, rungs = self.subject(torch.bfloat16), self.rungs()
        for rung in (rungs["eager"], rungs["engine"]):
            net = prepared(subject.autoencoder, rung)
            for batch in batches:
                z = subject.latents(batch)
                with exact(self.device):
                    found = _close(net.decode(z), subject.autoencoder.decode(z), CLOSE[subject.dtype])
                    ms = self.time(partial(net.decode, z))
                    yield {**self.row(f"decode, {rung.name}", batch, ms, subject.decode_flop), "rms": found}
                    graph = recorder(self.device).record(partial(net.decode, z))
                    graph.replay()
                    found = _close(graph.out, subject.autoencoder.decode(z), CLOSE[subject.dtype])
                    ms = self.time(graph.replay)
                yield {**self.row(f"decode, {rung.name}, as a graph", batch, ms, subject.decode_flop), "rms": found}

    def pictures(self, counts: Sequence[int], batches: Sequence[int] = (1,)) -> Iterator[Row]:
        """Whole pictures: noise, steps, decoder."""
        subject, rungs = self.subject(torch.bfloat16), self.rungs()
        for name in ("engine", "eager"):
            rung = rungs[name]
            nets = prepared(subject.unet, rung), prepared(subject.autoencoder, rung)
            for batch in batches:
                for steps in counts:
                    with exact(self.device):
                        denoise = subject.denoiser(batch, rung.quick(nets[0]))
                        paint = partial(subject.paint, denoise, batch, steps, nets[1].decode)
                        ms = milliseconds(paint, self.device, budget=0.0, warm=1)
                    flop = steps * subject.step_flop + subject.decode_flop
                    row = self.row(f"{steps} steps, decoder, {rung.name}", batch, ms, flop)
                    yield {**row, "pictures/s": 1e3 * batch / ms}

    def layouts(self) -> Iterator[Row]:
        """Kernels as they were opened, not channels last."""
        subject = self.subject(torch.bfloat16)
        level, net = subject.schedule.at(500), copy.deepcopy(subject.unet)
        for weight in net.parameters():
            weight.data = weight.data.contiguous()
        for batch in (1, 4):
            with exact(self.device):
                ms = self.time(partial(subject.denoiser(batch, net), subject.latents(batch), level))
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


def compile_here(measured: Ladder) -> None:
    """What the process for torch.compile does: a line of JSON for each row."""
    subject = measured.subject(torch.bfloat16)
    net = torch.compile(subject.unet, fullgraph=True, dynamic=False)
    level = subject.schedule.at(321)
    for batch in (1, 4):
        x, began = subject.latents(batch), time.perf_counter()
        with exact(measured.device), free():
            want = subject.denoiser(batch, subject.unet)(x, level)
            found = _close(subject.denoiser(batch, net)(x, level), want, CLOSE[subject.dtype])
            settle(measured.device)
            seconds = time.perf_counter() - began
            ms = measured.time(partial(subject.denoiser(batch, net), x, level))
            rows = [
                {**measured.row("step, compiled", batch, ms, subject.step_flop), "rms": found, "compiling, s": seconds}
            ]
            quick = subject.denoiser(batch, Graphs(recorder(measured.device), lambda net: None).of(net))
            ms = measured.time(partial(quick, x, level))
            rows.append(dict(measured.row("step, compiled and as one graph", batch, ms, subject.step_flop)))
        for row in rows:
            print(json.dumps(row), flush=True)


def _close(got: Tensor, want: Tensor, most: float) -> float:
    """The root mean square of the difference; an error if it is too large to time anything."""
    found = off(got, want)
    if not found["finite"] or found["rms"] > most:
        raise ValueError(f"not the eager answer: {found}")
    return found["rms"]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def sections(measured: Ladder, given: argparse.Namespace) -> dict[str, Callable[[], Iterator[Row]]]:
    """What is worth most comes first."""
    bf16, half = torch.bfloat16, torch.float16
    large = (2,) if given.toy else (8, 16)
    best = ("eager", "engine")
    made: dict[str, Callable[[], Iterator[Row]]] = {
        "steps": partial(measured.steps, (1, 4)),
        "decode": partial(measured.decode, (1, 4)),
        "pictures": partial(measured.pictures, (2, 3) if given.toy else (20, 50)),
        "large batches": partial(measured.steps, (2, *large), best),
    }
    if given.compile:
        made["compiled"] = measured.compiled
    kernels = {name: partial(run, measured.box, given.toy) for name, run in cuda_kernels.SECTIONS.items()}
    return (
        made
        | kernels
        | {
            "float16": partial(measured.steps, (1, 4), best, half),
            "layouts": measured.layouts,
            "free": partial(measured.steps, (1, 4), best, bf16, "free"),
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
        measured = Ladder(box, given.toy)
        if given.child:
            compile_here(measured)
        else:
            box.facts["not used of the engine"] = missing(box.device)
            box.run(sections(measured, given))
    return box


if __name__ == "__main__":
    main()
