"""`aquatint inspect`: what a file is, without painting or loading anything."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aquatint.base import files
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.pipelines.metadata import Found

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


@Parameter(name="*")
@dataclass
class Reading:
    """How a model's files are read."""

    variant: Annotated[str | None, Parameter(help="Which variant of a folder's weights, as in fp16.")] = None
    revision: Annotated[str | None, Parameter(help="Which commit, tag or branch of a hub id.")] = None
    ema: Annotated[str, Parameter(help="prefer or ignore the averaged weights of a single file.")] = "ignore"
    prediction: Annotated[str | None, Parameter(help="epsilon, v or sample, if the model says it wrongly.")] = None


def inspect(
    source: Annotated[
        str | None, Parameter(help="A picture; or a model: a file, a folder, a hub id; else the pocket model.")
    ] = None,
    /,
    *,
    reading: Reading | None = None,
    check: Annotated[
        bool, Parameter(help="Read every weight, and compare with the sums promised.", negative="")
    ] = False,
    json: Annotated[bool, Parameter(help="Print one JSON object.", negative="")] = False,
) -> None:
    """Say what a picture's or a model's file holds: how it was made, or where each of its tensors would go."""
    if source is not None and Path(source).is_file() and is_picture(Path(source)):
        show(picture(Path(source)), json)
        return
    from aquatint.apps.cli import control, loras

    for described in (control.described, loras.described):
        if source is not None and Path(source).exists() and (facts := described(Path(source))):
            show(facts, json)
            return
    from aquatint.weights import inspect as plan_of
    from aquatint.weights.verify import verify

    plan = plan_of(source, **vars(reading or Reading()))
    sums = verify(source, **vars(reading or Reading())) if check else {}
    if json:
        print(as_json(plan.data() | ({"sums": sums} if check else {})))
    else:
        print("\n".join([str(plan), *(f"  sound        {name} {value}" for name, value in sums.items())]))


def is_picture(path: Path) -> bool:
    """Whether the first bytes are a PNG's, a JPEG's or a WebP's."""
    with files.reading(path) as (file, _):
        start = file.read(12)
    return start.startswith(_PICTURES) or (start[:4], start[8:]) == (b"RIFF", b"WEBP")


def picture(path: Path, trust: Path | None = None, *, raw: bool = False) -> dict[str, Any]:
    """What a picture's file says, as plain data.

    trust   certificates (PEM) of signers that are known;  raw: other programs' entries and XMP as they stand, too
    """
    from aquatint.base import config, images
    from aquatint.pipelines import infotext, metadata
    from aquatint.pipelines.provenance import credentials
    from aquatint.pipelines.record import record_from

    data = files.read(path, limit=images.LARGEST_FILE)
    head, image = images.header(data), images.decode(data)
    found = metadata.find(image)
    facts: dict[str, Any] = {
        "path": str(path),
        "format": head.format,
        "width": head.width,
        "height": head.height,
        "made_by_ai": found.marked,
        "others": list(found.others),
    }
    if found.record is not None:
        try:
            facts["record"] = config.to_data(record_from(found.record))
        except UserError as error:
            facts["record_unreadable"] = str(error)
    if found.infotext is not None:
        facts["parameters"] = config.to_data(infotext.parse_infotext(found.infotext))
    if found.record is None:
        facts |= elsewhere(found)
    anchors = None if trust is None else files.read(trust, limit=2**20)
    signed = credentials(data, head.format, anchors)
    if signed is not None:
        facts["credentials"] = config.to_data(signed)
    if found.xmp:
        names = {"CreatorTool": "creator_tool", "DigitalSourceType": "digital_source_type"}
        facts["xmp"] = {told: value for name, told in names.items() if (value := _attribute(found.xmp, name))}
    if raw:
        facts["texts"] = dict(found.texts) | ({"xmp": found.xmp} if found.xmp else {})
    return facts


def _attribute(packet: str, name: str) -> str:
    """The value of an XMP property, written as an attribute or as an element of its own."""
    _, there, rest = packet.partition(f":{name}")
    if rest.startswith('="'):
        return rest[2:].partition('"')[0][:200]
    return rest[1:].partition("<")[0].strip()[:200] if there and rest.startswith(">") else ""


def elsewhere(found: "Found") -> dict[str, Any]:
    """How `again` reads another program's picture, or why it cannot."""
    from aquatint.base import config
    from aquatint.pipelines.reading import read_foreign

    try:
        reading = read_foreign(found)
    except UserError as error:
        return {"reading_refused": str(error)}
    if reading is None:
        return {}
    fields = ("program", "profile", "model", "model_hash", "start", "request", "account")
    return {"reading": {field: config.to_data(getattr(reading, field)) for field in fields}}


def show(facts: dict[str, Any], json: bool) -> None:
    """Facts as JSON, or as lines for people."""
    print(as_json(facts) if json else "\n".join(lines(facts)))


def lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Nested facts, one a line; empty ones are left out."""
    told, width = [], max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, dict):
            told += [f"{indent}{name}", *lines(value, indent + "  ")]
        elif value not in (None, "", []):
            text = ", ".join(map(_item, value)) if isinstance(value, list) else str(value)
            told.append(f"{indent}{name:<{width}}  {text}".replace("\n", f"\n{indent}{'':<{width}}  "))
    return told


def _item(value: Any) -> str:
    """One of a list: of an object, what its fields say."""
    if not isinstance(value, dict):
        return str(value)
    return " ".join(str(part) for part in value.values() if part not in (None, "", []))


def as_json(data: Any) -> str:
    """One JSON object, indented."""
    return json.dumps(data, indent=1, ensure_ascii=False)
