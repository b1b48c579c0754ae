"""The pocket model, taught on: a short run that mends what a long one got wrong.

    torchrun --standalone --nproc-per-node 2 -m recipes.more --out runs/more --minutes 20     # CPU: scenes as it goes
    python -m recipes.more --out runs/more --minutes 7 --scenes 80000                         # CUDA: rendered first
    python -m recipes.more --out runs/more --export

Noisy times count most, and pairs are shown more often than the world has them: what is in a picture, and which of two
is where, is settled there. (The latter it did not learn: docs/log.md.)
"""

import argparse
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from aquatint.base.counted import Counted
from aquatint.base.noise import POSTERIOR, Noise
from aquatint.base.runtime import DTYPES
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.engines.plain import prepare
from aquatint.pipelines.bundle import Bundle, load, save
from aquatint.training.data.latents import encode, pixels
from aquatint.training.data.pool import make
from aquatint.training.data.scenes import Scene
from aquatint.training.data.stream import Stream
from aquatint.training.loop import train
from aquatint.training.objectives.diffusion import Aim, Denoising
from aquatint.training.recipe import Batch, Moment, Optim, Recipe, Share
from aquatint.training.state import averaged, part
from recipes.place import CPU, GPU, Place, machine
from recipes.pocket import WORDINGS, rows, taught, warm
from recipes.shown import SEED, WORLD
from recipes.watch import Watch

KINDS = {"single": 0.3, "placed": 0.15, "pair": 0.42, "count": 0.13}
STREAM = Stream(WORLD, SEED + 8, kinds=KINDS)
Batches = Callable[[Moment, Share], Batch]


class Pace(NamedTuple):
    """How fast a machine's run is to learn: peak rate, steps until it is reached, the average's decay."""

    lr: float
    warmup: int
    average: float


PACES = {"cpu": Pace(2e-4, 20, 0.98), "cuda": Pace(8e-4, 200, 0.998)}


def described(numbers: range) -> list[Scene]:
    """The scenes with these numbers."""
    return [STREAM.scene(number) for number in numbers]


def fresh(bundle: Bundle, place: Place) -> Batches:
    """Batches of scenes that are drawn and encoded as they are asked for."""
    decoder = bundle.autoencoder

    @torch.no_grad()
    def batch(moment: Moment, share: Share) -> Batch:
        numbers = rows(moment, share, place.scale.batch)
        pictures, captions = STREAM.batch(numbers)
        shape = (bundle.family.unet.channels_in, *(side // decoder.config.factor for side in pictures.shape[1:3]))
        eps = Noise([STREAM.seed] * len(numbers), numbers).normal(shape, draw=POSTERIOR, device=place.device)
        return {"latents": decoder.encode(pixels(pictures).to(place.device), eps), "ids": bundle.tokenizer(captions)}

    return batch


def drawn(bundle: Bundle, place: Place, scenes: int) -> Batches:
    """Batches of scenes that all processors draw before the first; meanwhile the net is compiled."""
    folder, scale = place.out, place.scale
    bundle.tokenizer.save(folder / "tokenizer")
    with ThreadPoolExecutor(1) as aside:
        drawing = aside.submit(
            make, folder / "scenes", described, folder / "tokenizer", scenes, seed=STREAM.seed, side=WORLD.canvas,
            wordings=WORDINGS,
        )  # fmt: skip
        if place.device.type == "cuda":
            warm(bundle.unet.to(place.device), scale.batch, DTYPES[scale.dtype])
        drawing.result()
    pool, config = place.scenes(), bundle.autoencoder.config
    ones = torch.ones(config.latents, device=place.device)
    kept = encode(bundle.autoencoder, pool, dtype=scale.dtype).settled(config.shift * ones, ones / config.scale)
    return taught(kept, pool.ids, bundle.tokenizer([""]).to(place.device), STREAM.seed, scale.batch)


def more(bundle: Bundle, place: Place, scenes: int = 0) -> Recipe:
    """U-Net and text encoder of an opened model, at a lower rate than they were trained with at first."""
    device, pace = place.device, PACES[place.device.type]
    net, text, decoder = bundle.unet.train().requires_grad_(True), bundle.text.train(), bundle.autoencoder.to(device)
    prepare(net)
    batches = drawn(bundle, place, scenes) if scenes else fresh(bundle, place)
    family = bundle.family
    objective = Denoising(net, text, NoiseSchedule(family.schedule), Aim("v", snr_cap=5.0, late=0.6), frozen=False)
    watch = Watch(family, Stream(WORLD, SEED + 98), bundle.tokenizer, decoder, device)
    lasts = place.length()  # from now on: scenes are drawn, the net is compiled
    return Recipe(
        "more", SEED + 8, objective, batches, lasts,
        {"unet": Optim(lr=pace.lr, decay=0.01, warmup=pace.warmup, hold=0.4, final=0.02)}, (pace.average,),
        batch_size=place.scale.batch, log_steps=10, save_minutes=4.0, watch=watch.unet, watch_minutes=lasts.minutes / 4,
        device=device, dtype=place.scale.dtype,
    )  # fmt: skip


def export(bundle: Bundle, out: Path) -> None:
    """Write `out`/model: what the run made of the model, in float16."""
    both = averaged(out / "unet", "unet")
    bundle.unet.load_state_dict(part(both, "0."))
    bundle.text.load_state_dict(part(both, "1."))
    shutil.rmtree(out / "model", ignore_errors=True)
    save(replace(bundle, counted=Counted()), out / "model", "native", dtype=torch.float16, shard_size=14 * 2**20)


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
    device = machine()
    scale = GPU if device.type == "cuda" else CPU
    place = Place(given.out, given.out, device, scale, given.minutes, until=given.until)
    train(more(bundle, place, given.scenes), given.out / "unet")


if __name__ == "__main__":
    main()
