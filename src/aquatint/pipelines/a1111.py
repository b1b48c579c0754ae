"""Pictures of AUTOMATIC1111's web UI (and of what writes as it does: Forge, SD.Next, sites) as requests of ours."""

import re
from dataclasses import replace

from aquatint.base.errors import UserError
from aquatint.diffusion.names import grid_named, sampler_named
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.pipelines.a1111controls import steers_of
from aquatint.pipelines.foreign import Notes, Reading, Start, note_sampler
from aquatint.pipelines.infotext import READ, Infotext, parse_infotext, request_from
from aquatint.pipelines.profiles import replayed
from aquatint.pipelines.request import Request

MOST = 100  # keys that are tried one by one
_MODEL = (
    "Model",
    "Model hash",
    "Hashes",
    "Version",
    "User",
    "Lora hashes",
    "TI hashes",
)  # read elsewhere, or no matter
_EDIT = ("Denoising strength", "Mask blur", "Inpaint area", "Masked area padding", "Masked content", "Init image hash")
_SIGMA = {
    "Sigma churn": "s_churn",
    "Sigma tmin": "s_tmin",
    "Sigma tmax": "s_tmax",
    "Sigma noise": "s_noise",
    "Schedule rho": "rho",
    "Discard penultimate sigma": "discard",
}
# Why what we know of is left out, by the beginning of its key.
_WHY = {
    "Hires": "it tells of no second pass that could be painted",
    "Face restoration": "faces are not restored here",
    "Refiner": "there is no second model",
    "VAE": "the model's own autoencoder is used",
    "Variation seed": "the first noise is that of the seed alone",
    "Seed resize": "the noise is made for the picture's own size",
    "Tiling": "edges are not joined",
    "Token merging": "it only made painting faster, and changed the picture a little",
    "NGMS": "it only made painting faster, and changed the picture a little",
    "FP8 weight": "weights are kept as they are",
    "Image CFG scale": "it belongs to models that edit by instruction",
    "Conditional mask weight": "inpainting models see the whole mask",
    "Pad conds": "prompts are padded in our way",
    "ADetailer": "details are not painted again",
}


def read_a1111(text: str) -> Reading:
    """An infotext as a Reading; UserError where it stands for nothing that can be painted."""
    info, notes = parse_infotext(text), Notes()
    settings = dict(info.settings)
    if settings.get("Version", "").startswith("aquatint"):
        return _own(info)
    name = settings.get("Sampler", "")
    if name and sampler_named(name) is None:
        notes.change("Sampler", settings.pop("Sampler"), "there is no such sampler here; Euler is taken")
    kind = settings.get("Schedule type", "")
    if kind not in ("", "Automatic") and grid_named(kind) is None:
        notes.change("Schedule type", settings.pop("Schedule type"), "there is none of that name; the usual is taken")
    settings.setdefault("Seed", "0")
    read = Infotext(info.prompt, info.negative, settings)
    request = request_from(read)
    used = _used(read, request)
    if "Schedule type" not in settings and request.grid is None and request.sampler not in _TIMED:
        request = replace(request, grid="linspace")  # before 1.9 a sampler's name said its grid, or it was this one
    (request,) = replayed(_with_options(request, settings, notes), "a1111")
    for key in [key for key in settings if key in READ]:
        if key == "Sampler":
            note_sampler(notes, key, name, request)
        elif key != "Fields":
            notes.honour(key, settings[key])
    if "RNG" not in settings:
        notes.honour("RNG", "GPU")
    start = _start(settings, request, used, notes)
    steers, told = steers_of(settings, notes)
    _leave({key: value for key, value in settings.items() if key not in told}, used, notes)
    return Reading(
        program="AUTOMATIC1111",
        profile="a1111",
        request=request,
        account=notes.account(),
        model=settings.get("Model", ""),
        model_hash=_hash(settings.get("Model hash", "")),
        start=start,
        lora_hashes=_loras(settings.get("Lora hashes", "")),
        steers=steers,
    )


_TIMED = ("ddim", "plms", "unipc")


def _own(info: Infotext) -> Reading:
    """An infotext of ours whose record was lost: everything is read, but for what an edit began from."""
    request, notes, settings = request_from(info), Notes(), info.settings
    used = _used(info, request)
    start = None
    if "Denoising strength" in settings and "Denoising strength" not in used:
        start = _edit(settings, _number(settings["Denoising strength"]))
    for key, value in settings.items():
        if key in READ or key in used or (start is not None and key in _EDIT):
            notes.honour(key, value)
        elif key not in _MODEL and key not in _EDIT:
            notes.ignore(key, value, "this version does not know it")
    model, hashed = settings.get("Model", ""), _hash(settings.get("Model hash", ""))
    loras = _loras(settings.get("Lora hashes", ""))
    return Reading("aquatint", "aquatint", request, notes.account(), model, hashed, start, loras)


def _used(info: Infotext, request: Request) -> set[str]:
    """The keys without which it would be another request, and those that belong to them; of the first MOST keys."""
    found = set()
    for key in [key for key in info.settings if key not in READ and key not in _MODEL][:MOST]:
        others = {name: value for name, value in info.settings.items() if name != key}
        try:
            same = request_from(Infotext(info.prompt, info.negative, others)) == request
        except UserError:
            same = False
        if not same:
            found.add(key)
    groups = [start for start in _WHY if any(key.startswith(start) for key in found)]
    return found | {key for key in info.settings if any(key.startswith(start) for start in groups)}


def _with_options(request: Request, settings: dict[str, str], notes: Notes) -> Request:
    """The request with the options of Karras' samplers and grids."""
    options = dict(request.options)
    for key, name in _SIGMA.items():
        if key not in settings:
            continue
        value = 1.0 if settings[key] == "True" else _number(settings[key])
        takes = name in ("discard", "rho") or (request.sampler and name in SAMPLERS[request.sampler].options)
        if takes and (name != "rho" or request.grid in ("karras", "polyexponential")):
            options[name] = value
            notes.honour(key, settings[key])
        else:
            notes.ignore(key, settings[key], "this sampler or grid takes no such option")
    return replace(request, options=tuple(options.items()))


def _start(settings: dict[str, str], request: Request, used: set[str], notes: Notes) -> Start | None:
    """The picture that was painted over. A strength that stands beside "Hires" is that of the second pass."""
    if "Denoising strength" not in settings:
        return None
    value = settings["Denoising strength"]
    if any(key.startswith("Hires") for key in settings):
        if "Denoising strength" not in used:
            notes.ignore("Denoising strength", value, "it belongs to the second pass")
        return None
    steps = request.steps or 20
    made = int(min(_number(value), 0.999) * steps) + 1
    notes.honour("Denoising strength", value)
    notes.change("Init image", "", "its latents were drawn at random; here they are the mean")
    return _edit(settings, min(1.0, made / steps + 1e-9))


def _edit(settings: dict[str, str], strength: float) -> Start:
    fills = {"fill": "blur", "latent noise": "noise", "latent nothing": "nothing"}
    blur, padding = settings.get("Mask blur"), settings.get("Masked area padding")
    return Start(
        strength=strength,
        mask="Mask blur" in settings or "Inpaint area" in settings,
        blur=None if blur is None else _number(blur),
        masked=settings.get("Inpaint area") == "Only masked",
        padding=None if padding is None else int(_number(padding)),
        fill=fills.get(settings.get("Masked content", ""), "original"),
    )


def _leave(settings: dict[str, str], used: set[str], notes: Notes) -> None:
    """What is left out, and why."""
    for key, value in settings.items():
        if key in used:
            notes.honour(key, value)
        elif key in READ or key in _MODEL or key in _EDIT or key in _SIGMA:
            continue
        elif key == "Emphasis" and value == "Original":
            notes.honour(key, value)
        elif key == "Emphasis":
            notes.change(key, value, "words are weighed as Original does it")
        else:
            why = next((why for start, why in _WHY.items() if key.startswith(start)), "it is not known here")
            notes.ignore(key, value, why)


def _loras(text: str) -> tuple[tuple[str, str], ...]:
    """ "ink: 0123456789ab, paper: ..." -> pairs."""
    pairs = (part.rpartition(":") for part in text.split(",")[:1000])
    return tuple((name.strip(), _hash(value.strip())) for name, _, value in pairs if name.strip())


def _hash(text: str) -> str:
    return text.lower() if re.fullmatch(r"[0-9a-fA-F]{8,64}", text) else ""


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        raise UserError(f'"{text[:40]}" stands where the infotext should have a number.')
    return value
