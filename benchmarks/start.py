"""Seconds from the shell to a picture of the carried model, and to a Stable Diffusion 1.5 file being ready, by phase.

    python benchmarks/start.py --runs 7 --threads 2 --write benchmarks/DATE-start-cpu.md
    python benchmarks/start.py --sd15 /big/folder          # as well; makes files of 2.1 and 4.3 GB there, once

Each run is `aquatint generate` in a process of its own. Warm: its files are in the system's cache. Cold: the files of
torch and of everything else that it imports, and the model's, are dropped from the cache before, by posix_fadvise, or
with --everything (root) by /proc/sys/vm/drop_caches. A file that another process has mapped stays: end all that use
torch. Rounds take turns. A processor's seconds (user and system, of all threads) are given beside, since other work
disturbs them less. Phases: the interpreter until our command begins; the command line; imports (torch's most of all);
the model until it is ready; text, steps and decode as the command tells them; encoding and writing the file; the
process's end. Ready from Stable Diffusion 1.5 (random weights in its exact shapes, benchmarks/opening.py) is where its
model phase ends.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata, util
from pathlib import Path

PHASES = ("interpreter", "command line", "imports", "model", "text", "steps", "decode", "file", "end")
READY = 4  # phases until a model is ready
PACKAGES = ("torch", "numpy", "PIL", "tokenizers", "safetensors", "jaxtyping", "cyclopts", "rich", "attr", "aquatint")
PROMPT = "a cat in a meadow"
# Runs the command as its entry does, and notes when what begins; that imports are over, the model's first file tells.
CHILD = """
import sys, threading, time
from aquatint.apps import cli
from aquatint.apps.cli import start
marks, model = {}, sys.argv[1]
def noted(name):
    real = getattr(start, name)
    def call(*given):
        marks.setdefault(name, time.time())
        return real(*given)
    setattr(start, name, call)
def opens(event, given):
    if event == "open" and "open" not in marks and threading.current_thread() is threading.main_thread():
        if str(given[0]).startswith(model):
            marks["open"] = time.time()
for name in ("begin", "read_ahead", "end"):
    noted(name)
sys.addaudithook(opens)
code = cli.main(sys.argv[2:])
marks["done"] = time.time()
import json
print(json.dumps(marks))
sys.exit(code)
"""


def drop(model: Path, everything: bool) -> None:
    """Have the system forget the files that a run reads."""
    if everything:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return
    places = [model, Path(os.__file__).parent]
    for name in PACKAGES:
        spec = util.find_spec(name)
        places += [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    places += [place.with_name(f"{place.name}.libs") for place in places]  # where wheels keep other libraries
    for place in places:
        for path in [place] if place.is_file() else place.glob("**/*"):
            if path.is_file() and "site-packages" not in path.relative_to(place).parts:
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def run(model: Path | None, threads: int, cold: bool, everything: bool) -> dict[str, float]:
    """Seconds of each phase of one run, of the whole, and of the processor."""
    source = model or Path(str(util.find_spec("aquatint").origin)).parent / "weights" / "pocket"  # type: ignore[union-attr]
    words = ["generate", PROMPT, "--seed", "7", "--json", "--threads", str(threads)]
    words += ["--model", str(model), "--steps", "1", "--size", "64x64"] if model else []
    with tempfile.TemporaryDirectory() as folder:
        if cold:
            drop(source, everything)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
        command = [sys.executable, "-c", CHILD, str(source), *words, "--out", folder]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        ended, after = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    picture, marks = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    told = picture["seconds"]
    found = {name: told[name] for name in ("text", "steps", "decode")}
    found["interpreter"] = marks["begin"] - began
    found["command line"] = marks["read_ahead"] - marks["begin"]
    found["imports"] = marks["open"] - marks["read_ahead"]
    found["model"] = marks["end"] - marks["open"]
    found["file"] = marks["done"] - marks["end"] - sum(told[name] for name in ("text", "steps", "decode"))
    found["end"] = ended - marks["done"]
    found["ready"] = sum(found[name] for name in PHASES[:READY])
    found["whole"] = ended - began
    found["processor"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found


def row(name: str, columns: tuple[str, ...], found: list[dict[str, float]]) -> str:
    """Medians, and the whole's least and most."""
    cells = [f"{statistics.median(one[column] for one in found):.2f}" for column in columns]
    ends = [one[columns[0]] for one in found]
    cells[0] += f" ({min(ends):.2f}-{max(ends):.2f})"
    return f"| {name} | {' | '.join(cells)} |"


def made(folder: Path, kind: str) -> Path:
    """A single file of Stable Diffusion 1.5's shapes, by a process of its own: this one is not to map torch."""
    path = folder / f"SD15-{kind}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        code = "import sys, opening; from pathlib import Path; opening.make(opening.family_of('SD15', False), "
        code += "Path(sys.argv[1]), sys.argv[2])"
        subprocess.run([sys.executable, "-c", code, str(path), kind], check=True, cwd=Path(__file__).parent)
    return path


def table(columns: tuple[str, ...], found: dict[str, list[dict[str, float]]]) -> list[str]:
    """The lines of a table of runs."""
    head = ["", f"|  | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    return [*head, *(row(name, columns, rows) for name, rows in found.items())]


def main() -> None:
    """Measure and print, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--warm", action="store_true", help="no cold runs")
    parser.add_argument("--everything", action="store_true", help="drop all of the system's cache; needs root")
    parser.add_argument("--sd15", type=Path, metavar="FOLDER")
    parser.add_argument("--kinds", nargs="*", default=["float16", "float32"], choices=["float16", "float32"])
    parser.add_argument("--write", type=Path)
    said = parser.parse_args()
    models: dict[str, Path | None] = {"pocket": None}
    if said.sd15:
        models |= {f"SD 1.5, {kind}": made(said.sd15.resolve(), kind) for kind in said.kinds}
    states = [False] if said.warm else [False, True]
    found: dict[str, dict[bool, list[dict[str, float]]]] = {name: {cold: [] for cold in states} for name in models}
    for number in range(said.runs + 1):  # the first fills the cache
        for name, model in models.items():
            for cold in states if number else [False]:
                measured = run(model, said.threads, cold, said.everything)
                if number:
                    found[name][cold].append(measured)
    words = {False: "warm", True: "cold"}
    pocket = {words[cold]: rows for cold, rows in found.pop("pocket").items()}
    opened = {f"{name}, {words[cold]}": rows for name, both in found.items() for cold, rows in both.items()}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    options = "".join(f" --{name}" for name in ("warm", "everything") if getattr(said, name))
    lines = [
        "# From the shell to a picture, on the CPU\n",
        (
            f"{time.strftime('%Y-%m-%d')}, commit {commit}, {platform.machine()} with {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, torch {metadata.version('torch')}. `python benchmarks/start.py --runs "
            f"{said.runs} --threads {said.threads}{options}{' --sd15 FOLDER' if said.sd15 else ''}`: seconds, medians "
            "(least to most) of runs in turn."
        ),
        *table(("whole", "processor", *PHASES), pocket),
        *(table(("ready", *PHASES[:READY]), opened) if opened else []),
        "",
    ]
    text = "\n".join(lines)
    print(text)
    if said.write:
        said.write.write_text(text)


if __name__ == "__main__":
    main()
