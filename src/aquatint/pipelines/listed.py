"""Many prompts in one text, a line each: plain, in kohya's way with options behind them, or JSON with fields.

a red apple
a cat asleep --n blurry --w 512 --h 768 --d 7 --l 6.5 --s 30
{"prompt": "two cats", "seed": 7, "size": "512x768", "sampler": "heun"}
"""

import re
from dataclasses import replace
from typing import Any

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.pipelines.request import Request

MOST = 10_000  # lines that say something
LONGEST = 16 * 2**20  # characters
# kohya's options by their letters: our field, and how its text is read
_LETTERS: dict[str, tuple[str, type]] = {
    "n": ("negative", str),
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "l": ("guidance", float),
    "s": ("steps", int),
    "ss": ("sampler", str),
}


def read_list(text: str, usual: Request) -> list[Request]:
    """The requests of a text: `usual` with what each line says of its own; empty lines and those after # are none.

    Every line is checked here. UserError names the line that cannot be read.
    """
    if len(text) > LONGEST:
        raise UserError(f"A list of {len(text):,} characters.", f"At most {LONGEST:,}.")
    made: list[Request] = []
    for number, line in enumerate(text.splitlines(), start=1):
        said = line.strip()
        if not said or said.startswith("#"):
            continue
        if len(made) == MOST:
            raise UserError(f"More than {MOST:,} prompts in one list.", f"At most {MOST:,}.")
        try:
            made.append(_changed(usual, _fields(said) if said.startswith("{") else _options(said)))
        except UserError as error:
            raise UserError(f"Line {number}: {error.got}", error.takes, error.remedy) from None
    if not made:
        raise UserError("The list holds no prompt.", "One a line.")
    return made


def _changed(usual: Request, words: dict[str, Any]) -> Request:
    """The usual request with fields replaced; `seed` and `size` are short for seeds, width and height."""
    if "seed" in words:
        words["seeds"] = [words.pop("seed")]
    if isinstance(size := words.pop("size", None), str):
        match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", size)
        if not match:
            raise UserError(f'size "{size[:40]}".', "WIDTHxHEIGHT, as in 512x512.")
        words |= {"width": int(match[1]), "height": int(match[2])}
    elif size is not None:
        raise UserError("size is no text.", "WIDTHxHEIGHT, as in 512x512.")
    read = config.from_data(Request, {"prompt": usual.prompt} | words)
    return replace(usual, **{name: getattr(read, name) for name in words})


def _fields(line: str) -> dict[str, Any]:
    data = config.parse(line)
    if not isinstance(data, dict) or "prompt" not in data:
        raise UserError("A line of JSON without a prompt.", 'An object, as in {"prompt": "a cat", "steps": 20}.')
    return data


def _options(line: str) -> dict[str, Any]:
    """ "a cat --s 20" -> {"prompt": "a cat", "steps": 20}."""
    prompt, *parts = re.split(r"(?:^|\s)--(?=[a-z])", line)
    words: dict[str, Any] = {"prompt": prompt.strip()}
    for part in parts:
        letters, _, value = part.strip().partition(" ")
        if letters not in _LETTERS:
            raise UserError(f'"--{letters[:20]}" is no option of a line.', f"--{', --'.join(_LETTERS)}.")
        field, kind = _LETTERS[letters]
        if field in words:
            raise UserError(f"--{letters} stands there twice.", "Each option once.")
        try:
            words[field] = kind(value.strip())
        except ValueError:
            raise UserError(f'--{letters} "{value[:40]}".', "A number.") from None
    return words
