"""Stable Diffusion from nothing, on pictures of one's own: three runs, and a model of them.

    aquatint data prepare pictures/ --out set
    aquatint train recipes/stable.py:alignment   --set data=set --out runs/stable/alignment
    aquatint train recipes/stable.py:autoencoder --set data=set --out runs/stable/autoencoder
    aquatint train recipes/stable.py:unet        --set data=set --out runs/stable/unet
    python recipes/stable.py runs/stable my-model
    aquatint generate "..." --model my-model

Each takes `--set NAME=VALUE` for the fields of its settings (`--dry-run` prints them), and torchrun for several
processes and machines (docs/scaling.md). The usual values are those of the papers: days on many GPUs. The carried model
came out of the same loop in minutes, in a world of its own (recipes/pocket.py).
"""

import argparse
import atexit
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from aquatint.base import config, files
from aquatint.base.errors import UserError, unknown
from aquatint.base.noise import POSTERIOR, Noise
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.engines.plain import prepare
from aquatint.families import FAMILIES, Family
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.critics import CriticConfig, PatchCritic, Perception
from aquatint.nets.text import ImageConfig, ImageTower, TextConfig, TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import UNet
from aquatint.pipelines.bundle import Bundle, save
from aquatint.training import parallel
from aquatint.training.data.buckets import Shape
from aquatint.training.data.cache import Cache
from aquatint.training.data.loader import Loader, latents_key
from aquatint.training.data.prepared import Prepared
from aquatint.training.data.wording import Wording
from aquatint.training.objectives.autoencoder import Reconstruction, Weights, settle
from aquatint.training.objectives.diffusion import Aim, Denoising
from aquatint.training.objectives.text import Alignment, Towers
from aquatint.training.recipe import Batch, Length, Moment, Optim, Recipe, Share
from aquatint.training.start import start
from aquatint.training.state import averaged, digest_of, part

MEASURED = 32  # batches by which the latents' centre and width are measured
SETTLED = "settled.json"  # what was measured, beside the runs


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all three runs have.

    data      the folder that `aquatint data prepare` wrote;   runs: where the other runs lie, by their names
    family    of which the model shall be: one with one text encoder
    tokenizer a folder with another tokenizer than CLIP's
    size      pixels a side;   batch: samples a step, over all processes;   parts: pieces that it is cut into
    workers   threads of each process that read pictures ahead
    """

    data: str = ""
    runs: str = "runs/stable"
    family: str = "SD15"
    tokenizer: str = ""
    size: int = 256
    batch: int = 256
    parts: int = 1
    steps: int = 100_000
    seed: int = 0
    workers: int = 4
    dtype: str = "float32"
    log_steps: int = 50
    average: float = 0.9999
    optim: Optim = field(default_factory=Optim)

    def row(self) -> Family:
        """The family; UserError for one that this does not train."""
        if self.family not in FAMILIES:
            raise unknown("family", self.family, FAMILIES)
        family = FAMILIES[self.family]
        if family.text2 is not None or family.micro or family.sees != "nothing" or family.unet.guidance:
            raise UserError(f"{family.name} is not trained from nothing here.", "SD15, SD21, SD21_V, POCKET, TINY.")
        return family

    def words(self) -> Tokenizer:
        """The tokenizer; UserError for one of another number of tokens than the family's."""
        pad = self.row().text.pad
        found = Tokenizer.from_folder(self.tokenizer, pad=pad) if self.tokenizer else Tokenizer.packaged(pad=pad)
        if len(found.table) != self.row().text.vocabulary:
            raise UserError(
                f"A tokenizer of {len(found.table):,} tokens for {self.family}.",
                f"{self.row().text.vocabulary:,}.",
                "Name its folder: --set tokenizer=FOLDER.",
            )
        return found

    def loader(self, *, crop: bool, flip: bool, silent: float = 0.0) -> Loader:
        """The training pictures, as squares."""
        if not self.data:
            raise UserError("No pictures to learn from.", "--set data=FOLDER, which `aquatint data prepare` wrote.")
        return Loader(
            Prepared(self.data), [Shape(self.size, self.size)], batch=self.batch, seed=self.seed,
            wording=Wording(silent=silent), crop=crop, flip=flip, workers=self.workers,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Aligning(Settings):
    """CLIP's alignment (Radford et al. 2021, table 18 for ViT-B/32); `tower` looks at the pictures, of its own size."""

    size: int = 224
    tower: ImageConfig = field(default_factory=ImageConfig)
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-4, betas=(0.9, 0.98), eps=1e-6, decay=0.2, warmup=2000))


@dataclass(frozen=True, kw_only=True)
class Compressing(Settings):
    """The autoencoder (Rombach et al. 2022, appendix G); `perceived`: whether the aligned tower judges likeness too."""

    batch: int = 12
    perceived: bool = True
    tower: ImageConfig = field(default_factory=ImageConfig)
    weights: Weights = field(default_factory=lambda: Weights(start=0.3))
    critic: CriticConfig = field(default_factory=CriticConfig)
    average: float = 0.999
    optim: Optim = field(default_factory=lambda: Optim(lr=5.4e-5, betas=(0.5, 0.9), decay=0.0, warmup=1000, hold=1.0))


@dataclass(frozen=True, kw_only=True)
class Painting(Settings):
    """The U-Net (Rombach et al. 2022; rate and warm-up of Stable Diffusion v1's card).

    silent   share of the samples without words
    cache    a folder where what the encoder makes is kept for the next epoch and run; "": it is made each time
    """

    size: int = 512
    batch: int = 2048
    silent: float = 0.1
    cache: str = ""
    aim: Aim = field(default_factory=Aim)
    optim: Optim = field(
        default_factory=lambda: Optim(lr=1e-4, betas=(0.9, 0.999), decay=0.01, warmup=10_000, hold=1.0)
    )


def alignment(settings: Aligning) -> Recipe:
    """Text encoder and image tower by contrast over the global batch."""
    family, words, tower = settings.row(), settings.words(), settings.tower
    if settings.size != tower.size:
        raise UserError(f"size = {settings.size}, tower.size = {tower.size}.", "The same.")
    towers = Towers(TextEncoder(projected(family.text, tower)), ImageTower(tower))
    start(towers, settings.seed)
    loader = settings.loader(crop=True, flip=False)

    def batch(moment: Moment, share: Share) -> Batch:
        found = loader.batch(moment, share)
        return {"pixels": found["pixels"], "ids": words(found["captions"])}

    return made("alignment", settings, Alignment(towers), batch, {"towers": settings.optim})


def autoencoder(settings: Compressing) -> Recipe:
    """The autoencoder against its critic, on cuts of pictures."""
    net, critic = Autoencoder(settings.row().autoencoder), PatchCritic(settings.critic)
    start(net, settings.seed + 1)
    start(critic, settings.seed + 2)
    prepare(net)
    perception = None
    if settings.perceived:
        if settings.size % settings.tower.size:
            raise UserError(f"size = {settings.size}.", f"A multiple of the tower's {settings.tower.size}.")
        perception = Perception(tower_of(settings)).to(parallel.device())
    loader = settings.loader(crop=True, flip=True)
    objective = Reconstruction(net, critic, settings.weights, perception, settings.size)

    def batch(moment: Moment, share: Share) -> Batch:
        return {"pixels": loader.batch(moment, share)["pixels"]}

    return made("autoencoder", settings, objective, batch, dict.fromkeys(("autoencoder", "critic"), settings.optim))


def unet(settings: Painting) -> Recipe:
    """The U-Net on latents, told by the aligned text encoder, both as they are."""
    family, words, device = settings.row(), settings.words(), parallel.device()
    net = UNet(family.unet)
    start(net, settings.seed + 3)
    prepare(net)
    text, encoder = text_of(settings).to(device), encoder_of(settings).to(device)
    loader, scale = settings.loader(crop=False, flip=True, silent=settings.silent), family.autoencoder.scale

    cache = None
    if settings.cache:
        cache = Cache(
            settings.cache, digest_of("", {name: tensor.cpu() for name, tensor in encoder.state_dict().items()})
        )
        atexit.register(cache.flush)

    def encoded(found: Batch) -> Tensor:
        """Means and deviations, [b, 2, c, h, w]; what is kept is made picture by picture, so that no other counts."""

        def moments(pixels: Tensor) -> Tensor:
            posterior = encoder.posterior(pixels.to(device))
            return torch.stack([posterior.mean, torch.exp(0.5 * posterior.log_variance)], dim=1)

        def make(places: list[int]) -> list[Tensor]:
            return [moments(found["pixels"][place : place + 1])[0] for place in places]

        if cache is None:
            return moments(found["pixels"])
        shape = Shape(settings.size, settings.size)
        names = [
            latents_key(sha, shape, turned) for sha, turned in zip(found["sha256"], found["mirrored"], strict=True)
        ]
        return torch.stack(cache.remembered(names, make))

    @torch.no_grad()
    def batch(moment: Moment, share: Share) -> Batch:
        found = loader.batch(moment, share)
        count = len(found["captions"])
        first = moment.step * settings.batch + share.rank * count
        mean, deviation = encoded(found).to(device).unbind(1)
        noise = Noise([settings.seed] * count, range(first, first + count))
        eps = noise.normal(tuple(mean.shape[1:]), draw=POSTERIOR, device=device)
        return {"latents": (mean + deviation * eps) * scale, "ids": words(found["captions"]).to(device)}

    aim = replace(settings.aim, prediction=family.prediction)
    objective = Denoising(net, text, NoiseSchedule(family.schedule), aim)
    return made("unet", settings, objective, batch, {"unet": settings.optim})


def made(
    name: str,
    settings: Settings,
    objective: Alignment | Reconstruction | Denoising,
    batch: Callable[[Moment, Share], Batch],
    optim: dict[str, Optim],
) -> Recipe:
    """The recipe with what all three have in common."""
    told = {
        key: value for key, value in config.to_data(settings).items() if key not in ("steps", "workers", "log_steps")
    }
    return Recipe(
        name, settings.seed, objective, batch, Length(steps=settings.steps), optim, (settings.average,),
        batch_size=settings.batch, parts=settings.parts, log_steps=settings.log_steps, device=parallel.device(),
        dtype=settings.dtype, facts={"settings": told},
    )  # fmt: skip


def projected(text: TextConfig, tower: ImageConfig) -> TextConfig:
    """The text encoder while it is aligned: with the projection into the space of both."""
    return replace(text, projection=text.projection or tower.projection)


def tower_of(settings: Compressing) -> ImageTower:
    """The image tower that alignment left."""
    tower = ImageTower(settings.tower)
    tower.load_state_dict(part(averaged(Path(settings.runs) / "alignment", "towers"), "image."))
    return tower


def text_of(settings: Settings) -> TextEncoder:
    """The text encoder that alignment left, as the family has it."""
    text = TextEncoder(settings.row().text)
    found = part(averaged(Path(settings.runs) / "alignment", "towers"), "text.")
    text.load_state_dict({name: found[name] for name in text.state_dict()})
    return text.eval().requires_grad_(False)


@torch.no_grad()
def encoder_of(settings: Settings) -> Autoencoder:
    """The autoencoder that its run left, its latents of the width that the family's scale promises.

    Every channel's centre and width are measured once, over some batches, and kept beside the runs; both are folded
    into the 1x1 convolutions, so that latents times the scale have mean 0 and deviation 1 (docs/decisions/003).
    """
    family, path = settings.row(), Path(settings.runs) / SETTLED
    net = Autoencoder(family.autoencoder).eval().requires_grad_(False)
    net.load_state_dict(averaged(Path(settings.runs) / "autoencoder", "autoencoder"))
    if not path.exists():
        sums = [torch.zeros(family.autoencoder.latents, dtype=torch.float64) for _ in range(2)]
        with settings.loader(crop=False, flip=False) as loader:
            count = min(MEASURED, max(1, len(loader.data) // settings.batch))
            for step in range(count):
                latents = net.posterior(loader.batch(Moment(step, 0.0))["pixels"]).mean.double()
                sums = [
                    total + value.mean(dim=(0, 2, 3)) for total, value in zip(sums, (latents, latents**2), strict=True)
                ]
        centre, square = (total / count for total in sums)
        width = (square - centre**2).clamp(min=1e-12).sqrt()
        if parallel.share().rank == 0:
            files.write(path, json.dumps({"mean": centre.tolist(), "deviation": width.tolist()}))
    else:
        found = files.read_json(path)
        centre, width = (torch.tensor(found[name], dtype=torch.float64) for name in ("mean", "deviation"))
    settle(net, centre.float(), (width * family.autoencoder.scale).float())
    prepare(net)
    return net


def export(runs: Path, target: Path, format: str) -> Path:
    """The three runs' averaged nets as a model, in any format that `aquatint convert` writes."""
    told = files.read_json(runs / "unet" / "run.json")["settings"]
    settings = replace(config.from_data(Painting, {"steps": 1, **told}), runs=str(runs))
    family, net = settings.row(), UNet(settings.row().unet).eval()
    net.load_state_dict(averaged(runs / "unet", "unet"))
    bundle = Bundle(net, encoder_of(settings), text_of(settings), settings.words(), family, target.name)
    return save(bundle, target, format)


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--format", default="native", help="native, diffusers or compvis")
    given = parser.parse_args()
    print(export(given.runs, given.target, given.format))


if __name__ == "__main__":
    main()
