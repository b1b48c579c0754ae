"""Pictures of InvokeAI as requests of ours: `invokeai_metadata` of versions 3 on, `sd-metadata` of version 2."""

import math
from dataclasses import replace
from typing import Any

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.diffusion.names import sampler_named
from aquatint.pipelines.edit import Fit
from aquatint.pipelines.foreign import Notes, Reading, Start, Steer, note_sampler, parse_json, shown
from aquatint.pipelines.profiles import replayed
from aquatint.pipelines.request import Request

MOST_LORAS = 64
MOST_STEERS = 16
_READ: dict[str, tuple[str, Any]] = {
    "positive_prompt": ("prompt", str),
    "negative_prompt": ("negative", str),
    "width": ("width", int),
    "height": ("height", int),
    "seed": ("seed", int),
    "steps": ("steps", int),
    "cfg_scale": ("guidance", (int, float)),
    "cfg_rescale_multiplier": ("rescale", (int, float)),
    "scheduler": ("sampler", str),
}
# Told elsewhere, or no matter to the picture.
_SILENT = ("model", "loras", "clip_skip", "rand_device", "generation_mode", "app_version", "strength", "init_image")
_STEERS = {"controlnets": "control_model", "t2iAdapters": "t2i_adapter_model", "ipAdapters": "ip_adapter_model"}
_SIDES: dict[str, Fit] = {"just_resize": "stretch", "crop_resize": "crop", "fill_resize": "pad"}
_WHY = {
    "vae": "the model's own autoencoder is used",
    "hrf_": "no second, larger pass is made here",
    "refiner_": "there is no second model",
    "seamless_": "edges are not joined",
    "positive_style_prompt": "both text encoders are told the same",
    "negative_style_prompt": "both text encoders are told the same",
}


def read_invokeai(text: str) -> Reading:
    """`invokeai_metadata` as a Reading; UserError where it stands for nothing that we can paint."""
    data = _object(parse_json(text, "InvokeAI's metadata"))
    notes, words = Notes(), dict[str, Any]()
    for key, (field, kinds) in _READ.items():
        value = data.get(key)
        if isinstance(value, kinds) and not isinstance(value, bool):
            words[field] = value
            if key != "scheduler":
                notes.honour(key, value)
    skip = data.get("clip_skip")
    if isinstance(skip, int) and skip > 0:  # InvokeAI counts the layers that are left out
        words["clip_skip"] = skip + 1
        notes.honour("clip_skip", skip)
    words["loras"] = _loras(data.get("loras"), notes)
    words["grammar"] = "plain"
    if any(sign in words.get("prompt", "") for sign in ("++", "--", ".and(", ".blend(", ")+", ")-")):
        notes.change("positive_prompt", "", "the signs of its own grammar are read as words")
    model = data.get("model")
    name = _first(model, ("name", "model_name", "key")) if isinstance(model, dict) else ""
    start = _start(data, words)
    for key, value in data.items():
        if key not in _READ and key not in _SILENT and key not in _STEERS and value not in (None, [], {}, False, "", 0):
            why = next((why for begin, why in _WHY.items() if key.startswith(begin)), "it is not known here")
            notes.ignore(key, value, why)
    steers = _steers(data, notes)
    return replace(_reading(words, notes, name, start, cpu=data.get("rand_device") != "cuda"), steers=steers)


def read_sd_metadata(text: str) -> Reading:
    """`sd-metadata` of InvokeAI 2 as a Reading; UserError where it stands for nothing that we can paint."""
    data = _object(parse_json(text, "InvokeAI's sd-metadata"))
    image = _object(data.get("image"))
    notes, words = Notes(), dict[str, Any]()
    prompt = image.get("prompt")
    if isinstance(prompt, list):  # of several with weights, the first
        if len(prompt) > 1:
            notes.ignore("prompt", f"{len(prompt)} of them", "only the first is painted")
        first = prompt[0] if prompt else ""
        prompt = first.get("prompt") if isinstance(first, dict) else first
    if isinstance(prompt, str):
        words["prompt"], words["negative"] = _brackets(prompt)
        notes.honour("prompt", prompt)
    for key, field, kinds in (
        ("width", "width", int),
        ("height", "height", int),
        ("seed", "seed", int),
        ("steps", "steps", int),
        ("cfg_scale", "guidance", (int, float)),
        ("sampler", "sampler", str),
    ):
        value = image.get(key)
        if isinstance(value, kinds) and not isinstance(value, bool):
            words[field] = value
            if key != "sampler":
                notes.honour(key, value)
    for key in ("threshold", "perlin", "variations", "postprocessing", "hires_fix", "seamless"):
        if image.get(key):
            notes.ignore(key, image[key], "it is not repeated here")
    words["grammar"] = "plain"
    start = Start(strength=_share(image.get("strength"))) if image.get("type") == "img2img" else None
    return _reading(words, notes, _first(data, ("model_weights", "model")), start, cpu=False)


def _reading(words: dict[str, Any], notes: Notes, model: str, start: Start | None, *, cpu: bool) -> Reading:
    """The request, with noise as InvokeAI draws it: that of steps from a generator of its own, on the card."""
    name = words.get("sampler", "euler")
    if sampler_named(name) is None:
        notes.change("scheduler", words.pop("sampler"), "there is no such sampler here; Euler is taken")
    if "prompt" not in words:
        raise UserError("InvokeAI's metadata has no prompt.", "A picture that was painted from words.")
    seed = words.pop("seed", 0)
    drawn = {"noise": "cpu+nv" if cpu else "nv", "ensd": (seed ^ 0xFFFFFFFF) - seed if 0 <= seed < 2**64 else 0}
    request = config.from_data(Request, {"sampler": "euler"} | words | drawn | {"seeds": (seed,)})
    (request,) = replayed(request, "diffusers")
    if request.sampler == "dpmpp_sde":
        notes.change("scheduler", name, "its fresh noise was a Brownian path of seed 0; other noise is taken")
    else:
        note_sampler(notes, "scheduler", name, request)
    notes.honour("seed", seed)
    return Reading("InvokeAI", "diffusers", request, notes.account(), model, start=start)


def _loras(rows: Any, notes: Notes) -> list[dict[str, Any]]:
    """InvokeAI's LoRAs, [{"model" or "lora": {"name"}, "weight"}], as ours."""
    made: list[dict[str, Any]] = []
    for row in rows if isinstance(rows, list) else ():
        inner = row.get("model", row.get("lora")) if isinstance(row, dict) else None
        name = _first(inner, ("name", "model_name")) if isinstance(inner, dict) else ""
        name = name.replace("\\", "/").rpartition("/")[2].strip()[:200]
        weight = row.get("weight", 1.0) if isinstance(row, dict) else None
        number = isinstance(weight, int | float) and not isinstance(weight, bool) and abs(weight) <= 100
        if name and number and len(made) < MOST_LORAS:
            made.append({"name": name, "weight": weight})
        else:
            notes.ignore("lora", row, "its name or its weight is none that can be used")
    return made


def _steers(data: dict[str, Any], notes: Notes) -> tuple[Steer, ...]:
    """InvokeAI's controls, adapters and picture prompts, in this order."""
    made: list[Steer] = []
    for key, named in _STEERS.items():
        rows = data.get(key)
        for row in rows[:MOST_STEERS] if isinstance(rows, list) else ():
            row = row if isinstance(row, dict) else {}
            model, image = (one if isinstance(one := row.get(name), dict) else {} for name in (named, "image"))
            numbers = (
                row.get("control_weight", row.get("weight", 1.0)),
                row.get("begin_step_percent", 0.0),
                row.get("end_step_percent", 1.0),
            )
            weight, begin, end = (number if isinstance(number, int | float) else math.nan for number in numbers)
            fit = _SIDES.get(str(row.get("resize_mode"))[:40], "crop")
            names = _first(model, ("name", "model_name")), _first(image, ("image_name",))
            try:
                steer = Steer(*names, weight, begin, end, fit=fit)
                steer.check()
            except UserError as error:
                notes.ignore(key, row, error.got)
                continue
            made.append(steer)
            if row.get("control_mode", "balanced") != "balanced":
                notes.change(f"{key} control_mode", row["control_mode"], "it is balanced here")
    return tuple(made)


def _start(data: dict[str, Any], words: dict[str, Any]) -> Start | None:
    """The picture that was painted over, if the mode says so."""
    mode = data.get("generation_mode")
    if not isinstance(mode, str) or not any(part in mode for part in ("img2img", "inpaint", "outpaint")):
        return None
    return Start(shown(data.get("init_image")), _share(data.get("strength")), mask="paint" in mode)


def _share(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return float(value)
    return 0.75


def _brackets(prompt: str) -> tuple[str, str]:
    """InvokeAI 2 has its negative prompt in square brackets: "a cat [blurry]" -> ("a cat", "blurry")."""
    kept, away, at = [], [], 0
    while (begin := prompt.find("[", at)) >= 0 and (end := prompt.find("]", begin)) >= 0:
        kept.append(prompt[at:begin])
        away.append(prompt[begin + 1 : end])
        at = end + 1
    kept.append(prompt[at:])
    return " ".join("".join(kept).split()), " ".join(away)


def _first(data: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((shown(data[key]) for key in keys if isinstance(data.get(key), str)), "")


def _object(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UserError("InvokeAI's metadata is no object.", "A JSON object.")
    return data
