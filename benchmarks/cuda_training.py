"""How fast the whole U-Net of Stable Diffusion 1.5 learns on CUDA: pictures a second, share of the card, memory.

    PYTHONPATH=src python benchmarks/cuda_training.py --out FOLDER --seconds 40
    PYTHONPATH=src python benchmarks/cuda_training.py --out FOLDER --device cpu --toy     # a rehearsal

Cached latents and text (random), float32 weights under bf16 autocast, channels last, fused AdamW, clipped gradients,
levels and noise drawn by aquatint's own generator. 32 x 32 latents are 256 x 256 pixels. Backward is counted as
twice the forward's operations. Milliseconds are the median step's.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cuda_parity import random_weights  # noqa: E402
from benchmarks.timebox import Box, Row, flop_of, milliseconds, options, release, share  # noqa: E402

from aquatint.base.noise import EPS, Noise  # noqa: E402
from aquatint.diffusion.prediction import PREDICTIONS  # noqa: E402
from aquatint.diffusion.schedule import NoiseSchedule  # noqa: E402
from aquatint.engines.plain import prepare  # noqa: E402
from aquatint.families import SD15, TINY  # noqa: E402
from aquatint.nets.unet import UNet  # noqa: E402
from aquatint.training.optim import clip  # noqa: E402

BATCHES = {32: (32, 64, 128), 64: (32, 64)}


class Learner:
    """A U-Net in training."""

    def __init__(self, box: Box, toy: bool) -> None:
        self.family, self.device = TINY if toy else SD15, box.device
        self.net = random_weights(UNet, self.family.unet, box.device).train().requires_grad_(True)
        prepare(self.net)
        self.weights = list(self.net.parameters())
        fused = box.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(self.weights, lr=1e-5, weight_decay=0.01, fused=fused)
        self.schedule, self.prediction = NoiseSchedule(self.family.schedule), PREDICTIONS[self.family.prediction]
        self.step = 0

    def batch(self, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Latents and text, as a cache would hand them over."""
        noise = Noise(range(size))
        context = noise.normal((77, self.family.unet.context), draw=1, device=self.device)
        return noise.normal((4, side, side), device=self.device), context

    def learn(self, latents: Tensor, context: Tensor) -> Tensor:
        """One step down the loss, which stays on the device."""
        noise = Noise([7] * len(latents), range(self.step * len(latents), (self.step + 1) * len(latents)))
        self.step += 1
        level = self.schedule.draw(noise, device=self.device)
        eps = noise.normal(tuple(latents.shape[1:]), draw=EPS, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            out = self.net(level.mix(latents, eps), torch.as_tensor(level.t).flatten(), context)
        loss = (out.float() - self.prediction.target(latents, eps, level)).square().mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        clip([weight.grad for weight in self.weights if weight.grad is not None], 1.0)
        self.optimiser.step()
        return loss.detach()


def rates(box: Box, toy: bool, side: int, sizes: Sequence[int]) -> Iterator[Row]:
    """One resolution, one batch size after the other."""
    learner = Learner(box, toy)
    latent, told = torch.zeros(1, 4, side, side), torch.zeros(1, 77, learner.family.unet.context)
    ask = [tensor.to("meta") for tensor in (latent, torch.zeros(1), told)]
    flop = 3 * flop_of(lambda net: net(*ask), UNet, learner.family.unet)
    for size in sizes:
        release(box.device)
        if box.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(box.device)
        row = {"pixels": 8 * side, "batch": size}
        try:
            latents, context = learner.batch(size, side)
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
                losses = [learner.learn(latents, context)]
                call = partial(learner.learn, latents, context)
                ms = milliseconds(call, box.device, budget=0.0 if toy else 2.0, warm=1 if toy else 3, most=20)
                losses.append(learner.learn(latents, context))
        except torch.cuda.OutOfMemoryError:
            learner.optimiser.zero_grad(set_to_none=True)
            yield {**row, "ms": "does not fit"}
            continue
        peak = torch.cuda.max_memory_allocated(box.device) / 2**30 if box.device.type == "cuda" else 0.0
        first, last = (loss.item() for loss in losses)
        row |= {"ms": ms, "pictures/s": 1e3 * size / ms, **share(size * flop, ms)}
        yield {**row, "peak, GiB": peak, "first loss": first, "last loss": last}


def main(words: Sequence[str] | None = None) -> Box:
    """Measure, print, write."""
    given = options(__doc__ or "", 40).parse_args(words)
    box = Box("CUDA training", given)
    sizes = {8: (2, 4)} if given.toy else BATCHES
    sections: dict[str, Callable[[], Iterator[Row]]] = {
        f"{8 * side} px": partial(rates, box, given.toy, side, batches) for side, batches in sizes.items()
    }
    box.run(sections)
    return box


if __name__ == "__main__":
    main()
