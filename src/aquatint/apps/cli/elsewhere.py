"""Pictures of other programs for `aquatint again`: what of them can be repeated with this model and these files."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquatint.apps.cli.control import Controlling, read_controls
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.control import Control
    from aquatint.pipelines.foreign import Account, Notes, Reading
    from aquatint.pipelines.request import Request


FURTHER = ("hires", "variation", "guiding", "refine")  # fields of requests that a picture can be painted without


def started(reading: "Reading", image: Path | None, mask: Path | None, anyway: bool) -> "Request":
    """The request with the picture that it was painted over; UserError if that is not given, but for --anyway."""
    start, request = reading.start, reading.request
    if start is None:
        if image is not None or mask is not None:
            raise UserError("--image or --mask for a picture that is no edit.", "Neither.")
        return request
    missing = "image" if image is None else "mask" if start.mask and mask is None else ""
    if missing:
        if anyway:
            return request
        named = f' "{start.name}"' if start.name and missing == "image" else ""
        raise UserError(
            f"The picture was painted over another{named}, which its file does not hold.",
            "That file, and the mask if there was one.",
            f"Give it with --{missing}, or paint from noise with --anyway.",
        )
    from aquatint.base import config
    from aquatint.pipelines.edit import Edit
    from aquatint.pipelines.given import given

    assert image is not None, "it is missing otherwise"
    words = {
        "image": given(image),
        "mask": None if mask is None else given(mask),
        "strength": start.strength,
        "masked": start.masked and mask is not None,
        "fill": start.fill,
        "fit": "exact" if request.width is None else "stretch",
    }
    words |= {name: value for name, value in (("blur", start.blur), ("padding", start.padding)) if value is not None}
    edit = config.from_data(Edit, words)
    return replace(request, edit=edit)


def steered(reading: "Reading", controlling: Controlling | None) -> "tuple[Control, ...]":
    """The controls that are given, in the order of those that the file names, as strong and as long as it says.

    What the command line says besides is taken before what the file says. UserError where they are not as many.
    """
    given = read_controls(controlling)
    if not given:
        return ()
    if len(given) != len(reading.steers):
        named = "".join(f' "{steer.name}"' for steer in reading.steers) or " none"
        raise UserError(
            f"--control {len(given)} times; the picture was steered by {len(reading.steers)}:{named}.",
            "One for each of these, in their order.",
        )
    assert controlling is not None, "it named controls"
    kept = {
        "weight": controlling.control_weight,
        "start": controlling.control_start,
        "end": controlling.control_end,
        "fit": controlling.control_fit,
        "preprocess": controlling.preprocess,
    }
    made = []
    for control, steer in zip(given, reading.steers, strict=True):
        words: dict[str, Any] = {name: getattr(steer, name) for name, said in kept.items() if said is None}
        if "preprocess" in words:
            words["options"] = steer.options
        made.append(replace(control, **words))
    return tuple(made)


def settled(reading: "Reading", bundle: "Bundle", request: "Request") -> "tuple[Request, Account]":
    """The request without what is not here, and the account with model and LoRAs in it."""
    from aquatint.pipelines.foreign import Notes

    said = reading.account
    notes = Notes(list(said.honoured), list(said.changed), list(said.ignored))
    for steer in reading.steers:
        how = f'"{steer.name}", weight {steer.weight:g}, from {steer.start:g} to {steer.end:g}'
        if request.controls:
            notes.honour("control", how)
        else:
            seen = f', of the picture "{steer.image}"' if steer.image else ""
            notes.ignore("control", how + seen, "give it with --control and --control-image")
    if reading.start is not None and request.edit is None:
        notes.ignore("image", reading.start.name, "it was painted over a picture; this is painted from noise")
    _model(reading, bundle, notes)
    request = _possible(bundle, _loras(reading, bundle, request, notes), notes)
    return request, notes.account()


def _possible(bundle: "Bundle", request: "Request", notes: "Notes") -> "Request":
    """The request without the further work for which something is missing here, as an upscaler's file."""
    from aquatint.pipelines.foreign import Said
    from aquatint.pipelines.generate import generate

    for field in FURTHER:
        if getattr(request, field, None) is None:
            continue
        try:
            generate(bundle, request).close()  # refuses before the first step
            return request
        except UserError as error:
            lost = [said for said in notes.honoured if said.name.casefold().startswith(field)]
            notes.honoured = [said for said in notes.honoured if said not in lost]
            notes.ignored += [Said(said.name, said.value, error.got) for said in lost]
            without: dict[str, Any] = {field: None}
            request = replace(request, **without)
    return request


def _model(reading: "Reading", bundle: "Bundle", notes: "Notes") -> None:
    """Whether the weights are those that the file names, by their hash or, failing that, by their name."""
    hashed = bundle.file.value if bundle.file and reading.model_hash else ""
    if reading.model_hash and hashed.startswith(reading.model_hash):
        notes.honour("model hash", reading.model_hash)
    elif hashed:
        why = f'this is "{bundle.name}", {hashed[:10]}: other weights, another picture'
        notes.change("model hash", reading.model_hash, why)
    elif reading.model:
        why = f'this is "{bundle.name}"; nothing tells whether its weights are the same'
        notes.change("model", reading.model, why)


def _loras(reading: "Reading", bundle: "Bundle", request: "Request", notes: "Notes") -> "Request":
    """LoRAs that are on the shelf; the others leave the request, and their tags its prompt."""
    from aquatint.pipelines.prompt import tags_of
    from aquatint.weights.loras import open_lora

    hashes, kept, prompt = dict(reading.lora_hashes), [], request.prompt
    tags = [tag for tag in tags_of(prompt, request.grammar) if tag.kind != "hypernet"]
    there = {}
    for name in dict.fromkeys([*(lora.name for lora in request.loras), *(tag.name for tag in tags)]):
        try:
            there[name] = open_lora(bundle.shelf.find(name)).hash
        except UserError:
            notes.ignore("lora", name, "no file of that name was given (--lora FILE, --lora-folder FOLDER)")
            continue
        if name in hashes and hashes[name] and not there[name].startswith(hashes[name]):
            notes.change("lora", name, f"its hash was {hashes[name]}, and is {there[name][:12]}")
        else:
            notes.honour("lora", name)
    kept = [lora for lora in request.loras if lora.name in there]
    for tag in reversed(tags):
        if tag.name not in there:
            prompt = prompt[: tag.start] + prompt[tag.end :]
    return replace(request, loras=tuple(kept), prompt=prompt if prompt.strip() else request.prompt)
