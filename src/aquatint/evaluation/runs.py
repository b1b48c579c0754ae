"""Prompts painted, looked at by the detector and scored, with the controls that show what the scores are worth."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.evaluation.detector import Detector
from aquatint.evaluation.lessons import scrambled
from aquatint.evaluation.metrics import Share, wilson
from aquatint.evaluation.prompts import FACTS, SEED, Prompt, judge
from aquatint.training.data.captions import canonical
from aquatint.training.data.render import render
from aquatint.training.data.scenes import DAMAGE, Draws

Pictures = UInt8[np.ndarray, "n h w 3"]
Paint = Callable[[list[str], list[int]], np.ndarray | Tensor]  # (prompts, seeds) -> uint8 [n, h, w, 3]


@dataclass(frozen=True)
class Row:
    """Scores of one source of pictures in one category: {fact: (right, asked)}, and "all" for all facts at once."""

    source: str
    category: str
    scores: dict[str, tuple[int, int]]

    def share(self, fact: str) -> Share:
        """The share of pictures that are right in this fact, with its 95 % interval."""
        return wilson(*self.scores.get(fact, (0, 0)))


@dataclass(frozen=True)
class Table:
    """Rows that print as Markdown; tables add up row after row."""

    rows: tuple[Row, ...]

    def __add__(self, other: "Table") -> "Table":
        return Table(self.rows + other.rows)

    def row(self, source: str, category: str) -> Row:
        """The row of one source and category; KeyError if there is none."""
        for row in self.rows:
            if (row.source, row.category) == (source, category):
                return row
        raise KeyError((source, category))

    def total(self, categories: Sequence[str] | None = None, name: str = "together") -> "Table":
        """One row a source: its categories (all, or those named) added up."""
        rows: list[Row] = []
        for source in dict.fromkeys(row.source for row in self.rows):
            right, asked = Counter[str](), Counter[str]()
            for row in self.rows:
                if row.source == source and (categories is None or row.category in categories):
                    right.update({fact: pair[0] for fact, pair in row.scores.items()})
                    asked.update({fact: pair[1] for fact, pair in row.scores.items()})
            rows.append(Row(source, name, {fact: (right[fact], asked[fact]) for fact in asked}))
        return Table(tuple(rows))

    def markdown(self) -> str:
        """A table in per cent; facts that no row was asked for are left out; "all" has its 95 % interval."""
        facts = [fact for fact in FACTS if any(fact in row.scores for row in self.rows)]
        lines = [["pictures", "category", "n", *facts, "all of it (95 % interval)"]]
        lines.append(["---", "---"] + ["---:"] * (len(facts) + 2))
        for row in self.rows:
            cells = [f"{100 * row.share(fact).value:.1f}" if fact in row.scores else "" for fact in facts]
            whole = row.share("all")
            said = f"**{100 * whole.value:.1f}** ({100 * whole.low:.1f}-{100 * whole.high:.1f})"
            lines.append([row.source, row.category, str(row.scores["all"][1]), *cells, said])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def to_json(self) -> str:
        """The counts behind the table."""
        return config.to_json(self, indent=1)


def score(pictures: Pictures, detector: Detector, prompts: Sequence[Prompt], source: str) -> Table:
    """How many of the pictures show what their prompts say; picture i belongs to prompts[i]."""
    return counted(verdicts(pictures, detector, prompts), prompts, source)


def verdicts(pictures: Pictures, detector: Detector, prompts: Sequence[Prompt]) -> list[dict[str, bool]]:
    """What each picture shows of its prompt: a truth for each of its facts, and "all" for all at once."""
    judged = [judge(sight, prompt.scene) for sight, prompt in zip(detector.look(pictures), prompts, strict=True)]
    return [verdict | {"all": all(verdict.values())} for verdict in judged]


def counted(verdicts: Sequence[dict[str, bool]], prompts: Sequence[Prompt], source: str) -> Table:
    """The verdicts of one source of pictures, by category."""
    rows: dict[str, dict[str, tuple[int, int]]] = {}
    for verdict, prompt in zip(verdicts, prompts, strict=True):
        scores = rows.setdefault(prompt.category, {})
        for fact, right in verdict.items():
            hits, asked = scores.get(fact, (0, 0))
            scores[fact] = (hits + right, asked + 1)
    return Table(tuple(Row(source, category, scores) for category, scores in rows.items()))


def gather(paint: Paint, prompts: Sequence[Prompt], *, seed: int = 0, batch: int = 16) -> Pictures:
    """A picture for each prompt: prompt i is painted from seed + i, `batch` at a time."""
    parts: list[np.ndarray] = []
    for first in range(0, len(prompts), batch):
        some = prompts[first : first + batch]
        painted = paint([prompt.text for prompt in some], [seed + first + i for i in range(len(some))])
        parts.append(painted.cpu().numpy() if isinstance(painted, Tensor) else painted)
    return np.concatenate(parts)


def evaluate(
    paint: Paint,
    detector: Detector,
    prompts: Sequence[Prompt],
    *,
    source: str = "painted",
    seed: int = 0,
    batch: int = 16,
) -> Table:
    """The scores of a painter, and below them those of the same pictures held against other prompts (`crossed`)."""
    pictures = gather(paint, prompts, seed=seed, batch=batch)
    control = score(pictures, detector, crossed(prompts), f"{source}, wrong caption")
    return score(pictures, detector, prompts, source) + control


def crossed(prompts: Sequence[Prompt]) -> list[Prompt]:
    """In each prompt's place the next one of its category that says something else: the wrong-caption control.

    Scores must fall to chance; what they keep is what pictures have in common (a number of one, a big size).
    """
    result: list[Prompt] = []
    for index, prompt in enumerate(prompts):
        later = [*prompts[index + 1 :], *prompts[:index]]
        others = (other for other in later if other.category == prompt.category)
        other = next((other for other in others if canonical(other.scene) != canonical(prompt.scene)), None)
        if other is None:
            raise UserError(f'All prompts of "{prompt.category}" say the same.', "A control needs two different ones.")
        result.append(other)
    return result


def truth(prompts: Sequence[Prompt], size: int | None = None) -> Pictures:
    """The renders of the prompts' own scenes: what a perfect painter would paint."""
    return np.stack([render(prompt.scene, size) for prompt in prompts])


def controls(detector: Detector, prompts: Sequence[Prompt]) -> Table:
    """What the detector scores on true renders, the ceiling of every other row; and the floors: true renders held
    against other prompts, and renders of subjects with their tiles shuffled."""
    pictures = truth(prompts)
    table = score(pictures, detector, prompts, "true renders")
    table += score(pictures, detector, crossed(prompts), "true renders, wrong caption")
    alone = [index for index, prompt in enumerate(prompts) if prompt.category == "subject"]
    if alone:
        shuffled = np.stack([scrambled(pictures[index], Draws(SEED, index, DAMAGE)) for index in alone])
        table += score(shuffled, detector, [prompts[index] for index in alone], "true renders, shuffled")
    return table
