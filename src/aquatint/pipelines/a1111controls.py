"""What infotexts say of ControlNets ("ControlNet 0: Module: canny, Model: ..., Weight: 1"), in three spellings."""

import re
from collections.abc import Mapping

from aquatint.base.errors import UserError
from aquatint.pipelines.edit import Fit
from aquatint.pipelines.foreign import Notes, Steer

MOST = 16
_KEY = re.compile(r"ControlNet[ -]([0-9]{1,2})(?: (\w[\w ]*))?\Z")
_PAIR = re.compile(r"([A-Za-z][A-Za-z /]{0,30}): (\([^()]{0,60}\)|[^,]*)")
_NAMES = {"module": "preprocessor", "guidance start": "start", "guidance end": "end"}
# Preprocessors of theirs that are ours too, and what their thresholds are called here.
_OURS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "none": ("none", ()),
    "canny": ("canny", ("low", "high")),
    "invert": ("invert", ()),
    "invert (from white bg & black line)": ("invert", ()),
}
_SIDES: Mapping[str, Fit] = {"crop and resize": "crop", "just resize": "stretch", "resize and fill": "pad"}


def steers_of(settings: Mapping[str, str], notes: Notes) -> tuple[tuple[Steer, ...], set[str]]:
    """(the controls, the keys that tell of them); what of them is not repeated is noted."""
    units, keys = _units(settings)
    steers = []
    for number, words in sorted(units.items())[:MOST]:
        name = f"ControlNet {number}"
        if words.get("enabled", "True") != "True":
            continue
        try:
            steers.append(_steer(name, words, notes))
        except UserError as error:
            notes.ignore(name, words.get("model", ""), error.got)
    return tuple(steers), keys


def _units(settings: Mapping[str, str]) -> tuple[dict[int, dict[str, str]], set[str]]:
    """Each unit's words by number, and the keys that they stand under."""
    units: dict[int, dict[str, str]] = {}
    keys = set()
    for key, value in settings.items():
        if (found := _KEY.match(key)) is None:
            continue
        keys.add(key)
        pairs = [(found[2], value)] if found[2] else _PAIR.findall(value)
        words = {name.strip().lower(): text.strip() for name, text in pairs}
        units.setdefault(int(found[1]), {}).update({_NAMES.get(name, name): text for name, text in words.items()})
    return units, keys


def _steer(name: str, words: Mapping[str, str], notes: Notes) -> Steer:
    """One unit; UserError where its numbers are none that a Control takes."""
    model = re.sub(r" \[[0-9a-fA-F]{4,64}\]\Z", "", words.get("model", ""))
    share = re.fullmatch(r"\(([^,()]*), ?([^,()]*)\)", words.get("starting/ending", ""))
    start, end = share.groups() if share else (words.get("start", "0"), words.get("end", "1"))
    module = words.get("preprocessor", "none").lower()
    way, options = _OURS.get(module, ("none", ()))
    thresholds = (words.get("threshold a"), words.get("threshold b"))[: len(options)]
    made = tuple((name, _number(text)) for name, text in zip(options, thresholds, strict=True) if text is not None)
    fit = _SIDES.get(words.get("resize mode", "").lower(), "crop")
    steer = Steer(model[:200], "", _number(words.get("weight", "1")), _number(start), _number(end), way, made, fit)
    steer.check()
    if module not in _OURS:
        notes.change(f"{name} preprocessor", module, "it is not here: give the hint that it made")
    elif way != "none":
        notes.change(f"{name} preprocessor", module, "it is made at the picture's size here")
    mode = words.get("control mode", "Balanced")
    if mode.lower() != "balanced":
        notes.change(f"{name} control mode", mode, "it is balanced here")
    return steer


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f'"{text[:40]}" stands where a number should.') from None
