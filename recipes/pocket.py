"""The pocket model from nothing, on two CPU cores: `make pocket`, or stage by stage

    torchrun --standalone --nproc-per-node 2 -m recipes.pocket STAGE --out runs/pocket

STAGE      minutes   what comes out, and the number to expect
words            0   tokenizer: BPE of 1,024 entries from captions of the world
alignment       12   text encoder and image tower by contrast; `right` near 0.7 (batch of 64, half of them look-alikes)
autoencoder     22   KL autoencoder with perception and a patch critic; PSNR on held-out scenes near 29 dB
latents          5   60,000 scenes encoded once
unet            90   U-Net and text encoder, v-prediction; the gap between right and wrong words opens within 15 minutes
export           0   the weights as the package carries them: float16 in aquatint's native format

Every stage goes on from its last checkpoint when it is started again.
"""

import argparse
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from aquatint.base import files, images
from aquatint.base.noise import CROP, EPS, PRIOR, Noise
from aquatint.diffusion.denoisers import Conditioning, guided
from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import Level, NoiseSchedule
from aquatint.engines.plain import prepare
from aquatint.evaluation.metrics import psnr
from aquatint.families import POCKET, Family
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.critics import CriticConfig, PatchCritic, Perception
from aquatint.nets.text import ImageConfig, ImageTower, TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import UNet
from aquatint.pipelines.bundle import Bundle, save
from aquatint.pipelines.vocabulary import Vocabulary
from aquatint.training import parallel
from aquatint.training.data.captions import canonical, caption, vocabulary
from aquatint.training.data.latents import Latents, encode, pixels
from aquatint.training.data.render import render
from aquatint.training.data.scenes import WORDS, Draws, Scene, held_out
from aquatint.training.data.stream import Stream
from aquatint.training.data.world import SMALL
from aquatint.training.loop import train
from aquatint.training.objectives.autoencoder import Reconstruction, Weights, calm, settle
from aquatint.training.objectives.diffusion import Aim, Denoising
from aquatint.training.objectives.text import Alignment, Towers
from aquatint.training.recipe import Batch, Length, Moment, Optim, Recipe, Share
from aquatint.training.start import start
from aquatint.training.state import checkpoints, part, read

SEED = 2026
WORLD = SMALL
MIXED = {"single": 0.55, "placed": 0.2, "pair": 0.15, "count": 0.1}
TOWER = ImageConfig(size=128, patch=16, width=128, layers=4, heads=4, projection=128)
SCENES = 60_000  # encoded once; the U-Net sees each several times, under a new caption each time


def rows(moment: Moment, share: Share, size: int) -> range:
    """The numbers of our samples in this step's global batch."""
    own = size // share.world
    first = moment.step * size + share.rank * own
    return range(first, first + own)


def tokenizer(out: Path) -> Tokenizer:
    """The pocket's words, as the `words` stage left them."""
    return Tokenizer.from_folder(out / "tokenizer")


def words(out: Path) -> None:
    """Learn a byte-pair encoding from 20,000 captions."""
    stream = Stream(WORLD, SEED, kinds=MIXED)
    texts = [stream.caption(index) for index in range(20_000)]
    Tokenizer.train(texts, POCKET.text.vocabulary).save(out / "tokenizer")


def alignment(out: Path, minutes: float) -> Recipe:
    """CLIP alignment of captions and pictures; the U-Net then starts with words that mean something.

    Every other batch is of scenes that differ in little but the object. Without these, colours and backgrounds tell
    pictures apart well enough, the names of shapes stay synonyms, and the U-Net never hears them (docs/log.md).
    """
    words_, stream = tokenizer(out), Stream(WORLD, SEED + 1, kinds=MIXED)
    towers = Towers(TextEncoder(POCKET.text), ImageTower(TOWER))
    start(towers, SEED)

    def batch(moment: Moment, share: Share) -> Batch:
        numbers = rows(moment, share, 64)
        scenes = [stream.scene(number) for number in numbers]
        if moment.step % 2:
            scenes = [scene for first in range(0, len(scenes), 16) for scene in alike(scenes[first : first + 16])]
        said = [caption(s, Draws(SEED + 1, n, WORDS), 0.9, 0.0) for s, n in zip(scenes, numbers, strict=True)]
        return {"pixels": pixels(np.stack([render(scene) for scene in scenes])), "ids": words_(said)}

    optim = Optim(lr=1e-3, decay=0.05, warmup=100)
    return Recipe(
        "alignment", SEED, Alignment(towers), batch, Length(minutes=minutes), {"towers": optim}, (0.99,), batch_size=64
    )


def alike(scenes: list[Scene]) -> list[Scene]:
    """The scenes in one colour on one background, the first shape's; what would be held out stays as it was."""
    coloured = [scene for scene in scenes if scene.things[0].colour]
    if not coloured:
        return scenes
    colour, background = coloured[0].things[0].colour, coloured[0].background
    changed = []
    for scene in scenes:
        things = tuple(replace(thing, colour=colour if thing.colour else None) for thing in scene.things)
        made = replace(scene, things=things, background=background)
        changed.append(scene if held_out(made) else made)
    return changed


def autoencoder(out: Path, minutes: float) -> Recipe:
    """The autoencoder: small crops first (many gradients a second), whole pictures from 60 %, the critic from 70 %."""
    net, critic = Autoencoder(POCKET.autoencoder), PatchCritic(CriticConfig(widths=(24, 48, 96), groups=8))
    start(net, SEED + 2)
    start(critic, SEED + 3)
    calm(net)
    prepare(net)
    tower = ImageTower(TOWER)
    tower.load_state_dict(part(averaged(out / "alignment", "towers"), "image."))
    stream = Stream(WORLD, SEED + 2, kinds=MIXED)

    def batch(moment: Moment, share: Share) -> Batch:
        side, count = (32, 64) if moment.progress < 0.25 else (64, 16) if moment.progress < 0.6 else (128, 8)
        own = count // share.world
        numbers = rows(moment, share, 64)[:own]
        whole = pixels(stream.batch(numbers)[0])
        corners = Noise([SEED] * own, numbers).integers((2,), WORLD.canvas - side + 1, draw=CROP).tolist()
        return {
            "pixels": torch.stack([p[:, y : y + side, x : x + side] for p, (y, x) in zip(whole, corners, strict=True)])
        }

    held = pixels(Stream(WORLD, SEED + 99, kinds=MIXED).batch(range(48))[0])

    @torch.no_grad()
    def watch(moment: Moment, averaged: Mapping[str, nn.Module], folder: Path) -> Mapping[str, float]:
        model = averaged["autoencoder"]
        assert isinstance(model, Autoencoder)
        painted = model.decode(model.encode(held)).clamp(-1, 1)
        sheet(torch.cat([held[:16], painted[:16]]), folder / "sheet.png", 8)
        pair = (images.to_bytes(x).permute(0, 2, 3, 1).contiguous().numpy() for x in (held, painted))
        return {"psnr": psnr(*pair).mean().item()}

    objective = Reconstruction(net, critic, Weights(start=0.7, critic=0.3), Perception(tower), TOWER.size)
    optims = {
        "autoencoder": Optim(lr=1e-3, decay=0.0, betas=(0.9, 0.99), warmup=100, hold=0.4, final=0.02, clip=0.5),
        "critic": Optim(lr=5e-4, decay=0.0, betas=(0.5, 0.9), warmup=50),
    }
    return Recipe(
        "autoencoder",
        SEED + 2,
        objective,
        batch,
        Length(minutes=minutes),
        optims,
        (0.999,),
        batch_size=64,
        watch=watch,
        watch_minutes=4.0,
    )


def latents(out: Path) -> None:
    """Encode the scenes once, with every latent channel brought to zero mean and unit deviation."""
    share = parallel.join()
    (out / "latents.json").unlink(missing_ok=True)
    net = trained_autoencoder(out)
    each = SCENES // share.world
    encoded = encode(net, Stream(WORLD, SEED + 4), range(share.rank * each, (share.rank + 1) * each))
    means, deviations = (parallel.gather(column) for column in encoded)
    if share.rank == 0:
        centre = means.mean(dim=(0, 2, 3))
        width = (means.var(dim=(0, 2, 3)) + deviations.square().mean(dim=(0, 2, 3))).sqrt()
        shape = (1, -1, 1, 1)
        cache = Latents((means - centre.view(shape)) / width.view(shape), deviations / width.view(shape))
        cache.save(out / "latents.safetensors")
        files.write(out / "latents.json", json.dumps({"mean": centre.tolist(), "deviation": width.tolist()}))


def trained_autoencoder(out: Path) -> Autoencoder:
    """The autoencoder as its stage left it, settled if the `latents` stage has run."""
    net = Autoencoder(POCKET.autoencoder).eval().requires_grad_(False)
    net.load_state_dict(averaged(out / "autoencoder", "autoencoder"))
    if (out / "latents.json").exists():
        found = json.loads((out / "latents.json").read_text())
        settle(net, torch.tensor(found["mean"]), torch.tensor(found["deviation"]))
    prepare(net)
    return net


def trained_text(out: Path) -> TextEncoder:
    """The text encoder as alignment left it."""
    text = TextEncoder(POCKET.text)
    text.load_state_dict(part(averaged(out / "alignment", "towers"), "text."))
    return text.eval()


def unet(out: Path, minutes: float) -> Recipe:
    """The U-Net: v-prediction on a zero-terminal schedule, min-SNR 5, noisy times preferred.

    The text encoder learns on with it: alignment told subjects and colours apart but hardly shapes, and a U-Net over a
    frozen one never heard their names (docs/log.md has the measurements).
    """
    words_, text, cache = tokenizer(out), trained_text(out), Latents.load(out / "latents.safetensors")
    net = UNet(POCKET.unet)
    start(net, SEED + 5)
    prepare(net)
    scenes = Stream(WORLD, SEED + 4)
    size = 48

    def batch(moment: Moment, share: Share) -> Batch:
        numbers = rows(moment, share, size)
        chosen = [shuffled(number, len(cache.means)) for number in numbers]
        captions = [caption(scenes.scene(c), Draws(SEED + 6, n, WORDS)) for c, n in zip(chosen, numbers, strict=True)]
        noise = Noise([SEED + 4] * len(numbers), numbers)
        return {"latents": cache.draw(torch.tensor(chosen), noise), "ids": words_(captions)}

    objective = Denoising(net, text, NoiseSchedule(POCKET.schedule), Aim("v", snr_cap=5.0, late=0.3), frozen=False)
    judge = Watch(words_, trained_autoencoder(out))
    return Recipe(
        "unet", SEED + 5, objective, batch, Length(minutes=minutes),
        {"unet": Optim(lr=1.2e-3, decay=0.01, warmup=100, hold=0.5, final=0.03)},
        (0.99, 0.999), batch_size=size, watch=judge.unet, watch_minutes=4.0,
    )  # fmt: skip


def shuffled(number: int, count: int) -> int:
    """Which of `count` scenes sample `number` shows: an affine walk through all of them, another in each epoch."""
    epoch, place = divmod(number, count)
    stride = (2 * (7919 + 1_009 * epoch) + 1) % count
    while math.gcd(stride, count) > 1:
        stride += 1
    return (place * stride + 31 * epoch) % count


def other_word(scene: Scene) -> Scene:
    """The scene with the next subject in its subject's place, or the next shape in its shape's."""
    thing = scene.things[0]
    names = WORLD.shapes if thing.colour else tuple(WORLD.subjects)
    word = names[(names.index(thing.word) + 1) % len(names)]
    return replace(scene, things=(replace(thing, word=word), *scene.things[1:]))


class Watch:
    """What is looked at while the U-Net learns: whether it uses the words, and a sheet of pictures."""

    def __init__(self, words_: Tokenizer, decoder: Autoencoder) -> None:
        self.words, self.decoder = words_, decoder
        self.schedule = NoiseSchedule(POCKET.schedule)
        known = Stream(WORLD, SEED + 98)
        self.scenes = [known.scene(index) for index in range(96)]
        pictures = np.stack([known.batch([index])[0][0] for index in range(96)])
        with torch.no_grad():
            self.latents = decoder.encode(pixels(pictures))

    @torch.no_grad()
    def unet(self, moment: Moment, averaged: Mapping[str, nn.Module], folder: Path) -> Mapping[str, float]:
        """Errors at t = 900 of subjects and of shapes, under the right caption, one with another of their words, and
        one with another background; and sheet.png. A word whose change does not matter is a word that is not heard."""
        net, text = averaged["unet"].children()
        assert isinstance(net, UNet)
        assert isinstance(text, TextEncoder)
        self.sheet(net, text, folder / "sheet.png")
        task = Denoising(net, text, self.schedule, Aim("v"))
        level, count = self.schedule.at(900), len(self.scenes)
        eps = Noise([SEED] * count, range(count)).normal(tuple(self.latents.shape[1:]), draw=EPS)
        column = torch.ones(count, 1, 1, 1)
        levels = Level(column * level.alpha, column * level.sigma, column * level.t)
        others = [self.scenes[(i + 1) % count].background for i in range(count)]
        versions = {
            "": self.scenes,
            ", wrong word": [other_word(scene) for scene in self.scenes],
            ", wrong back": [replace(s, background=back) for s, back in zip(self.scenes, others, strict=True)],
        }
        shapes = torch.tensor([scene.things[0].colour is not None for scene in self.scenes])
        found: dict[str, float] = {}
        for name, scenes in versions.items():
            errors = task.errors(self.latents, eps, levels, self.words([canonical(scene) for scene in scenes]))
            found |= {f"subject{name}": errors[~shapes].mean().item(), f"shape{name}": errors[shapes].mean().item()}
        return found

    def sheet(self, net: UNet, text: TextEncoder, path: Path, count: int = 24) -> None:
        """Paint the first scenes' captions with the family's defaults."""
        prompts = [canonical(s) for s in self.scenes[:count]]
        painted = paint(POCKET, net, text, self.words, self.decoder, prompts, range(count))
        sheet(painted, path, 8)
        files.write(path.with_suffix(".txt"), "\n".join(prompts) + "\n")


@torch.no_grad()
def paint(
    family: Family,
    net: UNet,
    text: TextEncoder,
    words_: Tokenizer,
    decoder: Autoencoder,
    prompts: list[str],
    seeds: range,
) -> Tensor:
    """Pictures [n, 3, h, w] for prompts, all in one batch (quick, and not bit-equal to painting each alone)."""
    defaults, schedule = family.defaults, NoiseSchedule(family.schedule)
    noise, levels = Noise(list(seeds)), GRIDS[defaults.grid](schedule, defaults.steps)
    cond, negative = (Conditioning(text(words_(p)).tokens) for p in (prompts, [""] * len(prompts)))
    denoise = guided(net, PREDICTIONS[family.prediction], cond, negative, defaults.guidance, defaults.rescale)
    side = family.autoencoder.factor
    eps = noise.normal((family.unet.channels_out, defaults.height // side, defaults.width // side), draw=PRIOR)
    *_, last = SAMPLERS[defaults.sampler](denoise, schedule.prior(levels[0], eps), levels, noise)
    return decoder.decode(last.x).clamp(-1, 1)


def averaged(folder: Path, player: str) -> dict[str, Tensor]:
    """The longest average of a player's weights in a run's last checkpoint."""
    _, tensors = read(checkpoints(folder)[-1])
    decays = {key.split("/")[2] for key in tensors if key.startswith(f"{player}/average/")}
    return part(tensors, f"{player}/average/{max(decays, key=float)}/")


def sheet(pictures: Tensor, path: Path, columns: int) -> None:
    """Pictures [n, 3, h, w] side by side in a PNG."""
    images.sheet(images.to_pictures(pictures.clamp(-1, 1)), columns).save(path)


def export(out: Path) -> None:
    """Write `out`/model as the package carries it: averaged weights in float16, shards under 15 MiB, the word list."""
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
MINUTES = {"alignment": 12.0, "autoencoder": 22.0, "unet": 90.0}


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["words", *RECIPES, "latents", "export"])
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"))
    parser.add_argument("--minutes", type=float, help="other than planned")
    parser.add_argument("--pace", type=float, default=1.0, help="share of the planned minutes, for a trial run")
    given = parser.parse_args()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // parallel.join().world))
    if given.stage in RECIPES:
        minutes = given.minutes or given.pace * MINUTES[given.stage]
        train(RECIPES[given.stage](given.out, minutes), given.out / given.stage)
    else:
        {"words": words, "latents": latents, "export": export}[given.stage](given.out)


if __name__ == "__main__":
    main()
