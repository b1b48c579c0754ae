"""Seconds from `aquatint generate` to the file with the carried model, cold and warm, and where they go.

    python benchmarks/pocket.py --write benchmarks/DATE-pocket-cpu.md

Cold: a new process each time (files in the system's cache). Warm: the next picture of a process that has painted one.
Medians of `--runs`; let nothing else run.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import aquatint

PROMPT = "a cat in a meadow"


def seconds(*command: str) -> float:
    """Wall seconds of a command."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - began


def cold(runs: int) -> list[dict[str, float]]:
    """`aquatint generate` in a process of its own: the whole, and its parts as the command tells them."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            began = time.perf_counter()
            command = [sys.executable, "-m", "aquatint", "generate", PROMPT, "--seed", "7", "--json", "--out", folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            whole = time.perf_counter() - began
            parts = json.loads(done.stdout.splitlines()[-1])["seconds"]
            parts = {name: parts[name] for name in ("text", "steps", "decode")}
            found.append({"whole": whole, "start and file": whole - sum(parts.values()), **parts})
    return found


def warm(runs: int) -> list[dict[str, float]]:
    """Further pictures of one process."""
    bundle, found = aquatint.load(), []
    bundle.paint(PROMPT, seed=1)
    for seed in range(runs):
        began = time.perf_counter()
        picture = bundle.paint(PROMPT, seed=seed)
        found.append({"whole": time.perf_counter() - began, **picture.seconds})
    return found


def row(name: str, found: list[dict[str, float]]) -> str:
    """Medians of one kind of run."""
    columns = ("whole", "start and file", "text", "steps", "decode")
    cells = [f"{statistics.median(f[c] for f in found):.2f}" if c in found[0] else "" for c in columns]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measure and print, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    imports = {
        "`aquatint --help`": ("-m", "aquatint", "--help"),
        "`import aquatint`": ("-c", "import aquatint"),
        "`import aquatint; aquatint.load` (imports torch)": ("-c", "import aquatint; aquatint.load"),
    }
    lines = [
        "# The pocket model on the CPU\n",
        (
            f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads, "
            f"torch {torch.__version__}; {given.runs} runs each, medians, seconds."
        ),
        f"Command: `python benchmarks/pocket.py --runs {given.runs}`\n",
        "| a picture (256 x 256, 12 steps, guidance) | whole | start and file | text | steps | decode |",
        "|---|---|---|---|---|---|",
        row("cold: `aquatint generate` to the file", cold(given.runs)),
        row("warm: the next picture", warm(given.runs)),
        "",
        "| start | seconds |",
        "|---|---|",
    ]
    for name, command in imports.items():
        lines.append(f"| {name} | {statistics.median(seconds(*command) for _ in range(given.runs)):.2f} |")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    text = "\n".join([*lines, "", f"Peak memory of the painting process: {peak:.2f} GiB.", ""])
    print(text)
    if given.write:
        given.write.write_text(text)


if __name__ == "__main__":
    main()
