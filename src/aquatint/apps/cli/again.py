"""`aquatint again`: the same picture once more, from what its file says."""

import json
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aquatint.apps.cli.adapters import Adapting, check_files, recorded
from aquatint.apps.cli.control import Controlling, check_controls, recorded_controls, with_control_pictures
from aquatint.apps.cli.elsewhere import settled, started, steered
from aquatint.apps.cli.enlarge import Tools, opening_tools
from aquatint.apps.cli.generate import Machine, Source, line, open_bundle
from aquatint.apps.cli.output import FORMATS, SUFFIXES, Output
from aquatint.apps.cli.shown import Seen, with_depth
from aquatint.base import files
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.foreign import Account, Reading
    from aquatint.pipelines.picture import Picture
    from aquatint.pipelines.record import Record
    from aquatint.pipelines.request import Request

POCKET = "POCKET"  # the family of the carried model: the one that may be opened without being named


@dataclass(frozen=True)
class Comparison:
    """How far two pictures are apart: the largest difference of a value (0 ... 255), and the share that differ."""

    largest: int
    share: float

    def __str__(self) -> str:
        if self.largest == 0:
            return "equal bit for bit"
        return f"different: by at most {self.largest} of 255, in {100 * self.share:.2g} % of the values"


@Parameter(name="*")
@dataclass
class Wanted:
    """What is wanted of the second picture."""

    out: Annotated[str | None, Parameter(help="A folder or file; beside the picture if not given.")] = None
    anyway: Annotated[bool, Parameter(help="Paint even if it will be another picture.", negative="")] = False
    image: Annotated[Path | None, Parameter(help="The picture that it was painted from, if it is an edit.")] = None
    mask: Annotated[Path | None, Parameter(help="The mask of the edit.")] = None
    check: Annotated[bool, Parameter(help="Write nothing; exit with 1 if it comes out different.", negative="")] = False
    place: Annotated[int | None, Parameter(help="Which picture of a ComfyUI batch it is, from 1.")] = None
    json: Annotated[bool, Parameter(help="Print one JSON line.", negative="")] = False


def again(
    picture: Annotated[Path, Parameter(help="A PNG, JPEG or WebP file with its metadata.")],
    /,
    *,
    source: Source | None = None,
    machine: Machine | None = None,
    wanted: Wanted | None = None,
    adapting: Adapting | None = None,
    safety: Annotated[Path | None, Parameter(help="The safety checker that was asked.")] = None,
    controlling: Controlling | None = None,
    tools: Tools | None = None,
    seen: Seen | None = None,
) -> int:
    """Paint a picture again from its own metadata, and compare.

    With the same weights and an equal reproduction key the pixels repeat bit for bit; where something differs, it is
    said what. Device, number format, threads and engine are those that painted it, unless they are given. Pictures of
    AUTOMATIC1111, ComfyUI and InvokeAI are painted in their way as far as it goes, and it is told how far that is.
    """
    source, wanted = source or Source(), wanted or Wanted()
    original = read(picture)
    record, format = original.record, original.format
    request = with_depth(with_steering(original, asked(original, wanted), controlling), seen)
    check_named(original, source, wanted.anyway)
    suffix = picture.suffix if picture.suffix.lower() in FORMATS else SUFFIXES[format]
    beside = str(picture.with_name(f"{picture.stem}-again{suffix}"))
    output = None if wanted.check else Output(wanted.out or beside, None, 1)
    try:
        files = recorded(adapting, record) | recorded_controls(controlling, record)
        files |= {"safety": safety} | opening_tools(tools, record=record)
        bundle = open_bundle(source, as_recorded(machine or Machine(), record), files)
        account = None
        if original.reading is not None:
            request, account = settled(original.reading, bundle, request)
        told = warnings(record, bundle, wanted.anyway) if account is None else account.told()
        for warning in told:
            print(f"note: {warning}", file=sys.stderr)
        check_files(record, bundle, request, wanted.anyway)
        check_controls(record, bundle, wanted.anyway)
        painted = paint(bundle, request)
    except BaseException:
        if output is not None:
            output.abandon()
        raise
    comparison = compare(original.image, painted, format)
    path = output.write(painted.encode(output.format), request.prompt, painted.seed) if output else ""
    show(painted, path, comparison, told, account, wanted.json)
    return 1 if wanted.check and comparison.largest else 0


@dataclass(frozen=True)
class Original:
    """A picture's file: its pixels and format, and our record or else the reading of another program's words."""

    image: "Image.Image"
    format: str
    record: "Record | None"
    reading: "Reading | None"


def read(path: Path) -> Original:
    """What a file says; UserError if it says nothing of its making."""
    from aquatint.base import images
    from aquatint.pipelines import metadata
    from aquatint.pipelines.reading import read_foreign
    from aquatint.pipelines.record import record_from

    data = files.read(path, limit=images.LARGEST_FILE)
    image, format = images.decode(data), images.header(data).format
    found = metadata.find(image)
    if found.record is not None:
        return Original(image, format, record_from(found.record), None)
    reading = read_foreign(found)
    if reading is None:
        raise UserError(
            f'"{path}" does not say how it was made.', "A picture that aquatint painted, with its metadata."
        )
    return Original(image, format, None, reading)


def asked(original: Original, wanted: Wanted) -> "Request":
    """The request to paint, with the pictures of its edit."""
    if original.record is not None:
        if wanted.place is not None:
            raise UserError("--place for a picture that aquatint painted.", "Leave it out: its record says it.")
        return with_pictures(original.record.request, wanted.image, wanted.mask)
    assert original.reading is not None, "one of the two is there"
    request = started(original.reading, wanted.image, wanted.mask, wanted.anyway)
    if wanted.place is None:
        return request
    if request.stream is None:
        raise UserError(f"--place {wanted.place} for a picture of no batch.", "A picture of ComfyUI's batches.")
    return replace(request, stream=replace(request.stream, place=wanted.place - 1))


def with_steering(original: Original, request: "Request", controlling: Controlling | None) -> "Request":
    """The request with the pictures of its controls; another program's with the controls that are given for it."""
    if original.reading is None:
        return with_control_pictures(request, controlling)
    return replace(request, controls=steered(original.reading, controlling))


def with_pictures(request: "Request", image: Path | None, mask: Path | None) -> "Request":
    """The request with the pictures of its edit at hand; UserError for one that lacks, or is another."""
    from aquatint.pipelines.given import supplied

    if request.edit is None:
        if image is not None or mask is not None:
            raise UserError("--image or --mask for a picture that is no edit.", "Neither.")
        return request
    given = {"image": (request.edit.image, image), "mask": (request.edit.mask, mask)}
    found = {}
    for name, (wanted, path) in given.items():
        if wanted is None and path is not None:
            raise UserError(f"--{name} for an edit that had none.", "Leave it out.")
        if wanted is not None:
            if path is None:
                raise UserError(
                    f'The picture was painted over "{wanted.name}" (sha256 {wanted.sha256[:10]}).',
                    "That file again: a record holds no pixels.",
                    f"Give it with --{name}.",
                )
            found[name] = supplied(wanted, path)
    return replace(request, edit=replace(request.edit, image=found["image"], mask=found.get("mask")))


def check_named(original: Original, source: Source, anyway: bool) -> None:
    """No path or hub id stands in a record, and none would be followed: only the pocket model need not be named."""
    if source.model is not None or anyway:
        return
    record, reading = original.record, original.reading
    if record is not None and record.model.family != POCKET:
        raise UserError(
            f'The picture was painted by "{record.model.name}" ({record.model.family}).',
            "Which file, folder or hub id that is.",
            "Name it with --model.",
        )
    if reading is not None:
        named = f' with "{reading.model}"' if reading.model else ""
        raise UserError(
            f"The picture was painted by another program, {reading.program}{named}.",
            "Which file, folder or hub id is to paint it here.",
            "Name it with --model; --anyway takes the pocket model.",
        )


def as_recorded(machine: Machine, record: "Record | None") -> Machine:
    """The device, number format and threads that painted the picture, where the command line leaves them open."""
    if record is None:
        return machine
    from aquatint.engines.choice import TORCH

    key = record.key
    return Machine(
        device="cpu" if machine.device == "auto" and key.device == "cpu" else machine.device,
        dtype=key.dtype if machine.dtype == "auto" else machine.dtype,
        threads=key.threads if machine.threads is None else machine.threads,
        engine=TORCH if machine.engine == "auto" and key.engine == TORCH else machine.engine,
        memory=machine.memory,
    )


def warnings(record: "Record | None", bundle: "Bundle", anyway: bool) -> list[str]:
    """What is not as it was when the picture was painted; other weights are an error unless they are wanted."""
    if record is None:
        return []
    told = []
    if record.model.digest != bundle.digest:
        difference = (
            f'The picture was painted by "{record.model.name}", sha256 {record.model.digest[:10]}; '
            f'this is "{bundle.name}", sha256 {bundle.digest[:10]}.'
        )
        if not anyway:
            raise UserError(difference, "The same weights.", "Name them with --model, or paint --anyway.")
        told.append(difference)
    now = bundle.key
    changed = [
        f"{field.name} {getattr(record.key, field.name)} -> {getattr(now, field.name)}"
        for field in fields(now)
        if getattr(record.key, field.name) != getattr(now, field.name)
    ]
    if changed:
        told.append(f"the reproduction key differs, so bits may: {', '.join(changed)}")
    return told


def paint(bundle: "Bundle", request: "Request") -> "Picture":
    """The one picture of the request, with the progress bar."""
    from aquatint.apps.cli.screen import Screen
    from aquatint.pipelines.generate import generate

    course = generate(bundle, request.alone(request.seeds[0]))
    with Screen(request.resolved(bundle.family).total, 1) as screen:
        for progress in course:
            screen.step(progress.index, progress.total, progress.number, progress.count, progress.seed)
            if progress.picture is not None:
                return progress.picture
    raise AssertionError("a request's last progress brings its picture")


def compare(original: "Image.Image", painted: "Picture", format: str) -> Comparison:
    """The pixels of two files of one format: JPEG's losses are then the same on both sides."""
    import numpy as np

    from aquatint.base import images

    before = np.asarray(images.rgb(original)).astype(np.int16)
    after = np.asarray(images.rgb(images.decode(painted.encode(format)))).astype(np.int16)
    if before.shape != after.shape:
        return Comparison(255, 1.0)
    apart = np.abs(before - after)
    return Comparison(int(apart.max()), float((apart > 0).mean()))


def show(
    painted: "Picture", path: str, comparison: Comparison, told: list[str], account: "Account | None", as_json: bool
) -> None:
    """The result on standard output."""
    from aquatint.base import config

    if as_json:
        facts: dict[str, Any] = line(painted, path, sum(painted.seconds.values()))
        facts |= {"equal": comparison.largest == 0, "largest": comparison.largest, "share": comparison.share}
        facts |= {"notes": told} | ({} if account is None else {"account": config.to_data(account)})
        print(json.dumps(facts, ensure_ascii=False), flush=True)
    else:
        print("  ".join(part for part in (path, f"seed {painted.seed}", str(comparison)) if part), flush=True)
