"""A bundle's controls, and the U-Net of a request with those that it names: which net is asked, and when."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from aquatint.base import images, runtime
from aquatint.base.errors import UserError, unknown
from aquatint.diffusion.denoisers import Conditioning
from aquatint.engines.choice import Engine
from aquatint.families import Family
from aquatint.nets import control as nets
from aquatint.nets.control import Controlled, ControlNet, T2IAdapter, controlled
from aquatint.nets.picture_prompt import PicturePrompt, prompted
from aquatint.nets.text import ImageTower
from aquatint.nets.unet import UNet
from aquatint.pipelines.control import Control
from aquatint.pipelines.edit import Canvas, fitted
from aquatint.pipelines.encode import Told
from aquatint.pipelines.given import Given
from aquatint.pipelines.preprocess import clip_pixels, hint
from aquatint.pipelines.record import File
from aquatint.weights.controls import ControlFile, build, fit, open_control
from aquatint.weights.towers import TowerFile, build_tower, open_tower

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.request import Resolved

Steered = ControlNet | T2IAdapter | PicturePrompt


class Loaded(NamedTuple):
    """A control's net, and the file that it is from."""

    net: Steered
    file: File


@dataclass(frozen=True, eq=False)
class Controls:
    """The controls that requests to a bundle may name, and the image tower that IP-Adapters look with."""

    nets: Mapping[str, Loaded] = field(default_factory=dict)
    tower: ImageTower | None = None
    tower_file: File | None = None

    def find(self, name: str) -> Loaded:
        """The control of that name; a name never becomes a path."""
        if name not in self.nets:
            error = unknown("control", name, self.nets)
            takes = error.takes if self.nets else "None was opened."
            raise UserError(error.got, takes, error.remedy or "Give its file (load(controls=[...]), --control FILE).")
        return self.nets[name]


class OpenedControls(NamedTuple):
    """Files of controls by their names, recognised but not yet read; and the image tower's."""

    files: Mapping[str, ControlFile]
    tower: TowerFile | None

    def built(self, family: Family, device: torch.device, dtype: torch.dtype, engine: Engine | None = None) -> Controls:
        """The nets, on a device; UserError for a file that does not fit the family, before any weights are read."""
        fits = {name: fit(file, family) for name, file in self.files.items()}
        made: dict[str, Loaded] = {}
        for name, found in fits.items():
            net = build(found, dtype).to(device)
            assert isinstance(net, Steered)
            engine = engine or Engine()
            engine.leave_room((net,))
            engine.prepare(net, often=isinstance(net, ControlNet))
            digest = found.file.digest
            made[name] = Loaded(net, File("control", name, digest, digest))
        if self.tower is None:
            return Controls(made)
        digest = self.tower.digest
        file = File("image encoder", self.tower.name, digest, digest)
        return Controls(made, build_tower(self.tower, dtype).to(device), file)


def open_controls(
    controls: Sequence[str | Path] | Mapping[str, Path] = (), image_encoder: str | Path | None = None
) -> OpenedControls:
    """The files of controls, by name; UserError for what is no control, and for two of one name."""
    if isinstance(controls, str | Path):
        raise UserError(
            f'controls = "{str(controls)[:60]}".', "A list of files.", 'Say controls=["canny.safetensors"].'
        )
    named = controls.items() if isinstance(controls, Mapping) else [(None, path) for path in dict.fromkeys(controls)]
    found: dict[str, ControlFile] = {}
    for name, path in named:
        file = open_control(path)
        if (name or file.name) in found:
            raise UserError(f'Two controls are named "{name or file.name}".', "Names that differ.", "Rename one.")
        found[name or file.name] = file
    return OpenedControls(found, None if image_encoder is None else open_tower(image_encoder))


class Span(NamedTuple):
    """Up to the step `until` (from 1) the U-Net is steered; behind the text's tokens it wants those of pictures."""

    until: int
    steer: Callable[[UNet], UNet | Controlled]
    tokens: tuple[Tensor, Tensor] | None = None

    def toward(self, cond: Conditioning) -> Conditioning:
        """The conditioning with the pictures' tokens behind it."""
        return _behind(cond, self.tokens and self.tokens[0])

    def away(self, cond: Conditioning) -> Conditioning:
        """The conditioning with the tokens behind it that stand for no picture."""
        return _behind(cond, self.tokens and self.tokens[1])


def _behind(cond: Conditioning, tokens: Tensor | None) -> Conditioning:
    return cond if tokens is None else replace(cond, context=torch.cat([cond.context, tokens], dim=1))


@dataclass(frozen=True)
class Steering:
    """How the U-Net is steered, one stretch of steps after the other, and the files that take part."""

    spans: tuple[Span, ...]
    files: tuple[File, ...] = ()
    shaped: bool = False  # whether hints take part that are of the picture's size

    def over(self, told: Sequence[Told]) -> Iterator[tuple[Told, Span]]:
        """What the net is told, split where it is steered otherwise, with how it is steered."""
        began = 0
        for part in told:
            for span in self.spans:
                until = min(part.until, span.until)
                if until > began:
                    positives = tuple((weight, span.toward(cond)) for weight, cond in part.positives)
                    yield Told(until, positives, span.away(part.negative)), span
                    began = until


class _Ready(NamedTuple):
    """A control with what its picture became: a hint, features, or tokens toward and away."""

    wish: Control
    loaded: Loaded
    hint: Tensor | None = None
    features: tuple[Tensor, ...] = ()
    tokens: tuple[Tensor, Tensor] | None = None


def steering(bundle: "Bundle", request: "Resolved", canvas: Canvas | None = None) -> Steering:
    """How the controls of a request steer the U-Net: not at all, where there are none or none has any weight.

    canvas   of the request's edit: where only a part of a picture is painted, hints of the whole are cut to it
    Raises UserError for a name that was not opened, a picture that is not at hand, a size that an adapter does not
    take, an IP-Adapter without image encoder, and a control that acts at no step.
    """
    rows = [(wish, bundle.controls.find(wish.name)) for wish in request.controls]
    for wish, loaded in rows:
        _check(bundle, request, wish, loaded)
    # The order in which they are named does not change a bit: they are summed in this one.
    rows.sort(key=lambda row: _rank(*row))
    with torch.no_grad(), runtime.exact(bundle.device, bundle.threads):
        ready = [_ready(bundle, request, canvas, wish, loaded) for wish, loaded in rows if wish.weight]
        spans = tuple(_spans(request, ready))
    used = {loaded.file for _, loaded in rows}
    if any(isinstance(loaded.net, PicturePrompt) for _, loaded in rows) and bundle.controls.tower_file is not None:
        used.add(bundle.controls.tower_file)
    shaped = any(row.hint is not None or row.features for row in ready)
    return Steering(spans, tuple(sorted(used, key=lambda file: (file.kind, file.name))), shaped)


def _rank(wish: Control, loaded: Loaded) -> tuple[object, ...]:
    """What tells controls apart, whatever their files and pictures are called."""
    mask = "" if wish.mask is None else wish.mask.sha256
    how = (wish.weight, wish.start, wish.end, wish.preprocess, wish.options, mask, wish.fit)
    return loaded.file.sha256, wish.image.sha256, *how


def _check(bundle: "Bundle", request: "Resolved", wish: Control, loaded: Loaded) -> None:
    """All that can be wrong with a control, before anything is computed."""
    assert wish.image.pixels is not None, "UserError, if it is only known by its record"
    steps = request.made
    if not any(_acts(wish, step, steps) for step in range(steps)):
        raise UserError(
            f'"{wish.name}" acts from {wish.start:g} to {wish.end:g}, which holds none of the {steps} steps.',
            "A longer part of the steps, or more steps.",
        )
    net, tower = loaded.net, bundle.controls.tower
    if isinstance(net, T2IAdapter) and (request.width % net.config.factor or request.height % net.config.factor):
        raise UserError(
            f"{request.width} x {request.height} pixels.", f'"{wish.name}" takes multiples of {net.config.factor}.'
        )
    if not isinstance(net, PicturePrompt):
        return
    if wish.preprocess != "none":
        raise UserError(
            f'"{wish.name}" is an IP-Adapter, and is to see what {wish.preprocess} makes of the picture.',
            'The picture itself: preprocess "none".',
        )
    if tower is None:
        raise UserError(
            f'"{wish.name}" is an IP-Adapter, and there is no image encoder.',
            "The image encoder that it was trained with.",
            "Give its file or folder (load(image_encoder=...), --image-encoder).",
        )
    width = tower.config.width if net.config.plus else tower.config.projection
    if width != net.config.embed:
        raise UserError(
            f'"{wish.name}" takes what an image encoder says in {net.config.embed} numbers, and this one says {width}.',
            "The image encoder that it was trained with (ViT-H/14 for most, ViT-bigG/14 for some of XL's).",
        )


def _ready(bundle: "Bundle", request: "Resolved", canvas: Canvas | None, wish: Control, loaded: Loaded) -> _Ready:
    """What the net makes of the control's picture."""
    net = loaded.net
    if isinstance(net, PicturePrompt):
        return _Ready(wish, loaded, tokens=tokens_of(bundle, net, wish.image))

    def sized(picture: Image.Image) -> Image.Image:
        if canvas is not None and canvas.whole is not None and picture.size == canvas.whole.size:
            picture = picture.crop(canvas.place)
        size = request.width, request.height
        return picture if picture.size == size else fitted(picture, *size, wish.fit)

    picture = sized(images.rgb(wish.image.pixels))
    mask = None if wish.mask is None else sized(images.rgb(wish.mask.pixels).convert("L"))
    made = hint(picture, wish.preprocess, wish.options, mask).to(bundle.device)
    channels = net.control.channels if isinstance(net, ControlNet) else net.config.channels
    made = made if channels == 3 else grey(made)
    if isinstance(net, ControlNet):
        return _Ready(wish, loaded, hint=net.prepare(made))
    return _Ready(wish, loaded, features=tuple(net(made)))


def grey(made: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """The brightness of a hint (ITU-R 601, as Pillow's L)."""
    return (made * made.new_tensor((0.299, 0.587, 0.114)).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def tokens_of(bundle: "Bundle", net: PicturePrompt, image: Given) -> tuple[Tensor, Tensor]:
    """A picture's tokens, and those that stand for none: of a vector of zeros, or of a picture of zeros (plus)."""
    tower = bundle.controls.tower
    assert tower is not None, "checked before"
    pixels = clip_pixels(image.pixels, tower.config.size).to(tower.patches.weight)
    if net.config.plus:
        return net(tower.states(pixels)[-2]).float(), net(tower.states(torch.zeros_like(pixels))[-2]).float()
    seen = tower(pixels)
    return net(seen).float(), net(torch.zeros_like(seen)).float()


def _acts(wish: Control, step: int, steps: int) -> bool:
    """Whether a control acts at a step (from 0): not before its start, and not beyond its end (as diffusers has it)."""
    return not (step / steps < wish.start or (step + 1) / steps > wish.end)


def _spans(request: "Resolved", ready: Sequence[_Ready]) -> Iterator[Span]:
    """One for each stretch of steps in which the same controls act."""
    steps = request.made
    acting = [[_acts(row.wish, step, steps) for row in ready] for step in range(steps)]
    for step, acts in enumerate(acting):
        if step + 1 == steps or acting[step + 1] != acts:
            yield _span(step + 1, list(compress(ready, acts)))


def _span(until: int, rows: Sequence[_Ready]) -> Span:
    seen = [(row.loaded.net, row.wish.weight) for row in rows if isinstance(row.loaded.net, PicturePrompt)]
    tokens = [row.tokens for row in rows if row.tokens is not None]
    controls = [
        nets.Control(row.loaded.net, row.hint, row.wish.weight)
        for row in rows
        if isinstance(row.loaded.net, ControlNet) and row.hint is not None
    ]
    features = [(row.features, row.wish.weight) for row in rows if row.features]
    count = sum(toward.shape[1] for toward, _ in tokens)

    def steer(unet: UNet) -> UNet | Controlled:
        looking = prompted(unet, seen) if seen else unet
        return controlled(looking, controls, features, pictures=count) if controls or features else looking

    if not tokens:
        return Span(until, steer)
    toward, away = (torch.cat(rows, dim=1) for rows in zip(*tokens, strict=True))
    return Span(until, steer, (toward, away))
