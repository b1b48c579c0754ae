"""What the scripts for a CUDA machine share: sections under one time box, a table that grows, and honest clocks.

A section is a function that yields rows. One that fails leaves its error in the record and the next one begins; when
the box is used up what is left is named as not reached. After every row the table and the record are on disk.
"""

import argparse
import gc
import json
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Row = Mapping[str, Any]  # column -> what stands there
RATE = 790.0  # TFLOP/s in bf16, measured on an H200 (8192^3 matrix product, random data)


def options(what: str, seconds: float) -> argparse.ArgumentParser:
    """The options that each of the scripts has."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the table (.md) and the record (.json)")
    parser.add_argument("--seconds", type=float, default=seconds, help="no row begins after this time")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="TINY shapes, for a rehearsal on any machine")
    parser.add_argument("--only", nargs="*", help="sections, by name; all without it")
    return parser


class Box:
    """A record being made: what was measured, what failed, and how much time is left."""

    def __init__(self, title: str, given: argparse.Namespace) -> None:
        self.began, self.title, self.out = time.monotonic(), title, given.out
        self.seconds, self.only, self.device = given.seconds, given.only, torch.device(given.device)
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.facts = {"toy": given.toy, **facts(self.device)}
        self.out.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds until the end of the box."""
        return self.seconds - (time.monotonic() - self.began)

    def run(self, sections: Mapping[str, Callable[[], Iterator[Row]]]) -> None:
        """The sections in their order, each until it ends, fails or the time is over."""
        for name, section in sections.items():
            if self.only and name not in self.only:
                continue
            if self.left <= 0:
                self.note(f"{name}: not reached.")
                continue
            began = time.monotonic()
            rows = section()
            try:
                for row in rows:
                    self.add(name, row)
                    if self.left <= 0:
                        self.note(f"{name}: cut short by the time box.")
                        break
            except Exception as error:
                self.note(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}")
                self.facts[f"trace of {name}"] = traceback.format_exc()
            finally:
                rows.close()  # type: ignore[attr-defined]
            self.facts[f"seconds of {name}"] = round(time.monotonic() - began, 2)
            del rows, section
            release(self.device)
            self.write()

    def add(self, section: str, row: Row) -> None:
        """One more row, printed at once."""
        self.rows.append({"section": section, **row})
        print(
            f"{self.seconds - self.left:6.1f} s  {section}: " + ", ".join(f"{k} {_said(v)}" for k, v in row.items()),
            flush=True,
        )
        self.write()

    def note(self, text: str) -> None:
        """A sentence under the table."""
        self.notes.append(text)
        print(f"{self.seconds - self.left:6.1f} s  {text}", flush=True)
        self.write()

    def write(self) -> None:
        """Table and record, as far as they are."""
        stem = self.title.lower().replace(" ", "-")
        record = {"title": self.title, "facts": self.facts, "rows": self.rows, "notes": self.notes}
        (self.out / f"{stem}.json").write_text(json.dumps(record, indent=1, default=str))
        (self.out / f"{stem}.md").write_text(self.markdown())

    def markdown(self) -> str:
        """A table for each section, and what is to be said besides."""
        where = ", ".join(str(self.facts[key]) for key in ("device", "torch", "cpu"))
        parts = [f"# {self.title}\n\n{where}{', toy shapes' if self.facts['toy'] else ''}."]
        for section in dict.fromkeys(row["section"] for row in self.rows):
            rows = [{k: v for k, v in row.items() if k != "section"} for row in self.rows if row["section"] == section]
            columns = list(dict.fromkeys(column for row in rows for column in row))
            lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += ["| " + " | ".join(_said(row.get(column, "")) for column in columns) + " |" for row in rows]
            parts.append(f"## {section}\n\n" + "\n".join(lines))
        return "\n\n".join([*parts, *(f"- {note}" for note in self.notes)]) + "\n"


def facts(device: torch.device) -> dict[str, str]:
    """The machine, in words."""
    said = {"device": "cpu", "torch": f"torch {torch.__version__}", "cpu": f"{torch.get_num_threads()} CPU threads"}
    if device.type == "cuda":
        free, whole = (f"{size / 2**30:.0f}" for size in torch.cuda.mem_get_info(device))
        said["device"] = f"{torch.cuda.get_device_name(device)} ({free} of {whole} GiB free at the start)"
        said |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return {**said, "python": platform.python_version()}


def release(device: torch.device) -> None:
    """Give back the memory that a section held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(
    call: Callable[[], object], device: torch.device, *, budget: float = 1.0, warm: int = 3, most: int = 50
) -> float:
    """The median time of a call, after `warm` calls; 3 timed ones at least, more while the budget (seconds) lasts.

    On CUDA between two events on the stream, so that gaps in which the device waits for Python count: they are what
    a user waits for.
    """
    for _ in range(warm):
        call()
    settle(device)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or (len(times) < most and time.perf_counter() - began < budget):
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            at = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - at))
    return statistics.median(times)


def many(call: Callable[[], object], device: torch.device, *, budget: float = 0.1) -> float:
    """Milliseconds of one call among many in one CUDA graph: for kernels so short that alone they would time Python."""
    if device.type != "cuda":
        return milliseconds(call, device, budget=0.0, warm=1)
    once = milliseconds(call, device, budget=0.0, warm=2)
    count = max(3, min(100, int(1e3 * budget / 5 / max(once, 1e-3))))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            call()
    return milliseconds(graph.replay, device, budget=budget, warm=1, most=5) / count


def off(got: torch.Tensor, want: torch.Tensor) -> dict[str, Any]:
    """Root mean square and largest difference, in the reference's standard deviations; whether all is finite."""
    got, want = got.detach().to(want.device).double(), want.detach().double()
    difference, unit = got - want, want.std()
    return {
        "rms": (difference.square().mean().sqrt() / unit).item(),
        "max": (difference.abs().max() / unit).item(),
        "finite": bool(torch.isfinite(got).all()),
    }


def flop_of(ask: Callable[[Any], object], kind: Callable[[Any], torch.nn.Module], config: Any) -> float:
    """Floating-point operations (2 a multiply-add, attention's products included) of asking a network, on no device."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        ask(kind(config))
    return float(counter.get_total_flops())


def share(flop: float, ms: float) -> dict[str, float]:
    """TFLOP/s, and per cent of what a large bf16 matrix product reaches on an H200."""
    rate = flop / ms / 1e9
    return {"TFLOP/s": round(rate, 1), "% of 790": round(100 * rate / RATE, 1)}


def _said(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.1e}" if 0 < abs(value) < 1e-2 else f"{value:.4g}"
