"""What 8-bit floats in the feed-forwards change (engines/fp8.py): the pocket model on the CPU, with the card's formula.

    PYTHONPATH=src python benchmarks/fp8.py

A U-Net call on real latents at several times, and whole pictures, each against float32; bfloat16 alone beside it. rms
in standard deviations of the float32 answer; pictures in steps of 1/255. Nothing is timed: a CPU has no such products.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.rungs import Again  # noqa: E402
from benchmarks.timebox import off  # noqa: E402

import aquatint  # noqa: E402
from aquatint.base.noise import Noise  # noqa: E402
from aquatint.diffusion.schedule import NoiseSchedule  # noqa: E402
from aquatint.engines.choice import Engine  # noqa: E402
from aquatint.engines.cuda import Cuda  # noqa: E402
from aquatint.pipelines.bundle import Bundle  # noqa: E402

PROMPTS = ("a red apple on a blue background", "two cats in the snow", "a house at night")
TIMES = (50, 250, 500, 750, 950)
SIZE = {"width": 256, "height": 256, "steps": 20}


def bundles() -> tuple[Bundle, dict[str, Bundle]]:
    """The reference, and what is held against it."""
    short = aquatint.load(device="cpu", dtype="bfloat16", engine="torch")
    card = Cuda(Again(), fp8=True)
    return aquatint.load(device="cpu", dtype="float32", engine="torch"), {
        "bfloat16": aquatint.load(device="cpu", dtype="bfloat16", engine="torch"),
        "bfloat16, fp8": replace(short, engine=Engine(card.name, card=card)),
    }


@torch.no_grad()
def calls(reference: Bundle, held: dict[str, Bundle]) -> dict[str, list[float]]:
    """The U-Net's error at each time, from latents of finished pictures."""
    cond, schedule = reference.encode_text(PROMPTS), NoiseSchedule(reference.family.schedule)
    pictures = [reference.paint(prompt, seed=1, **SIZE).image for prompt in PROMPTS]
    x0 = reference.encode(pictures)
    eps = Noise(range(len(PROMPTS))).normal(tuple(x0.shape[1:]))
    found: dict[str, list[float]] = {name: [] for name in held}
    for time in TIMES:
        x, t = schedule.at(time).mix(x0, eps), torch.full((len(x0),), float(time))
        want = reference.unet(x, t, cond.context, cond.vector)
        for name, bundle in held.items():
            got = bundle.engine.quick(bundle.unet)(x, t, cond.context, cond.vector)
            found[name].append(off(got, want)["rms"])
    return found


def painted(bundle: Bundle, prompt: str) -> np.ndarray:
    """A picture's bytes."""
    return np.asarray(bundle.paint(prompt, seed=2, **SIZE).image).astype(int)


def main() -> None:
    """Measure and print."""
    reference, held = bundles()
    print("| rms of a call at time | " + " | ".join(map(str, TIMES)) + " |\n|---|" + "---|" * len(TIMES))
    for name, row in calls(reference, held).items():
        print(f"| {name} | " + " | ".join(f"{rms:.1e}" for rms in row) + " |")
    print("\n| a picture's pixels | mean | largest |\n|---|---|---|")
    for name, bundle in held.items():
        apart = np.stack([np.abs(painted(bundle, prompt) - painted(reference, prompt)) for prompt in PROMPTS])
        print(f"| {name} | {apart.mean():.2f} | {apart.max()} |")


if __name__ == "__main__":
    main()
