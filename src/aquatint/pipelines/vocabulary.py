"""The words that a small model was taught, carried beside its weights, and a clear note about all others."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from aquatint.base import config

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+")
_SILENT = frozenset(
    [
        "is",
        "are",
        "be",
        "it",
        "its",
        "this",
        "that",
        "and",
        "or",
        "please",
        "me",
        "my",
        "your",
        "some",
        "very",
        "with",
        "without",
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "i",
        "s",
        "like",
        "want",
        "paint",
        "draw",
        "show",
        "the",
        "a",
        "an",
    ]
)  # name nothing in a picture: not worth a note
_LISTED = 8  # words named in a note before it says "and n more"


@dataclass(frozen=True)
class Vocabulary:
    """What a model knows.

    model    its name, for the note ("the pocket model")
    groups   kinds of things with their names: {"subjects": ("cat", ...), "colours": ...}; names may be phrases
    others   every further word that occurred in training: plurals, synonyms, articles, relations
    """

    model: str
    groups: Mapping[str, tuple[str, ...]]
    others: tuple[str, ...] = ()

    @staticmethod
    def from_json(text: str) -> "Vocabulary":
        """Read what `to_json` wrote."""
        return config.from_json(Vocabulary, text)

    def to_json(self) -> str:
        """The vocabulary as the text of its file."""
        return config.to_json(self, indent=1)

    def words(self) -> set[str]:
        """Every single word that the model has seen, in lower case."""
        phrases = [*self.others, *(name for names in self.groups.values() for name in names)]
        return {word for phrase in phrases for word in split(phrase)}

    def unknown(self, prompt: str) -> list[str]:
        """The words of the prompt that name something and that the model has not seen, each once, in their order."""
        known = self.words()
        return list(dict.fromkeys(word for word in split(prompt) if word not in known | _SILENT))

    def note(self, prompt: str) -> str | None:
        """One sentence about the words that the model has not learned, with the nearest that it has; None if it has."""
        unknown = self.unknown(prompt)
        if not unknown:
            return None
        known = sorted(self.words())
        told = []
        for word in unknown[:_LISTED]:
            near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
            told.append(f"{word} (it knows {near[0]})" if near else word)
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        return f"The {self.model} model has not learned: {', '.join(told)}{more}."


def split(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())
