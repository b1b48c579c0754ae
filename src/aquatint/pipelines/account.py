"""What became of a prompt, as plain data: chunks, tokens and their weights, changes, tags, and what was not read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aquatint.pipelines.chunks import Chunk, chunks
from aquatint.pipelines.prompt import Tag, parse

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle

_TOLD = 8  # notes in a message before it says "and n more"


@dataclass(frozen=True)
class TokenFacts:
    """A token: its id, what it spells, its weight, its characters [start, end) of the prompt, its embedding if any."""

    id: int
    text: str
    weight: float
    start: int
    end: int
    embedding: str


@dataclass(frozen=True)
class SceneFacts:
    """What is said in the steps first ... last (from 1): chunks of tokens, without start, end and padding."""

    first: int
    last: int
    chunks: tuple[tuple[TokenFacts, ...], ...]


@dataclass(frozen=True)
class PartFacts:
    """One of the prompts that AND joins."""

    weight: float
    scenes: tuple[SceneFacts, ...]


@dataclass(frozen=True)
class NoteFacts:
    """Characters [start, end) that were dropped or not understood, the text that stands there, and why."""

    start: int
    end: int
    text: str
    why: str


@dataclass(frozen=True)
class Account:
    """What became of a prompt.

    words        without the grammar's signs and tags: what the model hears, all scenes of all parts
    room         tokens that a chunk holds
    embeddings   those that were used
    """

    prompt: str
    grammar: str
    words: str
    room: int
    parts: tuple[PartFacts, ...]
    tags: tuple[Tag, ...]
    embeddings: tuple[str, ...]
    notes: tuple[NoteFacts, ...]

    def told(self) -> list[str]:
        """The notes as sentences for people."""
        said = [f'"{_short(note.text)}" {note.why}.' for note in self.notes[:_TOLD]]
        return [*said, f"And {len(self.notes) - _TOLD} more."] if len(self.notes) > _TOLD else said


def account_of(
    bundle: "Bundle", text: str, grammar: str = "a1111", *, steps: int = 1, negative: bool = False
) -> Account:
    """What a bundle's first tokenizer makes of a prompt, for a picture of so many steps; nothing is encoded."""
    tokenizer = bundle.encoders[0][1]
    sizes = {name: len(vectors[0]) for name, vectors in bundle.embeddings.items()}
    prompt = parse(text, grammar, steps=steps, negative=negative)
    notes, parts, used = list(prompt.notes), [], dict[str, None]()
    for part in prompt.parts:
        scenes, first = [], 1
        for scene in part.scenes:
            read = chunks(scene, grammar, tokenizer, sizes, notes)
            used |= dict.fromkeys(token.embedding for chunk in read for token in chunk if token.embedding)
            scenes.append(SceneFacts(first, scene.until, tuple(map(_facts, read))))
            first = scene.until + 1
        parts.append(PartFacts(part.weight, tuple(scenes)))
    told = tuple(NoteFacts(*note[:2], text[note.start : note.end], note.why) for note in sorted(set(notes)))
    return Account(text, grammar, prompt.words(), tokenizer.length - 2, tuple(parts), prompt.tags, tuple(used), told)


def _facts(chunk: Chunk) -> tuple[TokenFacts, ...]:
    return tuple(TokenFacts(*token[:6]) for token in chunk)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:20]}...{text[-17:]}"
