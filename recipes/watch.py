"""What is looked at while a pocket model learns: whether it hears the words, and what it paints."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import torch
from torch import Tensor, nn

from aquatint.base import files, images
from aquatint.base.noise import EPS, PRIOR, Noise
from aquatint.diffusion.denoisers import Conditioning, guided
from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.diffusion.schedule import Level, NoiseSchedule
from aquatint.families import Family
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.text import TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import UNet
from aquatint.training.data.captions import canonical
from aquatint.training.data.latents import pixels
from aquatint.training.data.scenes import Scene
from aquatint.training.data.stream import Stream
from aquatint.training.objectives.diffusion import Aim, Denoising
from aquatint.training.recipe import Moment


def other_word(scene: Scene) -> Scene:
    """The scene with the next subject in its subject's place, or the next shape in its shape's."""
    thing = scene.things[0]
    world = scene.world
    names = world.shapes if thing.colour else tuple(world.subjects)
    word = names[(names.index(thing.word) + 1) % len(names)]
    return replace(scene, things=(replace(thing, word=word), *scene.things[1:]))


class Probe:
    """96 scenes and their latents: how well a net does under captions for these, or for others."""

    def __init__(self, stream: Stream, numbers: Sequence[int], words: Tokenizer, decoder: Autoencoder) -> None:
        self.scenes, self.words, self.seed = [stream.scene(number) for number in numbers], words, stream.seed
        self.device = next(decoder.parameters()).device
        with torch.no_grad():
            self.latents = decoder.encode(pixels(stream.batch(numbers)[0]).to(self.device))

    def errors(self, task: Denoising, told: Sequence[Scene], time: int = 900) -> Tensor:
        """The v-errors at a time when the net is told that it sees these scenes: float32 [n], on the CPU."""
        level, count = task.schedule.at(time), len(self.scenes)
        shape = tuple(self.latents.shape[1:])
        eps = Noise([self.seed] * count, range(count)).normal(shape, draw=EPS, device=self.device)
        column = torch.ones(count, 1, 1, 1, device=self.device)
        levels = Level(column * level.alpha, column * level.sigma, column * level.t)
        ids = self.words([canonical(scene) for scene in told]).to(self.device)
        return task.errors(self.latents, eps, levels, {"ids": ids}).cpu()


class Watch:
    """What is looked at while the U-Net learns: whether it uses the words, and a sheet of pictures."""

    def __init__(
        self, family: Family, stream: Stream, words: Tokenizer, decoder: Autoencoder, device: torch.device
    ) -> None:
        self.family, self.words, self.decoder, self.device = family, words, decoder, device
        self.all = Probe(stream, range(96), words, decoder)
        pairs = replace(stream, kinds={"pair": 1.0})
        ordered = (number for number in count() if pairs.scene(number).relation != "next to")
        self.pairs = Probe(pairs, list(islice(ordered, 96)), words, decoder)

    @torch.no_grad()
    def unet(self, moment: Moment, averaged: Mapping[str, nn.Module], folder: Path) -> Mapping[str, float]:
        """Errors at t = 900 of subjects and of shapes, under the right caption, one with another of their words, and
        one with another background; of pairs, under the right caption and with the two exchanged; and sheet.png. A
        word whose change does not matter is a word that is not heard."""
        net, text = averaged["unet"].children()
        assert isinstance(net, UNet)
        assert isinstance(text, TextEncoder)
        self.sheet(net, text, folder / "sheet.png")
        task, scenes = Denoising(net, text, NoiseSchedule(self.family.schedule), Aim("v")), self.all.scenes
        others = [*scenes[1:], scenes[0]]
        versions = {
            "": scenes,
            ", wrong word": [other_word(scene) for scene in scenes],
            ", wrong back": [replace(s, background=o.background) for s, o in zip(scenes, others, strict=True)],
        }
        shapes = torch.tensor([scene.things[0].colour is not None for scene in scenes])
        found: dict[str, float] = {}
        for name, told in versions.items():
            errors = self.all.errors(task, told)
            found |= {f"subject{name}": errors[~shapes].mean().item(), f"shape{name}": errors[shapes].mean().item()}
        exchanged = [replace(scene, things=scene.things[::-1]) for scene in self.pairs.scenes]
        for name, told in {"": self.pairs.scenes, ", exchanged": exchanged}.items():
            found[f"pair{name}"] = self.pairs.errors(task, told).mean().item()
        return found

    def sheet(self, net: UNet, text: TextEncoder, path: Path, number: int = 24) -> None:
        """Paint the first scenes' captions with the family's defaults."""
        prompts = [canonical(scene) for scene in self.all.scenes[:number]]
        painted = paint(self.family, net, text, self.words, self.decoder, prompts, range(number))
        sheet(painted, path, 8)
        files.write(path.with_suffix(".txt"), "\n".join(prompts) + "\n")


@torch.no_grad()
def paint(
    family: Family,
    net: UNet,
    text: TextEncoder,
    words: Tokenizer,
    decoder: Autoencoder,
    prompts: list[str],
    seeds: range,
) -> Tensor:
    """Pictures [n, 3, h, w] for prompts, all in one batch (quick, and not bit-equal to painting each alone)."""
    defaults, schedule = family.defaults, NoiseSchedule(family.schedule)
    device = next(net.parameters()).device
    noise, levels = Noise(list(seeds)), GRIDS[defaults.grid](schedule, defaults.steps)
    cond, negative = (Conditioning(text(words(p).to(device)).tokens) for p in (prompts, [""] * len(prompts)))
    denoise = guided(net, PREDICTIONS[family.prediction], cond, negative, defaults.guidance, defaults.rescale)
    side = family.autoencoder.factor
    eps = noise.normal(
        (family.unet.channels_out, defaults.height // side, defaults.width // side), draw=PRIOR, device=device
    )
    *_, last = SAMPLERS[defaults.sampler](denoise, schedule.prior(levels[0], eps), levels, noise)
    return decoder.decode(last.x).clamp(-1, 1)


def sheet(pictures: Tensor, path: Path, columns: int) -> None:
    """Pictures [n, 3, h, w] side by side in a PNG."""
    images.sheet(images.to_pictures(pictures.float().clamp(-1, 1).cpu()), columns).save(path)
