"""The peers in an environment of their own, and the models in each one's format; both are made once and kept.

The environment is FOLDER/venv: never ours, for their packages pull in others that break it. What cannot be installed or
made is told, and the others go on.
"""

import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCH = next(
    one
    for one in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    if one.startswith("torch>")
)
DIFFUSERS = (TORCH, "diffusers>=0.35", "transformers>=4.56", "accelerate")


@dataclass(frozen=True)
class Peer:
    """Who is compared.

    module     of benchmarks.peers, which answers for it        more      further words for it
    packages   that pip installs                                options   of pip, and `environment` for it
    exported   what `export` is told, if it reads neither the single file nor diffusers' folder
    checked    whether it gives numbers to be held against ours
    """

    module: str
    packages: tuple[str, ...]
    more: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    exported: str = ""
    checked: bool = True


PEERS = {
    "diffusers": Peer("with_diffusers", DIFFUSERS),
    "OpenVINO": Peer("with_openvino", (*DIFFUSERS, "openvino"), exported="openvino"),
    "ONNX Runtime": Peer("with_onnxruntime", (*DIFFUSERS, "onnx", "onnxscript", "onnxruntime"), exported="onnxruntime"),
    "stable-diffusion.cpp": Peer(
        "with_sdcpp",
        ("stable-diffusion-cpp-python", "numpy"),
        options=("--no-binary", "stable-diffusion-cpp-python"),
        environment=(("CMAKE_ARGS", "-DGGML_NATIVE=ON"), ("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))),
        checked=False,
    ),
    "diffusers, compiled": Peer("with_diffusers", DIFFUSERS, more=("compiled",)),
}
USUAL = tuple(name for name in PEERS if name != "diffusers, compiled")  # it compiles for minutes at every start


def python_of(folder: Path) -> Path:
    """The interpreter of the peers."""
    return folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"


def install(folder: Path, peers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(peer, why it could not be installed) for those that could not."""
    python, kept = python_of(folder), folder / "installed"
    if not python.exists():
        venv.create(folder / "venv", with_pip=True)
    kept.mkdir(parents=True, exist_ok=True)
    for name in peers:
        peer, mark = PEERS[name], kept / name.replace(" ", "-")
        said = " ".join((*peer.packages, *peer.options, *(f"{key}={value}" for key, value in peer.environment)))
        if mark.exists() and mark.read_text() == said:
            continue
        print(f"installing {name}", flush=True)
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *peer.options, *peer.packages]
        if why := failure(command, folder / "logs" / f"install {name}.log", dict(peer.environment)):
            yield name, f"not installed: {why}"
        else:
            mark.write_text(said)


def prepare(folder: Path, models: Path, peers: Sequence[str], toy: bool) -> Iterator[tuple[str, str]]:
    """Random weights in the formats of these peers; (peer, why not) for what could not be made."""
    logs = folder / "logs"
    command = [sys.executable, "-m", "benchmarks.peers.models", str(models), *(["--toy"] if toy else [])]
    if why := failure(command, logs / "models.log"):
        raise SystemExit(f"The models could not be made: {why}")
    for name in peers:
        if way := PEERS[name].exported:
            print(f"models for {name}", flush=True)
            command = [str(python_of(folder)), "-m", "benchmarks.peers.export", way, str(models)]
            if why := failure(command, logs / f"export {name}.log"):
                yield name, f"its model could not be made: {why}"


def failure(command: Sequence[str], log: Path, more: Mapping[str, str] | None = None) -> str:
    """Run a command to its end; the last line that it said if it failed, else nothing."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        done = subprocess.run(command, cwd=ROOT, env=surroundings() | dict(more or {}), stdout=out, stderr=out)
    return last_line(log) if done.returncode else ""


def surroundings(threads: int | None = None) -> dict[str, str]:
    """The environment of every process: no hub is asked, and nobody has another number of threads than it was told."""
    kept = {key: value for key, value in os.environ.items() if key not in ("AQUATINT_THREADS", "OMP_NUM_THREADS")}
    told = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return kept | told | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "PYTHONWARNINGS": "ignore"}


def last_line(log: Path) -> str:
    """What a log ends with, shortened."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return (errors or lines or ["it said nothing"])[-1][:200]
