"""One training step against that of diffusers' scripts (train_text_to_image.py and its LoRA), interleaved in one run.

    python benchmarks/training.py --rounds 5 --write benchmarks/DATE-training-cpu.md

Float32, random weights, the same shapes, batch and optimiser on both sides, latents at hand, and a live text encoder
that stays as it is. A step is: words, noise, the U-Net there and back, the gradient clipped, AdamW. Each side is a
process of its own with as many threads as there are cores; each round asks them in turn, and ratios are taken round by
round. Needs the [parity] extra and 16 GB. Let nothing else run.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from aquatint.families import POCKET, SD15, Family

SIDES = ("ours", "theirs")
HALF = replace(
    SD15.unet,
    stages=tuple(replace(stage, width=stage.width // 2, heads=stage.heads // 2) for stage in SD15.unet.stages),
)
REACHED = ["to_k", "to_q", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]


@dataclass(frozen=True)
class Case:
    """What is trained: a family's U-Net whole, or its LoRA of a rank; latents of a side, and how many a step."""

    family: Family
    side: int
    batch: int
    rank: int = 0


CASES = {
    "pocket, all weights": Case(POCKET, 32, 8),
    "SD 1.5 at half its widths, all weights": Case(replace(SD15, unet=HALF), 32, 2),
    "SD 1.5, LoRA of rank 8": Case(SD15, 32, 1, rank=8),
}


def ids(case: Case) -> torch.Tensor:
    """Token ids of a batch."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(case.family.text.vocabulary - 2, (case.batch, 77), generator=generator)


def latents(case: Case) -> torch.Tensor:
    """Latents of a batch."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((case.batch, 4, case.side, case.side), generator=generator)


def ours(case: Case) -> Callable[[], Any]:
    """Our loop's step, its nets run as `aquatint train` runs them."""
    from aquatint.base import runtime
    from aquatint.diffusion.schedule import NoiseSchedule
    from aquatint.engines.choice import choose_engine
    from aquatint.nets.grown import grow, player
    from aquatint.nets.text import TextEncoder
    from aquatint.nets.unet import UNet
    from aquatint.training.loop import Run
    from aquatint.training.objectives.diffusion import Aim, Denoising
    from aquatint.training.recipe import Length, Optim, Recipe

    runtime.keep_pages()
    unet, text = UNet(case.family.unet), TextEncoder(case.family.text)
    choose_engine().prepare(unet)
    schedule, aim = NoiseSchedule(case.family.schedule), Aim(case.family.prediction)
    if case.rank:
        growth = grow(unet, rank=case.rank, reach="attention", seed=0)
        objective = Denoising(growth.net, text, schedule, aim, player=player({"unet": growth}))  # type: ignore[arg-type]
        text.requires_grad_(False)
    else:
        objective = Denoising(unet, text, schedule, aim)
    batch = {"latents": latents(case), "ids": ids(case)}
    optim = Optim(lr=1e-5, betas=(0.9, 0.999))
    recipe = Recipe("step", 0, objective, lambda *_: batch, Length(steps=1000), {"unet": optim}, (), case.batch)
    run = Run(recipe, Path(tempfile.mkdtemp()))
    print(sum(weight.numel() for weight in run.weights["unet"]), flush=True)
    return lambda: run.take_step(run.moment)


def theirs(case: Case) -> Callable[[], Any]:
    """The step of diffusers' scripts."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from aquatint.weights import folder

    config = case.family.text
    unet = UNet2DConditionModel.from_config(folder.unet_document(case.family.unet, case.side))
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocabulary, hidden_size=config.width, intermediate_size=4 * config.width,
            num_hidden_layers=config.layers, num_attention_heads=config.heads,
        )
    ).requires_grad_(False).eval()  # fmt: skip
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type={"v": "v_prediction"}.get(case.family.prediction, "epsilon"),
    )  # fmt: skip
    if case.rank:
        from peft import LoraConfig

        unet.requires_grad_(False)
        unet.add_adapter(LoraConfig(r=case.rank, lora_alpha=case.rank, target_modules=REACHED))
    unet.train()
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    print(sum(weight.numel() for weight in weights), flush=True)
    optimiser = torch.optim.AdamW(weights, lr=1e-5, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    x, words = latents(case), ids(case)

    def step() -> float:
        noise = torch.randn_like(x)
        times = torch.randint(0, 1000, (len(x),))
        noisy = scheduler.add_noise(x, noise, times)
        context = text(words, return_dict=False)[0]
        target = noise if case.family.prediction == "epsilon" else scheduler.get_velocity(x, noise, times)
        predicted = unet(noisy, times, context, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(predicted.float(), target.float(), reduction="mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    return step


def serve(side: str, name: str) -> None:
    """What a side's process does: for every line on standard input a step, its seconds and the peak in GiB."""
    step = (ours if side == "ours" else theirs)(CASES[name])
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)


class Side:
    """One side's process, and how many numbers learn there."""

    def __init__(self, side: str, name: str) -> None:
        command = [sys.executable, __file__, "--serve", side, "--only", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.numbers, self.peak = int(self.answer()[0]), 0.0

    def answer(self) -> list[str]:
        """The next line, in words."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def seconds(self) -> float:
        """One step."""
        assert self.process.stdin is not None
        print("step", file=self.process.stdin, flush=True)
        seconds, self.peak = map(float, self.answer())
        return seconds


def row(name: str, rounds: int) -> str:
    """One case, as a row of the table."""
    mine, peers = (Side(side, name) for side in SIDES)
    for _ in range(2):
        mine.seconds(), peers.seconds()
    pairs = [(mine.seconds(), peers.seconds()) for _ in range(rounds)]
    ratios = [b / a for a, b in pairs]
    batch = CASES[name].batch
    us, them = (batch / statistics.median(column) for column in zip(*pairs, strict=True))
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
    for side in (mine, peers):
        side.process.communicate()
    numbers = f"{mine.numbers / 1e6:.2f} / {peers.numbers / 1e6:.2f} M"
    return f"| {name} | {batch} | {numbers} | {us:.3g} | {them:.3g} | {spread} | {mine.peak:.1f} / {peers.peak:.1f} |"


def main() -> None:
    """Measure and print, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=CASES, nargs="*")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--serve", choices=SIDES)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.only[0])
        return
    head = (
        f"# A training step on the CPU, against diffusers {version('diffusers')}\n\n"
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"float32, latents of 32 x 32 (256 x 256 pixels), {given.rounds} interleaved rounds after two warm-ups, "
        "medians; a process a side.\n"
        f"Command: `python benchmarks/training.py --rounds {given.rounds}`\n\n"
        "| what learns | samples a step | numbers, ours / theirs | ours, samples/s | diffusers, samples/s "
        "| ratio theirs / ours in time (min .. max) | peak GiB, ours / theirs |\n|---|---|---|---|---|---|---|\n"
    )
    text = head + "\n".join(row(name, given.rounds) for name in given.only or CASES) + "\n"
    print(text)
    if given.write:
        given.write.write_text(text)


if __name__ == "__main__":
    main()
