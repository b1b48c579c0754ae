"""Fine-tuning a model on a few pictures: LoRA and its like, a new word's vectors, or the whole U-Net.

    tuned = lora(opened, LoRA(data="photos/", words="a photo of sks dog"))
    players = train(tuned.recipe, Path("runs/dog"))
    adapters = tuned.learned(players).adapters

DreamBooth (Ruiz et al. 2023) is any of these with `words` that name a subject by a rare word, and `prior`: pictures of
its class, which every second sample shows, so that the class does not become the subject.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.families import MICRO_WIDTH, Family
from aquatint.nets.adapters import Adapter
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.blocks import sinusoids
from aquatint.nets.grown import grow, player
from aquatint.nets.text import EncodedText, TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import UNet
from aquatint.training.data.examples import MOST_CHUNKS, Taught, encode, written
from aquatint.training.data.folder import read
from aquatint.training.objectives.diffusion import Aim, Denoising, Tell
from aquatint.training.recipe import Batch, Length, Moment, Optim, Recipe, Share

CUTS = ("original", "crop", "target")  # what Stable Diffusion XL is told beside the text
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
    chunks         of 75 tokens that a caption may have
    steps, batch   how long, and how many samples a step
    silent         share of the samples without a caption, for classifier-free guidance
    average        decay of the running average that is kept (Average in training/optim.py)
    aim            what counts, and what noise is; the prediction is the model's
    """

    data: str
    words: str = ""
    prior: str = ""
    prior_words: str = ""
    prior_weight: float = 1.0
    size: int | None = None
    flip: bool = True
    chunks: int = 3
    steps: int = 400
    batch: int = 4
    seed: int = 0
    silent: float = 0.1
    average: float = 0.98
    dtype: str = "float32"
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-4, betas=(0.9, 0.999), warmup=20, hold=0.5, final=0.1))
    aim: Aim = field(default_factory=Aim)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, 10_000_000),
            ("batch", 1, 4096),
            ("seed", 0, 2**64 - 1),
            ("chunks", 1, MOST_CHUNKS),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} = {getattr(self, name)}.", f"A whole number from {low} to {high:,}.")
        for name, most in (("silent", 1.0), ("average", 0.99999), ("prior_weight", 100.0)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"{name} = {getattr(self, name):g}.", f"0 to {most:g}.")
        if self.prior and self.batch % 2:
            raise UserError(f"batch = {self.batch} with a prior, which takes half of it.", "An even number.")
        if (self.prior_words and not self.prior) or (self.prior and not self.prior_words):
            raise UserError("Of prior and prior_words one is missing.", "Both, or neither.")


@dataclass(frozen=True, kw_only=True)
class LoRA(Tuning):
    """Low-rank changes of the net's layers.

    rank, alpha   the change counts alpha / rank; alpha is the rank if None
    kind          "lora" or "dora"
    reach         "attention": the transformers' layers; "all": convolutions too (LoCon)
    text          whether the text encoder's layers learn too
    """

    rank: int = 8
    alpha: float | None = None
    kind: str = "lora"
    reach: str = "attention"
    text: bool = False


@dataclass(frozen=True, kw_only=True)
class Inversion(Tuning):
    """A new word's vectors (textual inversion, Gal et al. 2022).

    word      what is learned: captions say it;  vectors: how many stand for it
    like      a known word that it starts from
    """

    word: str
    vectors: int = 1
    like: str = ""
    silent: float = 0.0
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-3, betas=(0.9, 0.999), decay=0.0, warmup=20, hold=0.5))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.word.strip() or len(self.word) > 200 or not 1 <= self.vectors <= 64:
            raise UserError(f'word = "{self.word[:40]}", vectors = {self.vectors}.', "A word, and 1 to 64 vectors.")


@dataclass(frozen=True, kw_only=True)
class Full(Tuning):
    """Every weight of the U-Net, and with `text` of the text encoder. The nets that are given are what learns."""

    text: bool = False
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-5, betas=(0.9, 0.999), warmup=20, hold=0.5, final=0.1))


class Learned(NamedTuple):
    """What came of it: adapters by net and weight, or a word's vectors for each text encoder, or nets by name."""

    adapters: Mapping[str, Mapping[str, Adapter]] = {}
    vectors: Mapping[str, tuple[Tensor, ...]] = {}
    nets: Mapping[str, nn.Module] = {}


class Tuned(NamedTuple):
    """A recipe, and how to read what its players have learned."""

    recipe: Recipe
    learned: Callable[[Mapping[str, nn.Module]], Learned]


def lora(model: Model, settings: LoRA) -> Tuned:
    """The recipe of a LoRA; the model's own weights stay."""
    how: dict[str, Any] = {"rank": settings.rank, "alpha": settings.alpha, "kind": settings.kind, "seed": settings.seed}
    growths = {"unet": grow(model.unet, reach=settings.reach, **how)}
    texts = _texts(model)
    if settings.text:
        growths |= {name: grow(text, reach="attention", **how) for name, text in texts.items()}
    told = {name: growths[name].net if name in growths else text for name, text in texts.items()}
    net = growths["unet"].net
    assert isinstance(net, UNet)
    schedule, aim, tell = NoiseSchedule(model.family.schedule), _aim(model, settings), _teller(list(told.values()))
    objective = Denoising(net, model.text, schedule, aim, player=player(growths), tell=tell)

    def learned(players: Mapping[str, nn.Module]) -> Learned:
        changes = {net: players["unet"].get_submodule(net).children() for net in growths}
        return Learned(adapters={net: growth.adapters(changes[net]) for net, growth in growths.items()})

    return Tuned(_recipe("lora", model, settings, objective, "", 0), learned)


def inversion(model: Model, settings: Inversion) -> Tuned:
    """The recipe of a new word; the model's own weights stay."""
    texts, first = _texts(model), list[Tensor]()
    for text, tokenizer in zip(texts.values(), _tokenizers(model), strict=True):
        text.requires_grad_(False)
        ids, known = tokenizer.ids(settings.like), text.words.weight.detach().float()
        if settings.like and not ids:
            raise UserError(f'like = "{settings.like[:40]}" is no word.', "A word that the model knows.")
        first.append((known[ids] if ids else known).mean(dim=0).repeat(settings.vectors, 1))
    learner = nn.ParameterList(first)
    model.unet.requires_grad_(False)
    schedule, aim, tell = (
        NoiseSchedule(model.family.schedule),
        _aim(model, settings),
        _teller(list(texts.values()), learner),
    )
    objective = Denoising(model.unet, model.text, schedule, aim, player=learner, tell=tell)
    recipe = _recipe("inversion", model, settings, objective, settings.word, settings.vectors)

    def learned(players: Mapping[str, nn.Module]) -> Learned:
        vectors = tuple(weight.detach().clone() for weight in players["unet"].parameters())
        return Learned(vectors={settings.word: vectors})

    return Tuned(recipe, learned)


def full(model: Model, settings: Full) -> Tuned:
    """The recipe of the whole U-Net. The model's own nets learn, so that there is no second copy of them."""
    nets: dict[str, nn.Module] = {"unet": model.unet, **(_texts(model) if settings.text else {})}
    for text in _texts(model).values():
        text.requires_grad_(False)
    for net in nets.values():
        net.requires_grad_(True)
    schedule, aim, tell = (
        NoiseSchedule(model.family.schedule),
        _aim(model, settings),
        _teller(list(_texts(model).values())),
    )
    objective = Denoising(model.unet, model.text, schedule, aim, player=nn.ModuleDict(nets), tell=tell)

    def learned(players: Mapping[str, nn.Module]) -> Learned:
        found = players["unet"].eval().requires_grad_(False)
        return Learned(nets={name: found.get_submodule(name) for name in nets})

    return Tuned(_recipe("full", model, settings, objective, "", 0), learned)


def _texts(model: Model) -> dict[str, TextEncoder]:
    """The text encoders by the names of their parts."""
    return {"text": model.text} if model.text2 is None else {"text": model.text, "text2": model.text2}


def _tokenizers(model: Model) -> list[Tokenizer]:
    return [model.tokenizer] if model.tokenizer2 is None else [model.tokenizer, model.tokenizer2]


def _teller(texts: Sequence[nn.Module], learner: nn.ParameterList | None = None) -> Tell:
    """How a batch is put into words: every encoder's tokens side by side; the last one's pooled vector, with the cuts.

    learner   a word's vectors for each encoder, where they are to stand for "slots"
    """

    def tell(batch: Batch) -> EncodedText:
        tokens, pooled = [], None
        for index, text in enumerate(texts):
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


def _apart(batch: Batch, name: str, text: TextEncoder) -> Int[Tensor, "n s"]:
    """The chunks of all captions, one below the other."""
    found: Tensor = batch[name]
    return found.reshape(-1, text.config.positions)


def _aim(model: Model, settings: Tuning) -> Aim:
    return replace(settings.aim, prediction=model.family.prediction)


def _recipe(name: str, model: Model, settings: Tuning, objective: Denoising, word: str, vectors: int) -> Recipe:
    """The pictures encoded, and batches of them."""
    family = model.family
    _check(family)
    size = settings.size or min(family.defaults.width, family.defaults.height)
    if size % 64 or not 64 <= size <= 4096:
        raise UserError(f"size = {size}.", "A multiple of 64, from 64 to 4096.")
    own = _taught(model, settings.data, settings.words, settings, size, word, vectors)
    prior = _taught(model, settings.prior, settings.prior_words, settings, size, "", 0) if settings.prior else None
    device = next(model.unet.parameters()).device

    def batch(moment: Moment, share: Share) -> Batch:
        part = settings.batch // share.world
        first = moment.step * settings.batch + share.rank * part
        numbers = range(first, first + part)
        if prior is None:
            return own.samples(numbers)
        halves = own.samples([n // 2 for n in numbers if n % 2 == 0]), prior.samples([n // 2 for n in numbers if n % 2])
        return _joined(halves, settings.prior_weight)

    facts = config.to_data(settings)
    return Recipe(
        name,
        settings.seed,
        objective,
        batch,
        Length(steps=settings.steps),
        {"unet": settings.optim},
        (settings.average,),
        batch_size=settings.batch,
        log_steps=max(1, min(50, settings.steps // 20)),
        device=device,
        dtype=settings.dtype,
        facts={"settings": {key: value for key, value in facts.items() if key != "steps"}},
    )


def _check(family: Family) -> None:
    """UserError for a family whose training is not here yet."""
    if family.micro not in ((), CUTS):
        raise UserError(
            f"{family.name} is not trained here yet.", "Stable Diffusion 1, 2 or XL's base, or the pocket model."
        )
    if family.unet.channels_in != family.autoencoder.latents:
        raise UserError(f"{family.name} is shown more than latents.", "A model that paints from words alone.")


def _taught(model: Model, folder: str, words: str, settings: Tuning, size: int, word: str, vectors: int) -> Taught:
    spare = [words] if words else [phrase.format(word) for phrase in PHRASES if word]
    examples = read(folder, words=spare)
    captions = [example.caption for example in examples]
    encoded = encode(examples, model.autoencoder, size, flip=settings.flip)
    said = [written(captions, tokenizer, word, vectors, chunks=settings.chunks) for tokenizer in _tokenizers(model)]
    empty = [written([""], tokenizer) for tokenizer in _tokenizers(model)]
    return Taught(encoded, said, empty, seed=settings.seed, silent=settings.silent)


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
