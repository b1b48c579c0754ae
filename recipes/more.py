"""The pocket model, taught on: a short run that mends what a long one got wrong.

    torchrun --standalone --nproc-per-node 2 -m recipes.more --out runs/more --minutes 20     # CPU: scenes as it goes
    python -m recipes.more --out runs/more --minutes 7 --scenes 80000                         # CUDA: rendered first
    python -m recipes.more --out runs/more --export

Noisy times count most, and pairs are shown more often than the world has them: what is in a picture, and which of two
is where, is settled there.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from aquatint.base.noise import POSTERIOR, Noise
from aquatint.base.runtime import DTYPES
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.engines.plain import prepare
from aquatint.pipelines.bundle import Bundle, load, save
from aquatint.training import parallel
from aquatint.training.data.latents import encode, pixels
from aquatint.training.data.pool import Pool, make
from aquatint.training.data.scenes import Scene
from aquatint.training.data.stream import Stream
from aquatint.training.loop import train
from aquatint.training.objectives.diffusion import Aim, Denoising
from aquatint.training.recipe import Batch, Length, Moment, Optim, Recipe, Share
from aquatint.training.state import averaged, part
from recipes.pocket import WORDINGS, rows, taught, warm
from recipes.shown import SEED, WORLD
from recipes.watch import Watch

KINDS = {"single": 0.3, "placed": 0.15, "pair": 0.42, "count": 0.13}
STREAM = Stream(WORLD, SEED + 8, kinds=KINDS)
Batches = Callable[[Moment, Share], Batch]


@dataclass(frozen=True)
class Scale:
    """Batch, peak rate, steps until it is reached, the average's decay, and the number format of a machine."""

    batch: int
    lr: float
    warmup: int
    average: float
    dtype: str


CPU = Scale(32, 2e-4, 20, 0.98, "float32")
GPU = Scale(256, 8e-4, 200, 0.998, "bfloat16")


def described(numbers: range) -> list[Scene]:
    """The scenes with these numbers."""
    return [STREAM.scene(number) for number in numbers]


def fresh(bundle: Bundle, scale: Scale, device: torch.device) -> Batches:
    """Batches of scenes that are drawn and encoded as they are asked for."""
    decoder = bundle.autoencoder

    @torch.no_grad()
    def batch(moment: Moment, share: Share) -> Batch:
        numbers = rows(moment, share, scale.batch)
        pictures, captions = STREAM.batch(numbers)
        shape = (bundle.family.unet.channels_in, *(side // decoder.config.factor for side in pictures.shape[1:3]))
        eps = Noise([STREAM.seed] * len(numbers), numbers).normal(shape, draw=POSTERIOR, device=device)
        return {"latents": decoder.encode(pixels(pictures).to(device), eps), "ids": bundle.tokenizer(captions)}

    return batch


def drawn(bundle: Bundle, scale: Scale, device: torch.device, folder: Path, scenes: int) -> Batches:
    """Batches of scenes that all processors draw before the first; meanwhile the net is compiled."""
    bundle.tokenizer.save(folder / "tokenizer")
    with ThreadPoolExecutor(1) as aside:
        drawing = aside.submit(
            make, folder / "scenes", described, folder / "tokenizer", scenes, seed=STREAM.seed, side=WORLD.canvas,
            wordings=WORDINGS,
        )  # fmt: skip
        if device.type == "cuda":
            warm(bundle.unet.to(device), scale.batch, DTYPES[scale.dtype])
        drawing.result()
    pool, config = Pool.open(folder / "scenes", device), bundle.autoencoder.config
    ones = torch.ones(config.latents, device=device)
    kept = encode(bundle.autoencoder, pool, dtype=scale.dtype).settled(config.shift * ones, ones / config.scale)
    return taught(kept, pool.ids, bundle.tokenizer([""]).to(device), STREAM.seed, scale.batch)


def more(bundle: Bundle, out: Path, length: Callable[[], Length], scenes: int = 0) -> Recipe:
    """U-Net and text encoder of an opened model, at a lower rate than they were trained with at first."""
    device = parallel.device()
    scale = GPU if device.type == "cuda" else CPU
    net, text, decoder = bundle.unet.train().requires_grad_(True), bundle.text.train(), bundle.autoencoder.to(device)
    prepare(net)
    batches = drawn(bundle, scale, device, out, scenes) if scenes else fresh(bundle, scale, device)
    family = bundle.family
    objective = Denoising(net, text, NoiseSchedule(family.schedule), Aim("v", snr_cap=5.0, late=0.6), frozen=False)
    watch = Watch(family, Stream(WORLD, SEED + 98), bundle.tokenizer, decoder, device)
    lasts = length()
    return Recipe(
        "more", SEED + 8, objective, batches, lasts,
        {"unet": Optim(lr=scale.lr, decay=0.01, warmup=scale.warmup, hold=0.4, final=0.02)}, (scale.average,),
        batch_size=scale.batch, log_steps=10, save_minutes=4.0, watch=watch.unet, watch_minutes=lasts.minutes / 4,
        device=device, dtype=scale.dtype,
    )  # fmt: skip


def export(bundle: Bundle, out: Path) -> None:
    """Write `out`/model: what the run made of the model, in float16."""
    both = averaged(out / "unet", "unet")
    bundle.unet.load_state_dict(part(both, "0."))
    bundle.text.load_state_dict(part(both, "1."))
    shutil.rmtree(out / "model", ignore_errors=True)
    save(replace(bundle, digest=""), out / "model", "native", dtype=torch.float16, shard_size=14 * 2**20)


def main() -> None:
    """Train, or export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="other than the carried one")
    parser.add_argument("--out", type=Path, default=Path("runs/more"))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--until", type=float, default=0.0, help="the Unix time at which the run shall end instead")
    parser.add_argument("--scenes", type=int, default=0, help="drawn first, by all processors (one process trains)")
    parser.add_argument("--export", action="store_true")
    given = parser.parse_args()
    bundle = load(given.model, device="cpu", dtype="float32")
    if given.export:
        export(bundle, given.out)
        return
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // parallel.join().world))
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True

    def length() -> Length:
        return Length(minutes=max(0.01, (given.until - time.time()) / 60) if given.until else given.minutes)

    train(more(bundle, given.out, length, given.scenes), given.out / "unet")


if __name__ == "__main__":
    main()
