"""Stable Diffusion 1.5 on the CPU against its peers: what `make bench` runs.

    python -m benchmarks.peers                                        # all, an hour or two; let nothing else run
    python -m benchmarks.peers --peers OpenVINO --sizes 256 --pieces "guided step" decode --rounds 3
    python -m benchmarks.peers --toy --sizes 64 --rounds 1            # a rehearsal on a narrow model, minutes

Float32, one picture (two rows with guidance), Euler's method at every side, the same random weights for all
(models.py). Each side is a process of its own; ours and one peer stand ready at a time, and each round asks one and
then the other for every piece, so that only one computes at a time and ratios are taken round by round. Everything
lies in .bench: the peers' environment (2 GB), the models (17 GB), logs, the record of the last run.
"""

import argparse
import ast
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.peers.install import PEERS, ROOT, USUAL, install, prepare, python_of, surroundings
from benchmarks.peers.report import Measured, plot, tables
from benchmarks.peers.sides import Broken, Pair, Plan, difference, rounds, starts
from benchmarks.peers.worker import GUIDANCE, PIECES, SAMPLER

PACKAGES = {
    "ours": ("aquatint", "torch"),
    "peers": ("torch", "diffusers", "transformers", "openvino", "onnxruntime", "stable_diffusion_cpp_python"),
}
WHOLE, RECORD, START = "sd15", "record.json", "start"  # in --pieces: both rows of `starts`


def options() -> argparse.Namespace:
    """What may be said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(USUAL))
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512], help="sides in pixels")
    parser.add_argument("--pieces", nargs="+", choices=(*PIECES, START), default=[*PIECES, START])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=1, help="rounds in which a whole picture is painted")
    parser.add_argument("--steps", type=int, default=20, help="of a whole picture")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory", default="", help="what ours may take, as in --memory of aquatint generate")
    parser.add_argument("--toy", action="store_true", help="a narrow model, for rehearsals")
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench", help="where environment and models are kept")
    parser.add_argument("--keep", action="store_true", help="add to the last run, if it was like this one")
    parser.add_argument("--write", type=Path, help="folder for DATE-peers-cpu.md and .png; only printed without it")
    return parser.parse_args()


def measure(plan: Plan, peer: str, wanted: list[str], pairs: list[Pair], off: dict[str, float]) -> None:
    """All of one peer, added to `pairs` as it comes; Broken where a process ends."""
    if PEERS[peer].checked:
        off[peer] = difference(plan, peer)
    runs = [(f"{peer}, starts", starts(plan, peer))] if START in wanted else []
    runs += [(f"{peer}, {size}", rounds(plan, peer, size)) for size in plan.sizes if plan.pieces]
    for name, run in runs:
        for pair in run:
            pairs.append(pair)
            print(f"{name}: {pair.piece} {pair.ours:.4g}, theirs {pair.theirs:.4g}", flush=True)


def floors(plan: Plan, toy: bool) -> tuple[dict[str, float], float]:
    """FLOP by "piece size", and FLOP/s of a large product."""
    words = [str(plan.threads), str(plan.steps), "toy" if toy else "whole", *map(str, plan.sizes)]
    command = [sys.executable, "-m", "benchmarks.peers.floor", *words]
    told = subprocess.run(
        command, cwd=ROOT, env=surroundings(plan.threads), check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(told.stdout.splitlines()[-1])
    return found["flop"], found["rate"]


def machine() -> str:
    """Processor, cores, instruction set and memory."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    said = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in said.items()}
    kinds = [kind for kind in ("avx2", "avx512f", "avx512_bf16") if kind in named.get("flags", "").split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    family = f"family {named['cpu family']} model {named['model']}" if "cpu family" in named else ""
    name = named.get("model name", platform.machine())
    return f"{name} {family}, {os.cpu_count()} cores, {', '.join(kinds)}, {memory:.0f} GiB"


def versions(folder: Path) -> str:
    """Of both environments' packages that count."""
    code = "import importlib.metadata as m; print({d.name: d.version for d in m.distributions()})"
    said = []
    for where, python in (("ours", sys.executable), ("peers", str(python_of(folder)))):
        told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
        known = ast.literal_eval(told)
        said.append(f"{where}: " + ", ".join(f"{name} {known[name]}" for name in PACKAGES[where] if name in known))
    return "; ".join(said)


def commit() -> str:
    """Of the tree that is measured."""
    git = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def head(plan: Plan, measured: Measured, before: tuple[float, ...]) -> str:
    """What was measured where and how."""
    size = sum(path.stat().st_size for path in plan.models.rglob("*") if path.is_file()) / 1e9
    loads = f"load {before[0]:.1f} before, {os.getloadavg()[0]:.1f} after"
    name = "Stable Diffusion 1.5" if plan.models.name == WHOLE else "A narrowed Stable Diffusion 1.5"
    commands = "; ".join(f"`{command}`" for command in measured.commands)
    return (
        f"# {name} on the CPU against its peers\n\n{time.strftime('%Y-%m-%d')}, commit {measured.same['commit']}. "
        f"{machine()}; {plan.threads} threads; {loads}. {versions(plan.folder)}.\nCommand: {commands}\n\n"
        f"Float32, random weights ({size:.1f} GB of models), {SAMPLER}, {plan.steps} steps a picture, guidance "
        f"{GUIDANCE}; {plan.rounds} rounds, {plan.pictures} of them with pictures; medians, ratios round by round. "
        "Floor: FLOP (2 a multiply-add, convolution done directly) at "
        f"{measured.rate / 1e9:.0f} GFLOP/s, the most that torch's product of two matrices of 2048 x 2048 reached in "
        "this run. stable-diffusion.cpp holds its weights in float16; its figures are from its own log "
        "(benchmarks/peers/with_sdcpp.py). Peak memory counts what is mapped from files.\n\n"
    )


def run(given: argparse.Namespace, plan: Plan, failed: dict[str, str], earlier: Measured | None) -> Measured:
    """Measure peer after peer; after each, all that is known is on the disk."""
    weights = (plan.models / "checkpoint.safetensors").stat().st_size / 2**30
    same = {"commit": commit(), "threads": plan.threads, "steps": plan.steps, "memory": plan.memory}
    if earlier is not None and earlier.same != same:
        raise SystemExit(f"--keep: the last run was of {earlier.same}, this one would be of {same}.")
    command = f"python -m benchmarks.peers {shlex.join(sys.argv[1:])}".strip()
    pairs: list[Pair] = []
    off: dict[str, float] = {}
    flop, rate = floors(plan, given.toy)
    for peer in plan.peers:
        try:
            measure(plan, peer, given.pieces, pairs, off)
        except Broken as broken:
            failed[peer] = str(broken)
            print(f"{peer} failed: {broken}", flush=True)
        rate = max(rate, floors(plan, given.toy)[1])
        found = Measured(pairs, flop, rate, weights, failed, off, same, [command])
        found = found if earlier is None else found.after(earlier)
        found.save(plan.models / RECORD)
    if not pairs:
        raise SystemExit(f"Nothing could be measured: {failed}")
    return found


def main() -> None:
    """Install, make, measure, write."""
    given, before = options(), os.getloadavg()
    folder = given.folder.resolve()
    models = folder / "models" / ("toy" if given.toy else WHOLE)
    failed = dict(install(folder, given.peers))
    failed |= dict(prepare(folder, models, [peer for peer in given.peers if peer not in failed], given.toy))
    here = tuple(peer for peer in given.peers if peer not in failed)
    pieces = tuple(piece for piece in given.pieces if piece != START)
    plan = Plan(
        folder,
        models,
        here,
        tuple(given.sizes),
        pieces,
        given.rounds,
        given.pictures,
        given.steps,
        given.threads,
        given.memory,
    )
    kept = given.keep and (models / RECORD).exists()
    measured = run(given, plan, failed, Measured.load(models / RECORD) if kept else None)
    text = head(plan, measured, before) + tables(measured) + "\n"
    print(text)
    if given.write:
        name = f"{time.strftime('%Y-%m-%d')}-peers-cpu"
        plot(measured, given.write / f"{name}.png")
        (given.write / f"{name}.md").write_text(f"{text}\n![theirs / ours]({name}.png)\n")


if __name__ == "__main__":
    main()
