"""`aquatint again`: the same picture once more, from what its file says."""

import json
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aquatint.apps.cli.adapters import Adapting, check_files, recorded
from aquatint.apps.cli.generate import Machine, Source, line, open_bundle
from aquatint.apps.cli.output import FORMATS, SUFFIXES, Output
from aquatint.apps.cli.shown import Seen, with_depth
from aquatint.base import files
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from aquatint.pipelines.bundle import Bundle
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
    json: Annotated[bool, Parameter(help="Print one JSON line.", negative="")] = False


def again(
    picture: Annotated[Path, Parameter(help="A PNG, JPEG or WebP file that aquatint painted.")],
    /,
    *,
    source: Source | None = None,
    machine: Machine | None = None,
    wanted: Wanted | None = None,
    adapting: Adapting | None = None,
    seen: Seen | None = None,
) -> int:
    """Paint a picture again from its own metadata, and compare.

    With the same weights and an equal reproduction key the pixels repeat bit for bit; where something differs, it is
    said what. Device, number format and threads are those that painted it, unless they are given.
    """
    source, wanted = source or Source(), wanted or Wanted()
    original, record, request, format = read(picture, wanted.anyway)
    request = with_depth(with_pictures(request, wanted.image, wanted.mask), seen)
    check_named(record, source, wanted.anyway)
    suffix = picture.suffix if picture.suffix.lower() in FORMATS else SUFFIXES[format]
    beside = str(picture.with_name(f"{picture.stem}-again{suffix}"))
    output = None if wanted.check else Output(wanted.out or beside, None, 1)
    try:
        bundle = open_bundle(source, as_recorded(machine or Machine(), record), recorded(adapting, record))
        told = warnings(record, bundle, wanted.anyway)
        for warning in told:
            print(f"note: {warning}", file=sys.stderr)
        check_files(record, bundle, request, wanted.anyway)
        painted = paint(bundle, request)
    except BaseException:
        if output is not None:
            output.abandon()
        raise
    comparison = compare(original, painted, format)
    path = output.write(painted.encode(output.format), request.prompt, painted.seed) if output else ""
    show(painted, path, comparison, told, wanted.json)
    return 1 if wanted.check and comparison.largest else 0


def read(path: Path, anyway: bool) -> "tuple[Image.Image, Record | None, Request, str]":
    """The picture, its record (None if another program painted it), the request, and the file's format."""
    from aquatint.base import images
    from aquatint.pipelines import infotext, metadata
    from aquatint.pipelines.record import record_from

    data = files.read(path, limit=images.LARGEST_FILE)
    original, format = images.decode(data), images.header(data).format
    found = metadata.find(original)
    if found.record is not None:
        record = record_from(found.record)
        return original, record, record.request, format
    if found.infotext is None:
        raise UserError(
            f'"{path}" does not say how it was made.', "A picture that aquatint painted, with its metadata."
        )
    request = infotext.request_from(infotext.parse_infotext(found.infotext))
    if not anyway:
        raise UserError(
            f'"{path}" was painted by another program, in its own way: it would be a similar picture at best.',
            "A picture that aquatint painted.",
            "--anyway paints the same words with the same settings and noise, on the model that you name.",
        )
    return original, None, request, format


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


def check_named(record: "Record | None", source: Source, anyway: bool) -> None:
    """No path or hub id stands in a record, and none would be followed: only the pocket model need not be named."""
    if record is not None and source.model is None and record.model.family != POCKET and not anyway:
        raise UserError(
            f'The picture was painted by "{record.model.name}" ({record.model.family}).',
            "Which file, folder or hub id that is.",
            "Name it with --model.",
        )


def as_recorded(machine: Machine, record: "Record | None") -> Machine:
    """The device, number format and threads that painted the picture, where the command line leaves them open."""
    if record is None:
        return machine
    key = record.key
    return Machine(
        device="cpu" if machine.device == "auto" and key.device == "cpu" else machine.device,
        dtype=key.dtype if machine.dtype == "auto" else machine.dtype,
        threads=key.threads if machine.threads is None else machine.threads,
    )


def warnings(record: "Record | None", bundle: "Bundle", anyway: bool) -> list[str]:
    """What is not as it was when the picture was painted; other weights are an error unless they are wanted."""
    if record is None:
        return ["painted by another program: words, settings and noise are the same, and bits are not"]
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
    with Screen(request.resolved(bundle.family).made, 1) as screen:
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


def show(painted: "Picture", path: str, comparison: Comparison, told: list[str], as_json: bool) -> None:
    """The result on standard output."""
    if as_json:
        facts: dict[str, Any] = line(painted, path, sum(painted.seconds.values()))
        facts |= {"equal": comparison.largest == 0, "largest": comparison.largest, "share": comparison.share}
        print(json.dumps(facts | {"notes": told}, ensure_ascii=False), flush=True)
    else:
        print("  ".join(part for part in (path, f"seed {painted.seed}", str(comparison)) if part), flush=True)
