"""Prompts with chance in them: `{a|b|c}`, `{2$$a|b|c}` and `__name__`, a line of the file name.txt in a folder.

The syntax is that of the web UI's dynamic prompts. What is chosen follows from the seed of the picture and from the
text alone. It is settled before the prompt is read, and the picture's record holds the words that came out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.base.noise import CHOICE, Noise
from aquatint.pipelines.request import LONGEST_PROMPT, Request

LARGEST_FILE = 2**22  # bytes
MOST = 1_000  # wildcards in one prompt, those in chosen lines included
DEEPEST = 16  # a wildcard in a line of a wildcard's file, and so on
_WILDCARD = re.compile(r"__([\w-][\w ./-]{0,98}?)__")
_MARK = re.compile(r"\\.|[{}|\[\]]|[^\\{}|\[\]]+|\\", re.S)
_COUNT = re.compile(r"\s*([0-9]{1,3})(?:-([0-9]{1,3}))?\$\$(?:([^$]*)\$\$)?", re.S)
_WEIGHT = re.compile(r"\s*([0-9]{1,6}(?:\.[0-9]{0,6})?)::", re.S)


def spread(request: Request, folder: str | Path | None) -> tuple[tuple[Request, ...], tuple[str, ...]]:
    """A request with chance in its prompts -> one request a seed, with the words chosen; and what was not found.

    folder   where name.txt is looked for; None: there are no wildcards, only `{a|b}`
    Raises UserError for a folder that is not there, a file that cannot be read, and lines without end.
    """
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f'"{folder}" is no folder.', "A folder with wildcards: text files, one choice a line.")
    chosen, missing = [], dict[str, None]()
    for seed in request.seeds:
        dice = _Dice(Noise((seed,)), None if folder is None else Path(folder), missing)
        prompt = dice.settled(request.prompt)
        chosen.append(replace(request, prompt=prompt, negative=dice.settled(request.negative), seeds=(seed,)))
    return tuple(chosen), tuple(missing)


@dataclass
class _Frame:
    """A brace that is open: the options in it so far, and how many square brackets are open in the last."""

    options: list[list[str]] = field(default_factory=lambda: [[]])
    square: int = 0


@dataclass
class _Dice:
    """The choices of one picture, in the order in which they come up."""

    noise: Noise
    folder: Path | None
    missing: dict[str, None]
    thrown: int = 0
    read: int = 0

    def settled(self, text: str, depth: int = 0) -> str:
        """The text with everything chosen."""
        text = self._braces(text)
        if self.folder is None:
            return text
        told, at = [], 0
        for match in _WILDCARD.finditer(text):
            line = self._line(match[1], depth)
            if line is None:
                self.missing[match[0]] = None
                line = match[0]
            told += [text[at : match.start()], line]
            at = match.end()
        settled = "".join([*told, text[at:]])
        if len(settled) > LONGEST_PROMPT:
            raise UserError(f"The prompt grew to {len(settled):,} characters.", f"At most {LONGEST_PROMPT:,}.")
        return settled

    def _braces(self, text: str) -> str:
        """The text with every `{...}` chosen, the inner ones first; a brace that does not pair is text."""
        frames = [_Frame()]
        for match in _MARK.finditer(text):
            frame, sign = frames[-1], match[0]
            if sign == "{":
                frames.append(_Frame())
            elif sign == "|" and len(frames) > 1 and not frame.square:
                frame.options.append([])
            elif sign == "}" and len(frames) > 1:
                frames.pop()
                frames[-1].options[-1].append(self._chosen(["".join(option) for option in frame.options]))
            else:
                frame.square = max(0, frame.square + (sign == "[") - (sign == "]"))
                frame.options[-1].append(sign)
        return "{".join("|".join("".join(option) for option in frame.options) for frame in frames)

    def _chosen(self, options: list[str]) -> str:
        """What a pair of braces comes to: one of its options, or several, each at most once."""
        least, most, between = 1, 1, ", "
        if match := _COUNT.match(options[0]):
            least, most = int(match[1]), int(match[2] or match[1])
            between = match[3] if match[3] is not None else between
            options = [options[0][match.end() :], *options[1:]]
        least, most = sorted((min(least, len(options)), min(most, len(options))))
        count = least if least == most else least + self._drawn([1.0] * (most - least + 1))
        left = [_weighted(option) for option in options]
        return between.join(left.pop(self._drawn([weight for _, weight in left]))[0] for _ in range(count))

    def _line(self, name: str, depth: int) -> str | None:
        """A line of a wildcard's file, everything in it chosen; None if there is no such file in the folder."""
        assert self.folder is not None, "without a folder nothing is looked up"
        self.read += 1
        path = (self.folder / f"{name}.txt").resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            return None
        if depth >= DEEPEST or self.read > MOST:
            raise UserError(f'The wildcard "{name}" leads on and on.', f"At most {MOST}, {DEEPEST} one in the other.")
        found = [line.strip() for line in files.read_text(path, limit=LARGEST_FILE).splitlines()]
        lines = [_weighted(line) for line in found if line and not line.startswith("#")]
        if not lines:
            raise UserError(f'"{path.name}" holds no line to choose.', "One choice a line; # begins a comment.")
        return self.settled(lines[self._drawn([weight for _, weight in lines])][0], depth + 1)

    def _drawn(self, weights: Sequence[float]) -> int:
        """An index, each as likely as its weight says; all alike if none counts."""
        self.thrown += 1
        at = float(self.noise.uniform((1,), step=self.thrown, draw=CHOICE)[0, 0])
        if not any(weights):
            return int(at * len(weights))
        at *= sum(weights)
        for index, weight in enumerate(weights):
            at -= weight
            if at < 0 and weight:
                return index
        return max(index for index, weight in enumerate(weights) if weight)


def _weighted(option: str) -> tuple[str, float]:
    """`3::words` -> ("words", 3.0)."""
    match = _WEIGHT.match(option)
    return (option[match.end() :], float(match[1])) if match else (option, 1.0)
