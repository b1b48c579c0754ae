"""The infotext of AUTOMATIC1111's web UI: prompt, negative prompt and one line of settings, written and read."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.base.replay import SOURCES
from aquatint.diffusion.cfg_pp import SHARE
from aquatint.diffusion.names import GRID_NAMES, SAMPLER_NAMES, Names, sampler_named
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.pipelines.guiding_words import guiding_from, words_of
from aquatint.pipelines.hires import LATENT_NAMES, PIXEL_NAMES, Hires
from aquatint.pipelines.record import Record
from aquatint.pipelines.request import Request
from aquatint.pipelines.variation import Variation


@dataclass(frozen=True)
class Infotext:
    """An infotext taken apart; settings in the order in which they stand, every value as text."""

    prompt: str
    negative: str
    settings: dict[str, str]


def infotext(record: Record) -> str:
    """The record as AUTOMATIC1111's web UI would write it, its keys in that program's order, ours behind them.

    Hashes are the files' own: of a model that is no single file there is none, and none is written.
    """
    request, file = record.request, record.model.file
    settings: dict[str, Any] = {
        "Steps": request.steps,
        "Sampler": _label(SAMPLER_NAMES, request.sampler),
        "Schedule type": _label(GRID_NAMES, request.grid),
        "CFG scale": _scale(request),
        "Image CFG scale": request.picture_guidance,
        "Seed": record.seed,
        "Size": f"{request.width}x{request.height}" if request.width and request.height else None,
        "Model hash": file[:10] or None,
        "Model": record.model.name,
        "VAE hash": _of(record, "vae", "sha256"),
        "VAE": _of(record, "vae", "name"),
        **_variation(request.variation),
        "Denoising strength": _strength(request),
        "Clip skip": request.clip_skip if (request.clip_skip or 1) > 1 else None,
        "ENSD": request.ensd or None,
        "RNG": _rng(request.sampler).get(request.noise),
        "Eta DDIM" if request.sampler == "ddim" else "Eta": request.eta or None,
        "Tiling": request.seamless and {"both": "True", "x": "X", "y": "Y"}[request.seamless],
        "CFG rescale": request.rescale or None,
        **words_of(request.guiding),
        "Mask blur": request.edit.blur if request.edit and request.edit.mask else None,
        "Inpaint area": "Only masked" if request.edit and request.edit.masked else None,
        "Masked area padding": request.edit.padding if request.edit and request.edit.masked else None,
        **_hires(request.hires),
        "Refiner": next((f"{file.name} [{file.hash[:10]}]" for file in record.files if file.kind == "refiner"), None),
        "Refiner switch at": request.refine.after if request.refine else None,
        "Lora hashes": _hashes(record, "lora"),
        "TI hashes": _hashes(record, "embedding"),
        "Hashes": _resources(record),
    }
    version = f"aquatint {record.aquatint}"
    text = _text(request, settings | {"Version": version})
    return _text(request, settings | {"Fields": _own(request, text), "Version": version})


def _text(request: Request, settings: Mapping[str, Any]) -> str:
    line = ", ".join(
        key if value == key else f"{key}: {value if key == 'Hashes' else _quoted(value)}"
        for key, value in settings.items()
        if value is not None
    )
    negative = f"\nNegative prompt: {request.negative}" if request.negative else ""
    return f"{request.prompt}{negative}\n{line}"


# What A1111 does not write, and what it then means.
_UNWRITTEN: Mapping[str, Any] = {"eta": 0.0, "rescale": 0.0, "clip_skip": 1}


def _own(request: Request, text: str) -> str | None:
    """The fields that the text so far does not give back, as JSON: but for an edit's pictures, nothing is lost."""
    read = request_from(parse_infotext(text))
    own = {}
    for field in fields(Request):
        found, wanted = (getattr(one, field.name) for one in (read, request))
        if field.name not in ("seeds", "edit") and found != wanted and (found or wanted) != _UNWRITTEN.get(field.name):
            own[field.name] = config.to_data(wanted)
    return json.dumps(own) if own else None


def _of(record: Record, kind: str, what: str) -> str | None:
    """The name, or the first ten digits of the sha256, of the one file of a kind."""
    for file in record.files:
        if file.kind == kind:
            return file.name if what == "name" else file.sha256[:10]
    return None


def _hashes(record: Record, kind: str) -> str | None:
    """Files of a kind as web UIs name them: "name: hash, name: hash"."""
    return ", ".join(f"{file.name}: {file.hash[:12]}" for file in record.files if file.kind == kind) or None


def _resources(record: Record) -> str | None:
    """The files by kind and name with ten digits of their sha256, as JSON without quotes: what Civitai looks for."""
    prefix = {"lora": "lora:", "embedding": "embed:", "vae": "vae"}
    found = {"model": record.model.file[:10]} if record.model.file else {}
    for file in record.files:
        if file.kind in prefix:
            found[prefix[file.kind] + (file.name if file.kind != "vae" else "")] = file.sha256[:10]
    # readers look for the first closing brace: one in a name is written as an escape
    return json.dumps(found)[:-1].replace("}", "\\u007d") + "}" if found else None


def parse_infotext(text: str) -> Infotext:
    """Any infotext taken apart; total: a text that is no infotext is a prompt without settings.

    The last line counts as settings if three or more of them stand in it. Of the rest, everything from a line that
    starts with "Negative prompt:" on is the negative.
    """
    before, _, last = text.rstrip().rpartition("\n")
    settings = _settings(last)
    if len(settings) < 3:
        before, settings = text, {}
    prompt, negative, at = before, "", 0 if before.startswith("Negative prompt:") else -1
    if at < 0 and (place := before.find("\nNegative prompt:")) >= 0:
        at = place + 1
    if at >= 0:
        prompt, negative = before[: max(at - 1, 0)], before[at:].removeprefix("Negative prompt:").removeprefix(" ")
    return Infotext(prompt, negative, settings)


def request_from(info: Infotext) -> Request:
    """The request that an infotext stands for, as near as names and numbers go; UserError where they do not fit."""
    settings = info.settings
    width, _, height = settings.get("Size", "").partition("x")
    sampler, grid = settings.get("Sampler", ""), settings.get("Schedule type", "")
    named, guidance = sampler_named(sampler), _float(settings.get("CFG scale", ""))
    words = {
        "prompt": info.prompt,
        "negative": info.negative,
        "width": _int(width),
        "height": _int(height),
        "seeds": (_int(settings.get("Seed", "0")),),
        "steps": _int(settings.get("Steps", "")),
        "sampler": sampler or None,
        "grid": grid if grid not in ("", "Automatic") else None,
        "guidance": guidance and guidance / _shares(named[0] if named else None),
        "picture_guidance": _float(settings.get("Image CFG scale", "")),
        "rescale": _float(settings.get("CFG rescale", "")),
        "noise": _source(settings, named[0] if named else None),
        "ensd": _int(settings.get("ENSD", "")) or 0,
        "clip_skip": _int(settings.get("Clip skip", "")),
        "eta": _float(settings.get("Eta DDIM", settings.get("Eta", ""))),
        "guiding": guiding_from(settings),
        "seamless": {"True": "both", "X": "x", "Y": "y"}.get(settings.get("Tiling", "")),
        "variation": _variation_from(settings),
        "hires": _hires_from(settings),
        **_own_words(settings),
    }
    return config.from_data(Request, words)


def _own_words(settings: Mapping[str, str]) -> dict[str, Any]:
    """The fields that only our own infotexts have."""
    if "Fields" not in settings or not settings.get("Version", "").startswith("aquatint"):
        return {}
    found = config.parse(settings["Fields"])
    if not isinstance(found, dict):
        raise UserError(f'The infotext\'s "Fields" are {settings["Fields"][:60]}.', "Fields of a request, as JSON.")
    return found


def _strength(request: Request) -> float | None:
    """Of an edit, or of a second pass."""
    return request.edit.strength if request.edit else request.hires.strength if request.hires else None


def _variation(variation: Variation | None) -> dict[str, Any]:
    if variation is None:
        return {}
    sized = f"{variation.width}x{variation.height}" if variation.width else None
    seed = variation.seed if variation.strength else None
    return {
        "Variation seed": seed,
        "Variation seed strength": variation.strength or None,
        "Seed resize from": sized,
    }


def _variation_from(settings: Mapping[str, str]) -> dict[str, Any] | None:
    strength = _float(settings.get("Variation seed strength", "")) or 0.0
    width, _, height = settings.get("Seed resize from", "").partition("x")
    sides = {"width": _int(width), "height": _int(height)} if (_int(width) or 0) > 0 and (_int(height) or 0) > 0 else {}
    if not strength and not sides:
        return None
    return {"seed": _int(settings.get("Variation seed", "")) or 0, "strength": strength, **sides}


def _hires(hires: Hires | None) -> dict[str, Any]:
    if hires is None:
        return {}
    resize = None if hires.scale else f"{hires.width or 0}x{hires.height or 0}"
    return {
        "Hires sampler": _label(SAMPLER_NAMES, hires.sampler),
        "Hires schedule type": _label(GRID_NAMES, hires.grid),
        "Hires CFG Scale": hires.guidance,
        "Hires prompt": hires.prompt,
        "Hires negative prompt": hires.negative,
        "Hires upscale": hires.scale,
        "Hires resize": resize,
        "Hires steps": hires.steps,
        "Hires upscaler": (LATENT_NAMES | PIXEL_NAMES).get(hires.upscaler, hires.upscaler),
    }


def _other(name: str) -> str | None:
    """What a second pass does otherwise than the first; None for what says that it does not."""
    return None if name in ("", "Automatic") or name.startswith("Use same") else name


def _hires_from(settings: Mapping[str, str]) -> dict[str, Any] | None:
    """The second pass that an infotext tells of; A1111 writes one of "Hires upscale" and "Hires resize"."""
    width, _, height = settings.get("Hires resize", "").partition("x")
    scale = _float(settings.get("Hires upscale", ""))
    if scale is None and not width:
        return None
    strength, guidance = _float(settings.get("Denoising strength", "")), _float(settings.get("Hires CFG Scale", ""))
    found = {
        "scale": scale,
        "width": _int(width) or None,
        "height": _int(height) or None,
        "upscaler": settings.get("Hires upscaler") or "latent",  # what A1111 takes where none is named
        "strength": 0.7 if strength is None else strength,
        "steps": _int(settings.get("Hires steps", "")) or None,
        "sampler": _other(settings.get("Hires sampler", "")),
        "grid": _other(settings.get("Hires schedule type", "")),
        "prompt": settings.get("Hires prompt") or None,
        "negative": settings.get("Hires negative prompt") or None,
        "guidance": guidance or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _scale(request: Request) -> float | None:
    """Guidance as A1111 counts it."""
    shares = _shares(request.sampler)
    return request.guidance if request.guidance is None or shares == 1 else float(f"{request.guidance * shares:.12g}")


def _shares(sampler: str | None) -> float:
    """What A1111's CFG scale is divided by for this sampler."""
    return SHARE if sampler == "ddim_cfg_pp" else 1.0


_KEY = re.compile(r"\w[\w \-/]+\Z")
_QUOTED = re.compile(r'"(?:\\.|[^\\"])++"(?=,|\Z)')
_BARE = ("Hashes", "Civitai resources", "Civitai metadata")  # JSON that stands there without quotes
_JSON = json.JSONDecoder()


def _settings(line: str) -> dict[str, str]:
    """All pairs of a line, as A1111's pattern finds them (it stands in the tests).

    That pattern takes the square of the time for lines that somebody made for it; this goes from colon to colon.
    """
    found: dict[str, str] = {}
    at = 0
    while (colon := line.find(":", at)) >= 0:
        key = _key(line, at, colon)
        if not key:
            at = colon + 1
            continue
        begin = colon + 1
        while begin < len(line) and line[begin].isspace():
            begin += 1
        end = _end(line, begin, "" if key in found else key)
        found[key] = _unquoted(line[begin:end])
        at = end + 1
    return found


def _key(line: str, low: int, colon: int) -> str:
    """The key that ends before a colon: word characters, blanks, - and /, two or more, the first of the word kind."""
    begin = colon
    while begin > low and (line[begin - 1].isalnum() or line[begin - 1] in "_ -/"):
        begin -= 1
    while begin < colon and not (line[begin].isalnum() or line[begin] == "_"):
        begin += 1
    key = line[begin:colon]
    return key.strip() if _KEY.match(key) else ""


def _end(line: str, begin: int, key: str) -> int:
    """Where a value ends: after its quotes, after the JSON of the keys that have it bare, else at the next comma."""
    if quoted := _QUOTED.match(line, begin):
        return quoted.end()
    if key in _BARE and line[begin : begin + 1] in ("{", "["):
        try:
            end = _JSON.raw_decode(line, begin)[1]
        except (ValueError, RecursionError):
            end = -1
        if end == len(line) or line[end : end + 1] == ",":
            return end
    comma = line.find(",", begin)
    return len(line) if comma < 0 else comma


def _source(settings: Mapping[str, str], sampler: str | None) -> str:
    """Whose noise an infotext's picture was made of: ours if we wrote it, else a generator of torch's.

    Without a word the web UI drew on the graphics card, whose generator "nv" is.
    """
    if "RNG" not in settings and settings.get("Version", "").startswith("aquatint"):
        return "aquatint"
    sources = {label: source for source, label in _rng(sampler).items()}
    return sources.get(settings.get("RNG", "NV"), sources["NV"])


def _rng(sampler: str | None) -> Mapping[str, str]:
    """The labels of the noise sources. The web UI's own mean a Brownian path too where a sampler takes one."""
    return _RNG_OF_PATHS if sampler is not None and sampler in SAMPLERS and SAMPLERS[sampler].path else _RNG


def _label(rows: Mapping[str, Names], name: str | None) -> str | None:
    """The web UI's name for one of ours; our own where it has none (a sampler that somebody added)."""
    return rows[name].a1111 if name is not None and name in rows else name


def _quoted(value: Any) -> str:
    """A value as the infotext's grammar needs it: in JSON's quotes if it could be misread without."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    text = str(value)
    plain = not re.search(r'[,:\n]|^["\s]|\s$', text)
    return text if plain else json.dumps(text, ensure_ascii=False)


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        try:
            value = json.loads(text)
        except ValueError:
            return text
        return value if isinstance(value, str) else text
    return text


def _int(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"-?[0-9]{1,25}", text):
        raise UserError(f'"{text[:40]}" stands where the infotext should have a whole number.')
    return int(text)


def _float(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise UserError(f'"{text[:40]}" stands where the infotext should have a number.') from None


_RNG = {source: source.upper() for source, row in SOURCES.items() if row is not None}
_RNG_OF_PATHS = _RNG | {"cpu": "CPU-TREE", "nv": "NV-TREE", "cpu+tree": "CPU", "nv+tree": "NV"}
# The keys that request_from reads. Who adds a field adds its key here; what is not here is told as left out.
READ = frozenset(
    (
        "Steps",
        "Sampler",
        "Schedule type",
        "CFG scale",
        "Seed",
        "Size",
        "RNG",
        "ENSD",
        "Clip skip",
        "Eta",
        "Eta DDIM",
        "CFG rescale",
        "Fields",
    )
)
