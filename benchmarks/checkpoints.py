"""What a checkpoint costs a run: a step with and without a state being written, the copy that it waits for, a resume.

    python benchmarks/checkpoints.py --width 1024 --layers 6 --steps 300 --every 20

A stack of linear layers on the CPU, one average, AdamW: its state is four times its weights. Prints a table.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from aquatint.base.noise import Noise
from aquatint.training.loop import Run
from aquatint.training.recipe import Batch, Length, Loss, Moment, Optim, Recipe
from aquatint.training.start import start
from aquatint.training.state import checkpoints


class Stack:
    """Linear layers that learn to give back what they are given."""

    def __init__(self, width: int, layers: int) -> None:
        net = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
        start(net, 1)
        self.players: Mapping[str, nn.Module] = {"net": net}
        self.width = width

    def losses(self, batch: Batch, moment: Moment, noise: Noise) -> Iterator[Loss]:
        """The mean square of what is missing."""
        given = noise.normal((self.width,), draw=1)
        yield Loss("net", (self.players["net"](given) - given).square().mean(), {})


def recipe(options: argparse.Namespace) -> Recipe:
    """The run that is measured."""
    objective, length = Stack(options.width, options.layers), Length(steps=options.steps)
    optim = {"net": Optim(lr=1e-4)}
    return Recipe("stack", 1, objective, lambda m, s: {}, length, optim, batch_size=options.batch)


def measured(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Seconds of: steps on their own, steps while a state is written, copies, and saves that are waited for."""
    found: dict[str, list[float]] = {"step": [], "step, saving": [], "copy": [], "write": []}
    run = Run(recipe(options), folder)
    for _ in range(5):
        run.take_step(run.moment)
    begun = 0.0
    while run.step < options.steps:
        busy = run.saver.busy
        began = time.perf_counter()
        run.take_step(run.moment)
        taken = time.perf_counter() - began
        if busy and run.saver.busy:
            found["step, saving"].append(taken)
        elif not busy:
            found["step"].append(taken)
        if busy and not run.saver.busy:
            found["write"].append(time.perf_counter() - begun)
        run.hear(wait=False)
        if run.step % options.every == 0:
            run.hear()
            begun = time.perf_counter()
            run.save(wait=False)
            found["copy"].append(time.perf_counter() - begun)
    run.save()
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("width", 1024), ("layers", 6), ("steps", 300), ("every", 20), ("batch", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", help="where the state is written; a temporary folder if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measured(options, Path(folder))
        size = checkpoints(Path(folder))[-1].stat().st_size
        began = time.perf_counter()
        Run(recipe(options), Path(folder))
        resume = time.perf_counter() - began
    print(f"state of {size / 2**20:.0f} MiB, {torch.get_num_threads()} threads")
    for name, seconds in found.items():
        p50, p99 = torch.quantile(Tensor(seconds), Tensor([0.5, 0.99])).tolist()
        print(f"{name:14} n {len(seconds):4}   p50 {1000 * p50:8.1f} ms   p99 {1000 * p99:8.1f} ms")
    print(f"resume         {resume:.2f} s")


if __name__ == "__main__":
    main()
