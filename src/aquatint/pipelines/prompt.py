"""The prompt language: any text -> parts, scenes and weighted runs of words, with notes on what was not understood.

Three grammars. "plain" reads the text as it stands. "a1111" is the AUTOMATIC1111 web UI's: brackets for emphasis,
BREAK, AND, prompts that change while the picture grows, tags for LoRAs. "comfy" is ComfyUI's: round brackets only.
All are total: whatever the text, there is a reading, in time linear in its length, without recursion.
docs/prompts.md has the tables.
"""

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal

from aquatint.base.errors import unknown
from aquatint.pipelines.emphasis import Note, Run, comfy_runs, emphasised
from aquatint.pipelines.signs import NAME, NUMBER, TAG, Sign, signs
from aquatint.pipelines.turns import turns

LORAS = ("lora", "lyco")  # two names of one thing: networks added to the weights
TAGS = (*LORAS, "hypernet")


@dataclass(frozen=True)
class Tag:
    """`<kind:name:weight:text weight>`, taken out of the words; characters [start, end) of the prompt.

    weight is for the U-Net, text_weight for the text encoder (the same, if only one number stands there).
    """

    kind: str
    name: str
    weight: float
    text_weight: float
    start: int
    end: int


@dataclass(frozen=True)
class Scene:
    """What is said up to the step `until` (from 1): stretches of runs; each stretch begins a chunk of its own."""

    until: int
    stretches: tuple[tuple[Run, ...], ...]


@dataclass(frozen=True)
class Part:
    """One of the prompts that AND joins, with its weight: its scenes in their order, the last to the last step."""

    weight: float
    scenes: tuple[Scene, ...]


@dataclass(frozen=True)
class Prompt:
    """A text as a grammar reads it.

    parts   what AND joins; one, mostly
    tags    networks named in the text
    notes   what was dropped or not understood, and why
    """

    text: str
    grammar: str
    parts: tuple[Part, ...]
    tags: tuple[Tag, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def loras(self) -> tuple[Tag, ...]:
        """The tags that name LoRAs."""
        return tuple(tag for tag in self.tags if tag.kind in LORAS)

    def words(self) -> str:
        """The words alone, of all parts and scenes: what a vocabulary is asked about."""
        runs = (run for part in self.parts for scene in part.scenes for stretch in scene.stretches for run in stretch)
        return " ".join(dict.fromkeys(run.text for run in runs))


def parse(text: str, grammar: str = "a1111", *, steps: int = 1, negative: bool = False) -> Prompt:
    """Any text, read in a grammar, for a picture of so many steps. Never fails; UserError only for the grammar's name.

    negative   whether it says what to stay away from: there AND is a word like others
    """
    if grammar not in GRAMMARS:
        raise unknown("grammar", grammar, GRAMMARS)
    return GRAMMARS[grammar](text, steps, negative)


def tags_of(text: str, grammar: str = "a1111") -> tuple[Tag, ...]:
    """The tags in a prompt, without the rest."""
    return _tags(signs(text), [])[0] if grammar == "a1111" else ()


def written(scene: Scene, grammar: str = "a1111") -> str:
    """The scene in the grammar's own spelling, weights in figures; read again, it gives the same runs."""
    return " BREAK ".join("".join(_spelled(run, grammar) for run in stretch) for stretch in scene.stretches)


def _plain(text: str, steps: int, negative: bool) -> Prompt:
    return Prompt(text, "plain", (_whole(steps, (Run.of(text),) if text else ()),))


def _comfy(text: str, steps: int, negative: bool) -> Prompt:
    notes = [
        Note(tag.start(), tag.end(), "a tag; ComfyUI's grammar has none, so it is read as words")
        for tag in TAG.finditer(text)
    ]
    return Prompt(text, "comfy", (_whole(steps, comfy_runs(text, notes)),), (), tuple(sorted(notes)))


def _a1111(text: str, steps: int, negative: bool) -> Prompt:
    notes: list[Note] = []
    tags, rest = _tags(signs(text), notes)
    parts = []
    for group, weight in _joined(rest, negative, notes):
        scenes: list[Scene] = []
        known: dict[int, tuple[tuple[Run, ...], ...]] = {}  # by identity, while `turns` keeps them
        for until, said in turns(group, steps):
            read = known.get(id(said)) or known.setdefault(id(said), emphasised(said, notes))
            if scenes and _bare(scenes[-1].stretches) == _bare(read):
                scenes.pop()  # the change changed nothing
            scenes.append(Scene(until, read))
        parts.append(Part(weight, tuple(scenes)))
    return Prompt(text, "a1111", tuple(parts), tags, tuple(sorted(set(notes))))


def _bare(stretches: Iterable[Iterable[Run]]) -> list[list[tuple[str, float]]]:
    """What is said and how much it counts, wherever it stands."""
    return [[(run.text, run.weight) for run in stretch] for stretch in stretches]


def _whole(steps: int, runs: tuple[Run, ...]) -> Part:
    return Part(1.0, (Scene(steps, (runs,)),))


def _tags(found: Iterable[Sign], notes: list[Note]) -> tuple[tuple[Tag, ...], list[Sign]]:
    """The tags of a text, and its other signs."""
    tags, rest = [], []
    for sign in found:
        if sign.kind != "tag":
            rest.append(sign)
            continue
        kind, *values = sign.text[1:-1].split(":")
        name, numbers = values[0].strip(), [_figure(value) for value in values[1:3]]
        end = sign.start + len(sign.text)
        if kind.lower() not in TAGS:
            notes.append(Note(sign.start, end, f'a tag of the kind "{kind}", which is not known; it is left out'))
        elif not name or len(values) > 3 or None in numbers:
            notes.append(Note(sign.start, end, "a tag that is not <kind:name:weight>; it is left out"))
        else:
            figures = [number for number in numbers if number is not None] or [1.0]
            tags.append(Tag(kind.lower(), name, figures[0], figures[-1], sign.start, end))
    return tuple(tags), rest


def _figure(text: str) -> float | None:
    return float(text) if NUMBER.fullmatch(text) and len(text) < 40 else None


def _joined(found: list[Sign], negative: bool, notes: list[Note]) -> list[tuple[list[Sign], float]]:
    """What AND joins, each with the weight that stands at its end: `a cat :1.2 AND a dog :0.8`."""
    groups: list[list[Sign]] = [[]]
    for sign in found:
        if sign.kind == "and" and not negative:
            groups.append([])
            continue
        if sign.kind == "and":
            notes.append(
                Note(sign.start, sign.start + 3, "AND joins nothing in a negative prompt; it is read as a word")
            )
        groups[-1].append(sign)
    return [(groups[0], 1.0)] if len(groups) == 1 else [_weighed(group) for group in groups]


def _weighed(group: list[Sign]) -> tuple[list[Sign], float]:
    end = len(group)
    while end and not group[end - 1].text.strip():
        end -= 1
    if end < 2 or group[end - 2][:2] != ("mark", ":") or (weight := _figure(group[end - 1].text)) is None:
        return group, 1.0
    return group[: end - 2], weight


def _spelled(run: Run, grammar: str) -> str:
    if grammar == "plain":
        return run.text
    if grammar == "comfy":
        text = re.sub(r"([()])", r"\\\1", run.text)
        return f"({text}:{Decimal(repr(run.weight)):f})"
    text = NAME.sub(r"\\\1", re.sub(r"([\\()\[\]:|<])", r"\\\1", run.text))
    return text if run.weight == 1 else f"({text}:{Decimal(repr(run.weight)):f})"


def last_steps(prompts: Iterable[Prompt]) -> list[int]:
    """The steps after which something changes in any of the prompts, in their order; the last step is the last."""
    ends = {scene.until for prompt in prompts for part in prompt.parts for scene in part.scenes}
    return sorted(ends)


def scene_at(part: Part, step: int) -> Scene:
    """What a part says at a step, counted from 1."""
    return next(itertools.dropwhile(lambda scene: scene.until < step, part.scenes))


GRAMMARS: dict[str, Callable[[str, int, bool], Prompt]] = {"a1111": _a1111, "comfy": _comfy, "plain": _plain}
