"""What all kinds of fine-tuning share: the model, the settings, how it is told of pictures, and batches of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.families import AESTHETIC, MICRO_WIDTH, SIZES, Family
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.blocks import sinusoids
from aquatint.nets.text import EncodedText, TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import UNet
from aquatint.training.data.buckets import Plan, Shape, shapes
from aquatint.training.data.examples import MOST_CHUNKS, Hinter, Taught, encode, written
from aquatint.training.data.folder import read
from aquatint.training.data.holes import hidden, holes
from aquatint.training.objectives.diffusion import Aim, Denoising, Tell
from aquatint.training.recipe import Batch, Length, Moment, Optim, Recipe, Share
from aquatint.training.validation import by_time

FREE = ("steps", "held", "look", "recompute")  # settings that may be others when a run goes on
REFINED = 200  # the times that Stable Diffusion XL's refiner is for (Podell et al. 2023, section 2.5)
PHRASES = (  # what a picture of a new word is called, where it has no caption
    "a photo of {}",
    "a close view of {}",
    "a picture of {}",
    "a good photo of {}",
    "a rendering of {}",
    "a small picture of {}",
    "one {} in a picture",
    "{} in the middle of a photo",
)


@runtime_checkable  # for the tests, which check every annotation
class Model(Protocol):
    """What is tuned: weights.Opened and pipelines.Bundle are such."""

    @property
    def family(self) -> Family: ...
    @property
    def unet(self) -> UNet: ...
    @property
    def autoencoder(self) -> Autoencoder: ...
    @property
    def text(self) -> TextEncoder: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def text2(self) -> TextEncoder | None: ...
    @property
    def tokenizer2(self) -> Tokenizer | None: ...


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What all kinds of fine-tuning take.

    data           a folder of pictures (training/data/folder.py)
    words          the caption of pictures that have none
    prior          a folder of pictures of the class, which half of each batch shows;  prior_words: their caption
    prior_weight   how much these count
    size           pixels a side; the model's own if None         flip    whether pictures are mirrored by chance
    buckets        whether pictures keep about their shapes, each batch being of one (data/buckets.py), with at most
                   size x size pixels; else all are squares
    chunks         of 75 tokens that a caption may have
    steps, batch   how long, and how many samples a step
    parts          into how many pieces a batch is cut, one after the other: accumulation, memory for one (Recipe.parts)
    silent         share of the samples without a caption, for classifier-free guidance
    unseen         the same without the picture, for a model that is shown one (InstructPix2Pix); half of the rarer kind
                   lack both (data/beside.py)
    average        decay of the running average that is kept (Average in training/optim.py)
    held           a folder of pictures that are not learned from: their errors are logged by time (validation.py)
    look           after how many steps one looks: at these errors, and from the command line at the prompts; 0: at the
                   end only
    recompute      whether blocks are computed again on the way back (recompute.py): less memory, a third more time
    compile        whether torch.compile works on the U-Net first (minutes, and then other bits)
    aesthetic      how beautiful the pictures are, which Stable Diffusion XL's refiner is told
    aim            what counts, and what noise is; the prediction is the model's, and so is `until` where it is 0: the
                   refiner learns the first 200 times, every other net all
    """

    data: str
    words: str = ""
    prior: str = ""
    prior_words: str = ""
    prior_weight: float = 1.0
    size: int | None = None
    flip: bool = True
    buckets: bool = False
    chunks: int = 3
    steps: int = 400
    batch: int = 4
    parts: int = 1
    seed: int = 0
    silent: float = 0.1
    unseen: float = 0.1
    average: float = 0.98
    held: str = ""
    look: int = 0
    recompute: bool = False
    compile: bool = False
    aesthetic: float = 6.0
    dtype: str = "float32"
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-4, betas=(0.9, 0.999), warmup=20, hold=0.5, final=0.1))
    aim: Aim = field(default_factory=Aim)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, 10_000_000),
            ("batch", 1, 4096),
            ("parts", 1, 4096),
            ("seed", 0, 2**64 - 1),
            ("chunks", 1, MOST_CHUNKS),
            ("look", 0, 10_000_000),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} = {getattr(self, name)}.", f"A whole number from {low} to {high:,}.")
        for name, most in (
            ("silent", 1.0),
            ("unseen", 1.0),
            ("average", 0.99999),
            ("prior_weight", 100.0),
            ("aesthetic", 10.0),
        ):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"{name} = {getattr(self, name):g}.", f"0 to {most:g}.")
        if self.size is not None and (self.size % 64 or not 64 <= self.size <= 4096):
            raise UserError(f"size = {self.size}.", "A multiple of 64, from 64 to 4096.")
        if self.buckets and self.prior:
            raise UserError("buckets with a prior, which shares each batch.", "One of them.", "Take squares.")
        if self.recompute and self.compile:
            raise UserError("recompute and compile together.", "One of them.", "compile recomputes what it likes to.")
        if self.prior and self.batch % 2:
            raise UserError(f"batch = {self.batch} with a prior, which takes half of it.", "An even number.")
        if (self.prior_words and not self.prior) or (self.prior and not self.prior_words):
            raise UserError("Of prior and prior_words one is missing.", "Both, or neither.")


@dataclass(frozen=True)
class Subject:
    """What is learned of the pictures beside what they show: a word with its vectors, or hints that a maker gives."""

    word: str = ""
    vectors: int = 0
    hinted: bool = False
    hinter: Hinter | None = None


def texts(model: Model) -> dict[str, TextEncoder]:
    """The text encoders by the names of their parts."""
    return {"text": model.text} if model.text2 is None else {"text": model.text, "text2": model.text2}


def tokenizers(model: Model) -> list[Tokenizer]:
    """Of the text encoders, in their order."""
    return [model.tokenizer] if model.tokenizer2 is None else [model.tokenizer, model.tokenizer2]


def teller(encoders: Sequence[nn.Module], learner: nn.ParameterList | None = None) -> Tell:
    """How a batch is put into words: every encoder's tokens side by side; the last one's pooled vector, with the cuts.

    learner   a word's vectors for each encoder, where they are to stand for "slots"
    """

    def tell(batch: Batch) -> EncodedText:
        tokens, pooled = [], None
        for index, text in enumerate(encoders):
            assert isinstance(text, TextEncoder)
            ids, slots = (_apart(batch, f"{name}{index + 1 if index else ''}", text) for name in ("ids", "slots"))
            words = None
            if learner is not None:
                own = text.words(ids)
                words = torch.where((slots >= 0)[..., None], learner[index][slots.clamp(min=0)].to(own.dtype), own)
            said, samples = text(ids, words=words), len(batch["latents"])
            tokens.append(said.tokens.reshape(samples, -1, said.tokens.shape[-1]))
            pooled = said.pooled.reshape(samples, -1, said.pooled.shape[-1])[:, 0]  # of the first chunk
        assert pooled is not None, "there is a text encoder"
        cuts = batch["cuts"]
        vector = torch.cat([pooled, sinusoids(cuts.flatten(), MICRO_WIDTH).view(len(cuts), -1)], dim=1)
        return EncodedText(torch.cat(tokens, dim=-1), vector)

    return tell


def aim(model: Model, settings: Tuning) -> Aim:
    """The settings' aim with what the model says of it."""
    until = settings.aim.until or (REFINED if model.family.micro == AESTHETIC else 0)
    return replace(settings.aim, prediction=model.family.prediction, until=until)


class Lessons:
    """The pictures, encoded, and batches of them by number."""

    def __init__(self, model: Model, settings: Tuning, subject: Subject) -> None:
        self.model, self.settings, self.family = model, settings, model.family
        self.device = next(model.unet.parameters()).device
        self.own = _taught(model, settings.data, settings.words, settings, subject)
        rest = replace(subject, word="", vectors=0)
        self.prior = _taught(model, settings.prior, settings.prior_words, settings, rest) if settings.prior else None
        calm = replace(settings, flip=False, silent=0.0, unseen=0.0)
        self.held = _taught(model, settings.held, settings.words, calm, subject) if settings.held else None

    def batch(self, moment: Moment, share: Share) -> Batch:
        """Our part of a step's batch."""
        part = self.settings.batch // share.world
        first = moment.step * self.settings.batch + share.rank * part
        numbers = range(first, first + part)
        places = range(share.rank * part, (share.rank + 1) * part)
        if self.prior is None:
            return self.finished(self.own.batch(moment.step, places), numbers)
        halves = [place // 2 for place in places if place % 2 == 0], [place // 2 for place in places if place % 2]
        pair = self.own.batch(moment.step, halves[0]), self.prior.batch(moment.step, halves[1])
        return self.finished(_joined(pair, self.settings.prior_weight), numbers)

    def examined(self) -> list[Batch]:
        """The held pictures, each once, in batches."""
        assert self.held is not None, "asked for only where there are such"
        done, batches = 0, list[Batch]()
        for found in self.held.every(self.settings.batch):
            numbers = range(done, done := done + len(found["latents"]))
            batches.append(self.finished(found, numbers))
        return batches

    def finished(self, found: dict[str, Tensor], numbers: range) -> Batch:
        """A batch with what the family is told and shown beside words and latents."""
        if self.family.micro == AESTHETIC:
            beauty = torch.full((len(numbers), 1), self.settings.aesthetic, device=self.device)
            found["cuts"] = torch.cat([found["cuts"][:, :4], beauty], dim=1)
        if self.family.sees == "mask":
            torn = holes(Noise([self.settings.seed] * len(numbers), numbers), *found["pixels"].shape[2:])
            found["beside"] = hidden(self.model.autoencoder, found.pop("pixels"), torn.to(self.device))
        return found


def recipe(name: str, model: Model, settings: Tuning, objective: Denoising, subject: Subject | None = None) -> Recipe:
    """The recipe of an objective with the settings' pictures."""
    lessons = Lessons(model, settings, subject or Subject())
    seen = lessons.examined() if settings.held else []

    def watch(moment: Moment, averaged: Mapping[str, nn.Module], folder: Path) -> Mapping[str, float]:
        return by_time(objective, seen)

    facts = config.to_data(settings)
    return Recipe(
        name,
        settings.seed,
        objective,
        lessons.batch,
        Length(steps=settings.steps),
        {"unet": settings.optim},
        (settings.average,),
        batch_size=settings.batch,
        parts=settings.parts,
        log_steps=max(1, min(10, settings.steps // 200)),
        watch=watch if seen else None,
        watch_steps=settings.look or settings.steps,
        device=lessons.device,
        dtype=settings.dtype,
        facts={"settings": {key: value for key, value in facts.items() if key not in FREE}},
    )


def check(family: Family) -> None:
    """UserError for a family whose training is not here yet."""
    if family.micro not in ((), SIZES, AESTHETIC) or family.unet.guidance:
        raise UserError(f"{family.name} is not trained here.", "Stable Diffusion 1, 2 or XL, or the pocket model.")
    if family.sees == "unknown":
        raise UserError(
            f"{family.name}'s U-Net takes {family.unet.channels_in} channels, and is not trained here.",
            "The latents alone, or with a mask and picture, a picture, or a depth map.",
        )


def _apart(batch: Batch, name: str, text: TextEncoder) -> Int[Tensor, "n s"]:
    """The chunks of all captions, one below the other."""
    found: Tensor = batch[name]
    return found.reshape(-1, text.config.positions)


def _taught(model: Model, folder: str, words: str, settings: Tuning, subject: Subject) -> Taught:
    spare = [words] if words else [phrase.format(subject.word) for phrase in PHRASES if subject.word]
    examples = read(folder, words=spare)
    captions = [example.caption for example in examples]
    size = settings.size or min(model.family.defaults.width, model.family.defaults.height)
    sizes = np.ones((len(examples), 2), dtype=np.int64)  # among one shape they do not count
    if settings.buckets:
        sizes = np.array([example.picture().size for example in examples])
    among = shapes(size**2, shortest=max(64, size // 128 * 64), longest=2 * size) if settings.buckets else ()
    plan = Plan(settings.seed, settings.batch // (2 if settings.prior else 1), sizes, among or (Shape(size, size),))
    how: dict[str, Any] = {"flip": settings.flip, "sees": model.family.sees}
    how |= {"hinted": subject.hinted, "hinter": subject.hinter}
    groups = [
        encode([examples[number] for number in members], model.autoencoder, shape, **how) if len(members) else None
        for shape, members in zip(plan.among, plan.members, strict=True)
    ]
    said = [
        written(captions, tokenizer, subject.word, subject.vectors, chunks=settings.chunks)
        for tokenizer in tokenizers(model)
    ]
    empty = [written([""], tokenizer) for tokenizer in tokenizers(model)]
    unseen = settings.unseen if model.family.sees == "picture" else 0.0
    return Taught(plan, groups, said, empty, seed=settings.seed, silent=settings.silent, unseen=unseen)


def _joined(halves: Sequence[Mapping[str, Tensor]], weight: float) -> dict[str, Tensor]:
    """One batch of the subject's samples and the class's, which count by their weight.

    Where one has masks, both do; captions of different lengths are repeated up to a common one.
    """
    one, other = (dict(half) for half in halves)
    length = math.lcm(one["ids"].shape[1], other["ids"].shape[1])
    for half in (one, other):
        for key in half:
            if key.startswith(("ids", "slots")):
                half[key] = half[key].repeat(1, length // half[key].shape[1])
    for half in (one, other):
        if "mask" in one or "mask" in other:
            latents = half["latents"]
            half.setdefault("mask", torch.ones_like(latents[:, :1]))
    batch = {key: torch.cat([one[key], other[key]]) for key in one}
    counts = torch.ones(len(batch["latents"]), device=batch["latents"].device)
    counts[len(one["latents"]) :] = weight
    return batch | {"counts": counts}
