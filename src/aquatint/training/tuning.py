"""Fine-tuning a model on a few pictures: LoRA and its like, a new word's vectors, the whole U-Net, or a ControlNet.

    tuned = lora(opened, LoRA(data="photos/", words="a photo of sks dog"))
    players = train(tuned.recipe, Path("runs/dog"))
    adapters = tuned.learned(players).adapters

DreamBooth (Ruiz et al. 2023) is any of these with `words` that name a subject by a rare word, and `prior`: pictures of
its class, which every second sample shows, so that the class does not become the subject.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aquatint.base.errors import UserError
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.nets.adapters import Adapter
from aquatint.nets.control import Control, ControlConfig, ControlNet, controlled
from aquatint.nets.grown import grow, player
from aquatint.nets.unet import UNet
from aquatint.training.data.examples import Hinter
from aquatint.training.lesson import Model, Subject, Tuning, aim, check, recipe, teller, texts, tokenizers
from aquatint.training.objectives.diffusion import Ask, Denoising
from aquatint.training.recipe import Batch, Optim, Recipe
from aquatint.training.start import start


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


@dataclass(frozen=True, kw_only=True)
class Hinted(Tuning):
    """A ControlNet.

    hint   what makes a picture's hint of it, a preprocessor's name (docs/control.md); "": hints/NAME.png beside it
    """

    hint: str = ""
    flip: bool = False
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-5, betas=(0.9, 0.999), warmup=20, hold=0.5, final=0.1))


class Learned(NamedTuple):
    """What came of it: adapters by net and weight, or a word's vectors for each text encoder, or nets."""

    adapters: Mapping[str, Mapping[str, Adapter]] = {}
    vectors: Mapping[str, tuple[Tensor, ...]] = {}
    nets: Mapping[str, nn.Module] = {}
    control: ControlNet | None = None


class Tuned(NamedTuple):
    """A recipe, and how to read what its players have learned."""

    recipe: Recipe
    learned: Callable[[Mapping[str, nn.Module]], Learned]


def lora(model: Model, settings: LoRA) -> Tuned:
    """The recipe of a LoRA; the model's own weights stay."""
    how: dict[str, Any] = {"rank": settings.rank, "alpha": settings.alpha, "kind": settings.kind, "seed": settings.seed}
    growths = {"unet": grow(model.unet, reach=settings.reach, **how)}
    if settings.text:
        growths |= {name: grow(text, reach="attention", **how) for name, text in texts(model).items()}
    told = [growths[name].net if name in growths else text for name, text in texts(model).items()]
    net = growths["unet"].net
    assert isinstance(net, UNet)
    objective = _objective(model, settings, player(growths), told, unet=net)

    def learned(players: Mapping[str, nn.Module]) -> Learned:
        changes = {net: players["unet"].get_submodule(net).children() for net in growths}
        return Learned(adapters={net: growth.adapters(changes[net]) for net, growth in growths.items()})

    return Tuned(recipe("lora", model, settings, objective), learned)


def inversion(model: Model, settings: Inversion) -> Tuned:
    """The recipe of a new word; the model's own weights stay."""
    encoders, first = texts(model), list[Tensor]()
    for text, tokenizer in zip(encoders.values(), tokenizers(model), strict=True):
        text.requires_grad_(False)
        ids, known = tokenizer.ids(settings.like), text.words.weight.detach().float()
        if settings.like and not ids:
            raise UserError(f'like = "{settings.like[:40]}" is no word.', "A word that the model knows.")
        first.append((known[ids] if ids else known).mean(dim=0).repeat(settings.vectors, 1))
    learner = nn.ParameterList(first)
    model.unet.requires_grad_(False)
    objective = _objective(model, settings, learner, list(encoders.values()), learner=learner)

    def learned(players: Mapping[str, nn.Module]) -> Learned:
        vectors = tuple(weight.detach().clone() for weight in players["unet"].parameters())
        return Learned(vectors={settings.word: vectors})

    subject = Subject(word=settings.word, vectors=settings.vectors)
    return Tuned(recipe("inversion", model, settings, objective, subject), learned)


def full(model: Model, settings: Full) -> Tuned:
    """The recipe of the whole U-Net. The model's own nets learn, so that there is no second copy of them."""
    nets: dict[str, nn.Module] = {"unet": model.unet, **(texts(model) if settings.text else {})}
    for text in texts(model).values():
        text.requires_grad_(False)
    for net in nets.values():
        net.requires_grad_(True)
    objective = _objective(model, settings, nn.ModuleDict(nets), list(texts(model).values()))

    def learned(players: Mapping[str, nn.Module]) -> Learned:
        found = players["unet"].eval().requires_grad_(False)
        return Learned(nets={name: found.get_submodule(name) for name in nets})

    return Tuned(recipe("full", model, settings, objective), learned)


def controlnet(
    model: Model, settings: Hinted, *, hinter: Hinter | None = None, begin: ControlNet | None = None
) -> Tuned:
    """The recipe of a ControlNet (Zhang et al. 2023) for the model, whose own weights stay.

    hinter   what `settings.hint` names: an RGB picture -> its hint, RGB and of its size
    begin    goes on from there; from a copy of the U-Net's way down if None (`copied`)
    """
    assert (hinter is not None) == bool(settings.hint), "the caller knows the preprocessors"
    net = copied(model, settings.seed) if begin is None else begin.requires_grad_(True)
    for part in (model.unet, *texts(model).values()):
        part.requires_grad_(False)

    def ask(batch: Batch, x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
        hint = net.prepare(batch["hints"].float() / 255)
        return controlled(model.unet, [Control(net, hint)])(x, t, context, vector)

    objective = _objective(model, settings, net, list(texts(model).values()), ask=ask)

    def learned(players: Mapping[str, nn.Module]) -> Learned:
        found = players["unet"].eval().requires_grad_(False)
        assert isinstance(found, ControlNet)
        return Learned(control=found)

    subject = Subject(hinted=True, hinter=hinter)
    return Tuned(recipe("controlnet", model, settings, objective, subject), learned)


@torch.no_grad()
def copied(model: Model, seed: int) -> ControlNet:
    """A ControlNet that as yet says nothing: the U-Net's way down and middle once more, the hint's convolutions from
    `seed`, and zeros in the last of these and in all that leads out (Zhang et al. 2023, section 3.1)."""
    unet = model.unet
    net = ControlNet(ControlConfig(replace(unet.config, channels_in=model.family.autoencoder.latents)))
    state, known = net.state_dict(), unet.state_dict()
    for name, tensor in state.items():
        if name in known:
            tensor.copy_(known[name][:, : tensor.shape[1]] if name == "enter.weight" else known[name])
    start(net.hint, seed)
    for layer in (net.hint.layers[-1], net.zero, *net.zeros):
        for weight in layer.parameters():
            weight.zero_()
    return net.to(unet.enter.weight.device).train()


def _objective(
    model: Model,
    settings: Tuning,
    player: nn.Module,
    encoders: Sequence[nn.Module],
    *,
    learner: nn.ParameterList | None = None,
    unet: UNet | None = None,
    ask: Ask | None = None,
) -> Denoising:
    """The model's task with what learns in it, told by these text encoders (and a word's vectors)."""
    check(model.family)
    net, schedule, tell = unet or model.unet, NoiseSchedule(model.family.schedule), teller(encoders, learner)
    if settings.compile:
        net.compile()
    again = (net, player, *encoders) if settings.recompute else ()
    return Denoising(net, model.text, schedule, aim(model, settings), player=player, tell=tell, ask=ask, again=again)
