"""A family as JSON and back, and the ranges that any description of a family must keep, whoever wrote it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from aquatint.base import config
from aquatint.base.errors import UserError, unknown
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.families import FAMILIES, MICRO, Defaults, Family
from aquatint.nets.autoencoder import AutoencoderConfig
from aquatint.nets.text import ACTIVATIONS, TextConfig
from aquatint.nets.tokenizer import PADS
from aquatint.nets.unet import UNetConfig

WIDEST, DEEPEST, LONGEST = 16_384, 128, 1_048_576
KEY = "aquatint"  # the field of a header's metadata that describes the model
# Fields that came after version 1, by their place in the description, and what a description without them means.
_TEXT = {"skip": 0, "normed": True}
LATER: dict[str, dict[str, Any]] = {
    "": {"text2": None, "micro": [], "blank": False},
    "text": _TEXT,
    "text2": _TEXT,
    "unet": {"guidance": 0},
    "schedule": {"offset": 1},
}


def describe(family: Family, digest: str) -> str:
    """The text that a header carries: what the weights are for, and the digest by which damage is noticed."""
    return json.dumps({"version": 1, "digest": digest, "family": data_of(family)}, separators=(",", ":"))


def data_of(family: Family) -> dict[str, Any]:
    """The family as JSON data. Fields younger than version 1 stand in it only where they say something.

    So a model has the header and the digest that it had before they came.
    """
    data: dict[str, Any] = config.to_data(family)
    rows = [("", data), *((name, data[name]) for name in LATER if data.get(name))]
    for place, row in rows:
        for name, usual in LATER[place].items():
            if row[name] == usual:
                del row[name]
    return data


def described(text: str) -> tuple[Family, str]:
    """(family, digest) from what `describe` wrote; anything else is a UserError."""
    data = config.parse(text)
    if (
        not isinstance(data, dict)
        or set(data) != {"version", "digest", "family"}
        or not isinstance(data["digest"], str)
    ):
        raise UserError("The description of the model in its header is malformed.", "", "Fetch the model again.")
    if data["version"] != 1:
        raise UserError(
            f"The model's description has version {str(data['version'])[:20]}.",
            "Version 1 is read.",
            "Update aquatint.",
        )
    return check(config.from_data(Family, data["family"], "family")), data["digest"]


def known(family: Family) -> Family:
    """The family with the name of the row of FAMILIES that it equals in all but name and defaults, else "custom"."""
    rows = [row for row in FAMILIES.values() if replace(row, name=family.name, defaults=family.defaults) == family]
    # Turbo is Stable Diffusion 2.1 in all but its weights: only what a request means by default tells them apart.
    alike = [row for row in rows if row.name == family.name or row.defaults.guidance == family.defaults.guidance]
    return replace(family, name=[*alike, *rows][0].name if rows else "custom")


def digest(family: Family, sums: Iterable[tuple[str, str]]) -> str:
    """The digest of a model: sha256 over (name, sha256 of its float32 values) of every tensor, and over the family.

    The names are ours, so a model has one digest in every format that keeps its values. The family's name and defaults
    do not matter: they change no picture that a request spells out.
    """
    facts = data_of(family)
    del facts["name"], facts["defaults"]
    lines = [json.dumps(facts, sort_keys=True), *(f"{name} {sha}" for name, sha in sorted(sums))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check(family: Family) -> Family:
    """The same family, after every number was found to be in range and to fit the others; else a UserError."""
    unet, autoencoder = family.unet, family.autoencoder
    check_unet(unet)
    check_autoencoder(autoencoder)
    for text in family.texts:
        check_text(text)
    _range("the schedule's steps", family.schedule.steps, 2, 100_000)
    _range("the schedule's offset", family.schedule.offset, 0, 1)
    NoiseSchedule(family.schedule)
    if family.prediction not in PREDICTIONS:
        raise unknown("prediction", family.prediction, PREDICTIONS)
    if sum(text.width for text in family.texts) != unet.context:
        widths = " and ".join(str(text.width) for text in family.texts)
        raise UserError(
            f"The text encoder's width is {widths}, and the U-Net reads texts of width {unet.context}.",
            "Parts of one model.",
        )
    _check_micro(family)
    if unet.channels_out != autoencoder.latents or unet.channels_in < autoencoder.latents:
        raise UserError(
            f"The autoencoder's latents have {autoencoder.latents} channels; "
            f"the U-Net takes {unet.channels_in} and gives {unet.channels_out}.",
            "Parts of one model.",
        )
    _check_defaults(family.defaults)
    return family


def _check_micro(family: Family) -> None:
    """Whether the numbers beside the text are known ones, and all together are as wide as the U-Net's vector."""
    for name in family.micro:
        if name not in MICRO:
            raise unknown("number beside the text", name[:60], MICRO)
    if len(set(family.micro)) != len(family.micro) or (family.micro and family.told != family.unet.vector):
        raise UserError(
            f"The text and {', '.join(family.micro)} are {family.told} numbers; the U-Net takes {family.unet.vector}.",
            "Parts of one model.",
        )


def check_unet(unet: UNetConfig) -> None:
    """See `check`."""
    _range("the number of stages", len(unet.stages), 1, 8)
    _range("blocks a stage", unet.blocks, 1, 16)
    _range("transformer layers in the middle", unet.middle, 0, DEEPEST)
    _range("groups", unet.groups, 0, WIDEST)
    _range("the text's width", unet.context, 1, WIDEST)
    _range("the vector's width", unet.vector, 0, WIDEST)
    _range("the width of the guidance's embedding", unet.guidance, 0, WIDEST)
    for name, count in (("channels taken", unet.channels_in), ("channels given", unet.channels_out)):
        _range(name, count, 1, 64)
    for stage in unet.stages:
        _range("a stage's width", stage.width, 2, WIDEST)
        _range("a stage's transformer layers", stage.depth, 0, DEEPEST)
        _divides("heads", stage.heads, stage.width)
        if unet.groups:
            _divides("groups", unet.groups, stage.width)
    # Stable Diffusion XL has 34 of these; to build the net for 500 takes seconds, before any weight is looked for.
    _range("the transformer layers", unet.middle + sum(stage.depth for stage in unet.stages) * unet.blocks, 0, 128)
    _divides("pairs of sinusoids", 2, unet.stages[0].width)


def check_autoencoder(autoencoder: AutoencoderConfig) -> None:
    """See `check`."""
    _range("the number of the autoencoder's levels", len(autoencoder.encoder), 1, 8)
    if len(autoencoder.decoder) != len(autoencoder.encoder):
        raise UserError("The autoencoder's encoder and decoder differ in depth.", "As many levels up as down.")
    _range("blocks a level", autoencoder.blocks, 1, 16)
    _range("a picture's channels", autoencoder.channels, 1, 64)
    _range("a latent's channels", autoencoder.latents, 1, 64)
    _range("groups", autoencoder.groups, 0, WIDEST)
    for width in (*autoencoder.encoder, *autoencoder.decoder):
        _range("a level's width", width, 1, WIDEST)
        if autoencoder.groups:
            _divides("groups", autoencoder.groups, width)
    if not 1e-6 <= abs(autoencoder.scale) <= 1e6 or abs(autoencoder.shift) > 1e6:
        raise UserError(f"The autoencoder's scale is {autoencoder.scale}, its shift {autoencoder.shift}.", "Sane ones.")


def check_text(text: TextConfig) -> None:
    """See `check`."""
    _range("the text encoder's width", text.width, 1, WIDEST)
    _range("the text encoder's layers", text.layers, 1, DEEPEST)
    _range("the vocabulary", text.vocabulary, 2, LONGEST)
    _range("the text's positions", text.positions, 3, WIDEST)
    _range("the text encoder's feed-forward factor", text.feed, 1, 64)
    _range("the projection's width", text.projection, 0, WIDEST)
    _range("layers that a text does not pass", text.skip, 0, text.layers - 1)
    _divides("heads", text.heads, text.width)
    if text.activation not in ACTIVATIONS:
        raise unknown("activation", text.activation, ACTIVATIONS)
    if text.pad not in PADS:
        raise unknown("padding", text.pad, PADS)


def _check_defaults(defaults: Defaults) -> None:
    _range("the default width", defaults.width, 8, WIDEST)
    _range("the default height", defaults.height, 8, WIDEST)
    _range("the default steps", defaults.steps, 1, 10_000)
    if not abs(defaults.guidance) <= 1000 or not 0 <= defaults.rescale <= 1:
        raise UserError(f"The default guidance is {defaults.guidance}, its rescale {defaults.rescale}.", "Sane ones.")


def _range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UserError(
            f"The model's description has {str(value)[:30]} for {name}.", f"{low} to {high}.", "Check its config."
        )


def _divides(name: str, part: int, whole: int) -> None:
    if part < 1 or whole % part:
        raise UserError(
            f"The model's description has {str(part)[:30]} {name} for a width of {whole}.",
            f"The {name} divide the width.",
            "Check its config.",
        )
