"""The infotext of AUTOMATIC1111's web UI: prompt, negative prompt and one line of settings, written and read."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.diffusion.cfg_pp import SHARE
from aquatint.diffusion.names import GRID_NAMES, SAMPLER_NAMES, Names, sampler_named
from aquatint.pipelines.record import Record
from aquatint.pipelines.request import Request


@dataclass(frozen=True)
class Infotext:
    """An infotext taken apart; settings in the order in which they stand, every value as text."""

    prompt: str
    negative: str
    settings: dict[str, str]


def infotext(record: Record) -> str:
    """The record as AUTOMATIC1111's web UI would write it, its keys in that program's order."""
    request, digest = record.request, record.model.digest
    settings: dict[str, Any] = {
        "Steps": request.steps,
        "Sampler": _label(SAMPLER_NAMES, request.sampler),
        "Schedule type": _label(GRID_NAMES, request.grid),
        "CFG scale": _scale(request),
        "Seed": record.seed,
        "Size": f"{request.width}x{request.height}",
        "Model hash": digest[:10] or None,
        "Model": record.model.name,
        "Denoising strength": request.edit.strength if request.edit else None,
        "Clip skip": request.clip_skip if (request.clip_skip or 1) > 1 else None,
        "Eta DDIM" if request.sampler == "ddim" else "Eta": request.eta or None,
        "ENSD": request.ensd or None,
        "RNG": {"cpu": "CPU", "nv": "NV"}.get(request.noise),
        "CFG rescale": request.rescale or None,
        "Mask blur": request.edit.blur if request.edit and request.edit.mask else None,
        "Inpaint area": "Only masked" if request.edit and request.edit.masked else None,
        "Masked area padding": request.edit.padding if request.edit and request.edit.masked else None,
        "Refiner": next((f"{file.name} [{file.hash[:10]}]" for file in record.files if file.kind == "refiner"), None),
        "Refiner switch at": request.refine.after if request.refine else None,
        "Lora hashes": _hashes(record, "lora"),
        "TI hashes": _hashes(record, "embedding"),
        "Hashes": json.dumps({"model": digest[:10]}) if digest else None,
        "Version": f"aquatint {record.aquatint}",
    }
    line = ", ".join(
        f"{key}: {value if key == 'Hashes' else _quoted(value)}" for key, value in settings.items() if value is not None
    )
    negative = f"\nNegative prompt: {request.negative}" if request.negative else ""
    return f"{request.prompt}{negative}\n{line}"


def _hashes(record: Record, kind: str) -> str | None:
    """Files of a kind as web UIs name them: "name: hash, name: hash"."""
    return ", ".join(f"{file.name}: {file.hash[:12]}" for file in record.files if file.kind == kind) or None


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
        "rescale": _float(settings.get("CFG rescale", "")),
        "noise": _source(settings),
        "ensd": _int(settings.get("ENSD", "")) or 0,
        "clip_skip": _int(settings.get("Clip skip", "")),
        "eta": _float(settings.get("Eta DDIM", settings.get("Eta", ""))),
    }
    return config.from_data(Request, words)


def _scale(request: Request) -> float | None:
    """Guidance as A1111 counts it."""
    shares = _shares(request.sampler)
    return request.guidance if request.guidance is None or shares == 1 else float(f"{request.guidance * shares:.12g}")


def _shares(sampler: str | None) -> float:
    """What A1111's CFG scale is divided by for this sampler."""
    return SHARE if sampler == "ddim_cfg_pp" else 1.0


_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_HASHES = re.compile(r"(?:^|, )Hashes: (\{[^}]*\})")


def _settings(line: str) -> dict[str, str]:
    hashes = _HASHES.search(line)  # the one value that stands there with commas and colons, but without quotes
    if hashes:
        line = line[: hashes.start()] + line[hashes.end() :]
    found = {key.strip(): _unquoted(value) for key, value in _PAIR.findall(line)}
    return found | {"Hashes": hashes.group(1)} if hashes else found


def _source(settings: dict[str, str]) -> str:
    """Whose noise an infotext's picture was made of: ours if we wrote it, else a generator of torch's.

    Without a word the web UI drew on the graphics card, whose generator "nv" is.
    """
    if "RNG" in settings:
        return "cpu" if settings["RNG"] == "CPU" else "nv"
    return "aquatint" if settings.get("Version", "").startswith("aquatint") else "nv"


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
