"""The pocket model from nothing: `make pocket`, or stage by stage

    torchrun --standalone --nproc-per-node 2 -m recipes.pocket STAGE --out runs/pocket

STAGE        GPU, minutes   what comes out, and the number to expect
words              0        tokenizer: BPE of 2,048 entries from captions of the world
scenes             1        100,000 scenes rendered and put into words, by all processors
alignment          1        text encoder and image tower by contrast
autoencoder        2        KL autoencoder with perception and a patch critic
latents            0        the scenes encoded
detector           5        who judges the pictures, beside the U-Net: evaluation's centre-point detector
unet               6        U-Net and text encoder, v-prediction
export             0        the weights as the package carries them: float16 in aquatint's native format

Every stage goes on from its last checkpoint when it is started again. With --wait, a stage that needs another's result
waits for it, so that all may be started at once.
"""

import argparse
import json
import math
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from aquatint.base import files, images
from aquatint.base.noise import CAPTION, CROP, Noise
from aquatint.base.runtime import DTYPES
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.engines.plain import prepare
from aquatint.evaluation.lessons import train_detector
from aquatint.evaluation.metrics import psnr
from aquatint.families import POCKET
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.critics import CriticConfig, PatchCritic, Perception
from aquatint.nets.text import ImageConfig, ImageTower, TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import UNet
from aquatint.pipelines.bundle import Bundle, save
from aquatint.pipelines.vocabulary import Vocabulary
from aquatint.training.data.captions import vocabulary
from aquatint.training.data.latents import Latents, encode, pixels
from aquatint.training.data.pool import make
from aquatint.training.data.stream import Stream
from aquatint.training.loop import train
from aquatint.training.objectives.autoencoder import Reconstruction, Weights, calm, settle
from aquatint.training.objectives.diffusion import Aim, Denoising
from aquatint.training.objectives.text import Alignment, Towers
from aquatint.training.recipe import Batch, Moment, Optim, Recipe, Share
from aquatint.training.start import start
from aquatint.training.state import averaged, part
from recipes.place import CPU, GPU, TOY, Place, machine
from recipes.shown import GROUP, SEED, WORLD, alike, described
from recipes.watch import Watch, sheet

TOWER = ImageConfig(size=128, patch=16, width=128, layers=4, heads=4, projection=256)
FINISHED = "finished.json"  # in a stage's folder, when it has come to its end
SILENT = 0.1  # share of the samples without words: what classifier-free guidance needs
WORDINGS = 8  # of each scene


def rows(moment: Moment, share: Share, size: int) -> range:
    """The numbers of our samples in this step's global batch."""
    own = size // share.world
    first = moment.step * size + share.rank * own
    return range(first, first + own)


def tokenizer(out: Path) -> Tokenizer:
    """The pocket's words, as the `words` stage left them."""
    return Tokenizer.from_folder(out / "tokenizer")


def words(place: Place) -> None:
    """Learn a byte-pair encoding from 40,000 captions."""
    stream = Stream(WORLD, SEED)
    texts = [stream.caption(index) for index in range(min(40_000, 20 * place.scale.scenes))]
    Tokenizer.train(texts, POCKET.text.vocabulary).save(place.out / "tokenizer")


def scenes(place: Place) -> None:
    """Render and word all that the other stages look at."""
    scale, told = place.scale, place.out / "tokenizer"
    make(place.pool / "scenes", described, told, scale.scenes, seed=SEED + 4, side=WORLD.canvas, wordings=WORDINGS)
    make(place.pool / "alike", alike, told, scale.alike, seed=SEED + 1, side=TOWER.size, wordings=4, complete=0.9)


def alignment(place: Place) -> Recipe:
    """CLIP alignment of captions and pictures; the U-Net then starts with words that mean something.

    Every other batch is of scenes that differ in little but the object. Without these, colours and backgrounds tell
    pictures apart well enough, the names of shapes stay synonyms, and the U-Net never hears them (docs/log.md).
    """
    towers = Towers(TextEncoder(POCKET.text), ImageTower(TOWER))
    start(towers, SEED)
    pool, close, size = place.scenes(), place.scenes("alike"), place.scale.pairs

    def batch(moment: Moment, share: Share) -> Batch:
        numbers = rows(moment, share, size)
        source = close if moment.step % 2 else pool
        if source is close:  # whole groups
            firsts = [GROUP * shuffled(n // GROUP, len(close) // GROUP) for n in numbers[::GROUP]]
            chosen = [first + i for first in firsts for i in range(GROUP)]
        else:
            chosen = [shuffled(number, len(pool)) for number in numbers]
        picked, wordings = picks(chosen, numbers, source.ids, place.device)
        pictures = source.whole(picked)
        times = pictures.shape[-1] // TOWER.size
        return {"pixels": avg_pool2d(pictures, times), "ids": source.ids[picked, wordings].long()}

    optim = Optim(lr=1e-3, decay=0.05, warmup=100, hold=0.3)
    return Recipe(
        "alignment", SEED, Alignment(towers), batch, place.length(), {"towers": optim}, (0.99,), batch_size=size,
        device=place.device,
    )  # fmt: skip


def picks(chosen: list[int], numbers: range, ids: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of a pool and a wording of each, drawn by the samples' numbers; on the device."""
    wordings = Noise([SEED] * len(numbers), numbers).integers((), ids.shape[1], draw=CAPTION)
    return torch.tensor(chosen).to(device), wordings.to(device)


def autoencoder(place: Place) -> Recipe:
    """The autoencoder: small crops first (many gradients a second), whole pictures from 60 %, the critic from 70 %."""
    net, critic = Autoencoder(POCKET.autoencoder), PatchCritic(CriticConfig(widths=(32, 64, 128), groups=8))
    start(net, SEED + 2)
    start(critic, SEED + 3)
    calm(net)
    prepare(net)
    pool, phases = place.scenes(), place.scale.crops

    def batch(moment: Moment, share: Share) -> Batch:
        side, count = phases[0 if moment.progress < 0.25 else 1 if moment.progress < 0.6 else 2]
        numbers = rows(moment, share, phases[0][1])[: max(1, count // share.world)]
        chosen = [shuffled(number, len(pool)) for number in numbers]
        corners = Noise([SEED] * len(chosen), numbers).integers((2,), WORLD.canvas - side + 1, draw=CROP)
        return {"pixels": pool.crops(torch.tensor(chosen).to(place.device), corners.to(place.device), side)}

    pictures = Stream(WORLD, SEED + 99).batch(range(48))[0]
    held = pixels(pictures)

    @torch.no_grad()
    def watch(moment: Moment, averaged: Mapping[str, nn.Module], folder: Path) -> Mapping[str, float]:
        model = averaged["autoencoder"]
        assert isinstance(model, Autoencoder)
        painted = model.decode(model.encode(held.to(place.device))).clamp(-1, 1).cpu()
        sheet(torch.cat([held[:16], painted[:16]]), folder / "sheet.png", 8)
        return {"psnr": psnr(pictures, images.to_bytes(painted).permute(0, 2, 3, 1).contiguous().numpy()).mean().item()}

    @cache
    def perception() -> Perception:
        tower = ImageTower(TOWER)
        place.after(place.out / "alignment" / FINISHED)
        tower.load_state_dict(part(averaged(place.out / "alignment", "towers"), "image."))
        return Perception(tower).to(place.device)

    objective = Reconstruction(
        net, critic, Weights(start=0.7, critic=0.3), lambda a, b: perception()(a, b), WORLD.canvas
    )
    optims = {
        "autoencoder": Optim(lr=1e-3, decay=0.0, betas=(0.9, 0.99), warmup=100, hold=0.4, final=0.02, clip=0.5),
        "critic": Optim(lr=5e-4, decay=0.0, betas=(0.5, 0.9), warmup=50),
    }
    return Recipe(
        "autoencoder", SEED + 2, objective, batch, place.length(), optims, (0.999,), batch_size=phases[0][1],
        watch=watch, watch_minutes=place.minutes / 4, device=place.device, dtype=place.scale.dtype,
    )  # fmt: skip


@torch.no_grad()
def latents(place: Place) -> None:
    """Encode the scenes once, with every latent channel brought to zero mean and unit deviation."""
    (place.out / "latents.json").unlink(missing_ok=True)
    place.after(place.out / "autoencoder" / FINISHED)
    net, pool = trained_autoencoder(place.out).to(place.device), place.scenes()
    found = encode(net, pool, dtype=place.scale.dtype)
    centre = found.means.mean(dim=(0, 2, 3))
    width = (found.means.var(dim=(0, 2, 3)) + found.deviations.square().mean(dim=(0, 2, 3))).sqrt()
    found.settled(centre, width).save(place.out / "latents.safetensors")
    files.write(place.out / "latents.json", json.dumps({"mean": centre.tolist(), "deviation": width.tolist()}))


def trained_autoencoder(out: Path) -> Autoencoder:
    """The autoencoder as its stage left it, settled if the `latents` stage has run."""
    net = Autoencoder(POCKET.autoencoder).eval().requires_grad_(False)
    net.load_state_dict(averaged(out / "autoencoder", "autoencoder"))
    if (out / "latents.json").exists():
        found = json.loads((out / "latents.json").read_text())
        settle(net, torch.tensor(found["mean"]), torch.tensor(found["deviation"]))
    prepare(net)
    return net


def detector(place: Place) -> None:
    """Who judges the pictures (aquatint.evaluation): trained on renders and reconstructions, by the clock."""
    place.after(place.out / "latents.json")
    net = trained_autoencoder(place.out).to(place.device)
    if place.device.type == "cuda":
        torch.set_num_threads(1)  # the pictures are spoilt one by one: sixteen threads took 1.9 s for 64 of them

    @torch.no_grad()
    def autoencode(pictures: np.ndarray) -> np.ndarray:
        again = net.decode(net.encode(pixels(pictures).to(place.device)))
        return images.to_bytes(again).permute(0, 2, 3, 1).contiguous().cpu().numpy()

    train_detector(
        WORLD, place.out / "detector.safetensors", steps=1_000_000, minutes=place.length().minutes,
        batch=place.scale.lessons, rate=3e-3, autoencode=autoencode, workers=place.scale.drawers, device=place.device,
    )  # fmt: skip


def trained_text(out: Path) -> TextEncoder:
    """The text encoder as alignment left it."""
    text = TextEncoder(POCKET.text)
    text.load_state_dict(part(averaged(out / "alignment", "towers"), "text."))
    return text.eval()


def unet(place: Place) -> Recipe:
    """The U-Net: v-prediction on a zero-terminal schedule, min-SNR 5, noisy times preferred.

    The text encoder learns on with it: alignment told subjects and colours apart but hardly shapes, and a U-Net over a
    frozen one never heard their names (docs/log.md has the measurements).
    """
    words_, net, device, size = tokenizer(place.out), UNet(POCKET.unet), place.device, place.scale.batch
    start(net, SEED + 5)
    prepare(net)
    if place.compile:
        warm(net.to(device), size, DTYPES[place.scale.dtype])
    place.after(place.out / "alignment" / FINISHED)
    place.after(place.out / "latents.json")
    text, told = trained_text(place.out), place.scenes(device="cpu").ids.to(device)
    kept = Latents.load(place.out / "latents.safetensors").to(device)
    batch = taught(kept, told, words_([""]).to(device), SEED + 4, size)
    objective = Denoising(net, text, NoiseSchedule(POCKET.schedule), Aim("v", snr_cap=5.0, late=0.3), frozen=False)
    judge = Watch(POCKET, Stream(WORLD, SEED + 98), words_, trained_autoencoder(place.out).to(device), device)
    return Recipe(
        "unet", SEED + 5, objective, batch, place.length(),
        {"unet": Optim(lr=1e-3, decay=0.01, warmup=200, hold=0.6, final=0.02)},
        (0.99, 0.999), batch_size=size, watch=judge.unet, watch_minutes=place.minutes / 6,
        save_minutes=place.minutes / 6, device=device, dtype=place.scale.dtype,
    )  # fmt: skip


def taught(kept: Latents, told: Tensor, empty: Tensor, seed: int, size: int) -> Callable[[Moment, Share], Batch]:
    """Batches of cached scenes, each in one of its wordings `told` [n, k, 77], a few of them without words."""

    def batch(moment: Moment, share: Share) -> Batch:
        numbers = rows(moment, share, size)
        noise = Noise([seed] * len(numbers), numbers)
        picked, wordings = picks([shuffled(number, len(told)) for number in numbers], numbers, told, told.device)
        silent = noise.uniform((1,), draw=CAPTION).to(told.device) < SILENT
        ids = torch.where(silent, empty, told[picked, wordings].long())
        return {"latents": kept.draw(picked, noise), "ids": ids}

    return batch


def warm(net: UNet, size: int, dtype: torch.dtype) -> None:
    """Compile the net for training batches, once around, while other stages run."""
    side = POCKET.defaults.height // POCKET.autoencoder.factor
    net.compile()
    x = torch.zeros(size, POCKET.unet.channels_in, side, side, device="cuda")
    context = torch.zeros(size, POCKET.text.positions, POCKET.text.width, device="cuda", requires_grad=True)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        out = net(x, torch.zeros(size, device="cuda"), context)
    torch.autograd.grad(out.float().square().sum(), [context, *net.parameters()])


def shuffled(number: int, count: int) -> int:
    """Which of `count` scenes sample `number` shows: an affine walk through all of them, another in each epoch."""
    epoch, place = divmod(number, count)
    stride = (2 * (7919 + 1_009 * epoch) + 1) % count
    while math.gcd(stride, count) > 1:
        stride += 1
    return (place * stride + 31 * epoch) % count


def export(place: Place) -> None:
    """Write `out`/model as the package carries it: averaged weights in float16, shards under 15 MiB, the word list."""
    out = place.out
    both = averaged(out / "unet", "unet")
    net, text = UNet(POCKET.unet).eval(), TextEncoder(POCKET.text).eval()
    net.load_state_dict(part(both, "0."))
    text.load_state_dict(part(both, "1."))
    table = vocabulary(WORLD)
    groups = {name: tuple(table.pop(name)) for name in ("subjects", "shapes", "colours", "backgrounds")}
    known = Vocabulary("pocket", groups, tuple(word for words_ in table.values() for word in words_))
    bundle = Bundle(net, trained_autoencoder(out), text, tokenizer(out), POCKET, "pocket", vocabulary=known)
    shutil.rmtree(out / "model", ignore_errors=True)
    save(bundle, out / "model", "native", dtype=torch.float16, shard_size=14 * 2**20)


RECIPES = {"alignment": alignment, "autoencoder": autoencoder, "unet": unet}
STAGES = {"words": words, "scenes": scenes, "latents": latents, "detector": detector, "export": export}


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, *RECIPES])
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"))
    parser.add_argument("--pool", type=Path, help="where the rendered scenes lie (20 GB), if not in OUT")
    parser.add_argument("--toy", action="store_true", help="a run of seconds, to see that it runs")
    parser.add_argument("--minutes", type=float, help="other than planned")
    parser.add_argument("--until", type=float, default=0.0, help="the Unix time at which the stage shall end")
    parser.add_argument("--pace", type=float, default=1.0, help="share of the planned minutes, for a trial run")
    parser.add_argument("--wait", action="store_true", help="wait for the stages that this one needs")
    parser.add_argument("--compile", action="store_true", help="compile the U-Net (CUDA)")
    given = parser.parse_args()
    device = machine()
    scale = TOY if given.toy else GPU if device.type == "cuda" else CPU
    minutes = given.minutes or given.pace * scale.minutes.get(given.stage, 0.0)
    place = Place(given.out, given.pool or given.out, device, scale, minutes, given.wait, given.until, given.compile)
    if given.stage in STAGES:
        STAGES[given.stage](place)
        return
    folder = given.out / given.stage
    (folder / FINISHED).unlink(missing_ok=True)
    train(RECIPES[given.stage](place), folder)
    files.write(folder / FINISHED, json.dumps({"minutes": minutes}))


if __name__ == "__main__":
    main()
