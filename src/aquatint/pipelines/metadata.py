"""What a picture's file says about how it was made, written for three readers and read back.

`parameters`  the infotext that AUTOMATIC1111's web UI made common: other programs and sites read it
`aquatint`    our own record as JSON, lossless: what `aquatint again` paints from
XMP           IPTC's mark of media made by a trained model, or edited with one (EU AI Act, article 50(2))

PNG holds the first two as text chunks; JPEG and WebP hold the infotext as EXIF UserComment, the record inside the XMP.
Nothing that is written depends on the hour or on the other pictures of a request: a picture's file repeats too.
"""

import html
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from aquatint import __version__
from aquatint.base import config, images
from aquatint.base.errors import UserError, unknown
from aquatint.pipelines.infotext import infotext
from aquatint.pipelines.record import Record

_KINDS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MARK, MARK_OF_EDITS = f"{_KINDS}trainedAlgorithmicMedia", f"{_KINDS}compositeWithTrainedAlgorithmicMedia"
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_XMP_CHUNK = "XML:com.adobe.xmp"
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_RECORD = ("<aquatint:record>", "</aquatint:record>")
_OTHERS = {
    "prompt": "ComfyUI prompt",
    "workflow": "ComfyUI workflow",
    "invokeai_metadata": "InvokeAI metadata",
    "invokeai_graph": "InvokeAI graph",
    "invokeai_workflow": "InvokeAI workflow",
    "sd-metadata": "InvokeAI 2 metadata",
    "Dream": "InvokeAI 2 command",
}


@dataclass(frozen=True)
class Found:
    """What a file says: our record as JSON, the infotext, whether it is marked as made by AI, what others wrote.

    others, texts   the names of other programs' entries that are there; those entries themselves, by their keys
    xmp             the XMP packet, "" if there is none
    """

    record: str | None
    infotext: str | None
    marked: bool
    others: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    xmp: str = field(default="", compare=False, repr=False)


def encode(image: Image.Image, record: Record, format: str = "png") -> bytes:
    """The picture as a PNG, JPEG (quality 95, full colour resolution) or WebP (lossless) file, with its metadata."""
    if format not in images.MIME:
        raise unknown("picture format", format, images.MIME)
    out = io.BytesIO()
    text, data = infotext(record), config.to_json(record)
    mark = MARK_OF_EDITS if record.request.edit else MARK
    if format == "png":
        chunks = PngInfo()
        chunks.add_text("parameters", text)  # tEXt where Latin-1 will do, else iTXt
        chunks.add_text("aquatint", data)
        chunks.add_itxt(_XMP_CHUNK, xmp(None, mark))
        image.save(out, "PNG", pnginfo=chunks, compress_level=6)
    else:
        options: dict[str, Any] = {"exif": _exif(text), "xmp": xmp(data, mark).encode()}
        options |= {"quality": 95, "subsampling": 0} if format == "jpeg" else {"lossless": True, "quality": 80}
        image.save(out, format.upper(), **options)
    return out.getvalue()


def encode_marked(image: Image.Image, format: str = "png") -> bytes:
    """A picture that is put together from painted ones, as a file that says by whom and no more (XMP)."""
    if format not in images.MIME:
        raise unknown("picture format", format, images.MIME)
    out, chunks = io.BytesIO(), PngInfo()
    chunks.add_itxt(_XMP_CHUNK, xmp(None))
    options: dict[str, Any] = {"pnginfo": chunks} if format == "png" else {"xmp": xmp(None).encode(), "quality": 95}
    image.save(out, format.upper(), **options)
    return out.getvalue()


def encode_plain(image: Image.Image, format: str = "png", *, marked: bool) -> bytes:
    """A picture's file without a word of how it was made; with the mark of AI-made media or without."""
    if format not in images.MIME:
        raise unknown("picture format", format, images.MIME)
    out, options = io.BytesIO(), dict[str, Any]()
    if marked and format == "png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt(_XMP_CHUNK, xmp(None, MARK_OF_EDITS))
    elif marked:
        options["xmp"] = xmp(None, MARK_OF_EDITS).encode()
    options |= {"jpeg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True, "quality": 80}}.get(format, {})
    image.save(out, format.upper(), **options)
    return out.getvalue()


def find(image: Image.Image) -> Found:
    """What the file of a picture, as `base.images.decode` opened it, says about its making."""
    info = {key: value for key, value in image.info.items() if isinstance(key, str)}
    packet = info.get(_XMP_CHUNK) or info.get("xmp") or ""
    packet = packet.decode("utf-8", errors="replace") if isinstance(packet, bytes) else str(packet)
    data, text = info.get("aquatint"), info.get("parameters")
    if data is None and _RECORD[0] in packet:
        inside, closed, _ = packet.partition(_RECORD[0])[2].partition(_RECORD[1])
        data = html.unescape(inside) if closed else None
    if text is None:
        text = _user_comment(image)
    texts = {key: str(info[key]) for key in _OTHERS if key in info}
    others = tuple(_OTHERS[key] for key in texts)
    marked = MARK in packet or MARK_OF_EDITS in packet
    return Found(
        None if data is None else str(data), None if text is None else str(text), marked, others, texts, packet
    )


def format_of(name: str) -> str:
    """The format that a file's name asks for."""
    for suffix, format in FORMATS.items():
        if name.lower().endswith(suffix):
            return format
    raise UserError(f'"{name}" does not say which format is meant.', f"Names that end in {', '.join(FORMATS)}.")


def xmp(data: str | None, mark: str = MARK) -> str:
    """The XMP packet: the mark of AI-made media, the program, and our record where there is no better place for it."""
    inside = f"<aquatint:record>{html.escape(_xml_safe(data), quote=False)}</aquatint:record>" if data else ""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:aquatint="urn:aquatint:1"'
        f' xmp:CreatorTool="aquatint {__version__}" Iptc4xmpExt:DigitalSourceType="{mark}">{inside}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def _exif(text: str) -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
    return exif


def _user_comment(image: Image.Image) -> str | None:
    """EXIF's UserComment: 8 bytes that name the encoding, then the text."""
    comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    if isinstance(comment, str):
        comment = comment.encode("latin-1", errors="replace")
    if not isinstance(comment, bytes) or len(comment) <= 8:
        return None
    name, body = comment[:8], comment[8:]
    if name != b"UNICODE\0":
        return body.decode("utf-8", errors="replace").strip("\0")
    # Big-endian by custom; some programs write the other, and an infotext begins with a letter below U+0100.
    little = body[1:2] == b"\0" and body[:1] != b"\0"
    return body.decode("utf-16-le" if little else "utf-16-be", errors="replace")


def _xml_safe(data: str) -> str:
    """JSON text with the few letters that XML cannot hold written as JSON's escapes."""
    return re.sub("[\x7f-\x9f\ufffe\uffff]", lambda match: f"\\u{ord(match.group()):04x}", data)
