"""From a prompt to what the net is told: chunks through the text encoders, weights applied, a Told for each change."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from aquatint.base import runtime
from aquatint.base.errors import UserError
from aquatint.diffusion.denoisers import Conditioning
from aquatint.nets.tokenizer import Tokenizer
from aquatint.pipelines.chunks import Chunk, chunks
from aquatint.pipelines.prompt import Prompt, Scene, last_steps, parse, scene_at

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle

FARTHEST = 4  # times the longest context, to which unequal ones may grow by being repeated

Key: TypeAlias = tuple[tuple[int, str, int], ...]  # of a chunk: (id, embedding, row) of each token
Encoded: TypeAlias = tuple[Float[Tensor, "n w"], Float[Tensor, " p"]]  # a chunk's tokens, and its pooled vector
Weigh: TypeAlias = Callable[[Tensor, Tensor, Callable[[], Encoded]], Tensor]


@dataclass(frozen=True)
class Told:
    """What the net is told up to the step `until` (from 1): the prompts that AND joins with their weights.

    All contexts are equally long, so that they can be asked about in one batch.
    """

    until: int
    positives: tuple[tuple[float, Conditioning], ...]
    negative: Conditioning


def tell(bundle: "Bundle", prompt: Prompt, negative: Prompt, clip_skip: int | None = None) -> tuple[Told, ...]:
    """A prompt and a negative -> what the net is told, one Told for every change; mostly there is one.

    clip_skip   which layer is read, counted from the end: 1 is the last; None is what the family was trained with
    """
    desk = _Desk(bundle, clip_skip)
    desk.prepare(list(_scenes(negative)), list(_scenes(prompt)))
    told = []
    for step in last_steps((prompt, negative)):
        away = desk.conditioning(0, scene_at(negative.parts[0], step), negative.grammar)
        toward = [desk.conditioning(1, scene_at(part, step), prompt.grammar) for part in prompt.parts]
        away, *toward = desk.level([away, *toward])
        weights = [part.weight for part in prompt.parts]
        told.append(Told(step, tuple(zip(weights, toward, strict=True)), away))
    return tuple(told)


def encode(bundle: "Bundle", texts: Sequence[str], grammar: str, clip_skip: int | None = None) -> Conditioning:
    """Texts -> what the net is told of each, row by row: context [b, n * 77, d] and, if it takes them, pooled vectors.

    Raises UserError for a text that does not say one thing from beginning to end (AND, `[a|b]`, `[a:b:0.5]`).
    """
    desk, scenes = _Desk(bundle, clip_skip), []
    for text in texts:
        prompt = parse(text, grammar, steps=2)
        if len(prompt.parts) > 1 or len(prompt.parts[0].scenes) > 1:
            raise UserError(f'"{text[:60]}" says different things at once, or one after the other.', "One thing.")
        scenes.append(prompt.parts[0].scenes[0])
    desk.prepare([(scene, grammar) for scene in scenes[::2]], [(scene, grammar) for scene in scenes[1::2]])
    rows = desk.level([desk.conditioning(index % 2, scene, grammar) for index, scene in enumerate(scenes)])
    vectors = [row.vector for row in rows if row.vector is not None]
    return Conditioning(torch.cat([row.context for row in rows]), torch.cat(vectors) if vectors else None)


class _Desk:
    """A bundle's encoders at work on one request.

    Chunks go through in batches of two, a negative's on the first row and a positive's on the second, whatever else
    is to be encoded: so the bits of a chunk follow from the chunk and its side alone.
    """

    def __init__(self, bundle: "Bundle", clip_skip: int | None) -> None:
        self.bundle, self.clip_skip = bundle, clip_skip
        self.sizes = {name: len(vectors[0]) for name, vectors in bundle.embeddings.items()}
        self.known: dict[tuple[int, int, Key], Encoded] = {}  # by encoder, side, chunk

    def prepare(self, away: Sequence[tuple[Scene, str]], toward: Sequence[tuple[Scene, str]]) -> None:
        """Encode all chunks of these scenes, two at a time."""
        for index in range(len(self.bundle.encoders)):
            keys = [
                dict.fromkeys(_key(chunk) for scene in side for chunk in self._chunks(*scene)[index])
                for side in (away, toward)
            ]
            for first, second in zip_longest(*keys, fillvalue=()):
                self._encode(index, (first, second))

    def conditioning(self, side: int, scene: Scene, grammar: str) -> Conditioning:
        """What the net is told of one scene, [1, n * 77, d]."""
        contexts, pooled = [], None
        for index, parts in enumerate(self._chunks(scene, grammar)):
            tokenizer = self.bundle.encoders[index][1]
            rows = []
            for chunk in parts:
                said = self._said(index, side, _key(chunk))[0]
                weights = torch.ones(tokenizer.length, device=said.device)
                weights[1 : 1 + len(chunk)] = torch.tensor([token.weight for token in chunk], device=said.device)
                if bool((weights != 1).any()):
                    said = WEIGHING[grammar](said, weights, partial(self._said, index, side, ()))
                rows.append(said)
            contexts.append(torch.cat(rows))
            pooled = self._said(index, side, _key(parts[0]))[1]  # of the last encoder's first chunk
        vector = pooled[None] if self.bundle.unet.config.vector and pooled is not None else None
        return Conditioning(torch.cat(contexts, dim=-1)[None], vector)

    def level(self, conds: list[Conditioning]) -> list[Conditioning]:
        """The same, all equally long. Repeating a context changes nothing for attention, but for rounding.

        Where that would take more than FARTHEST times the longest, the shorter ones get empty chunks at their end.
        """
        counts = [cond.context.shape[1] // self.bundle.tokenizer.length for cond in conds]
        whole, longest = math.lcm(*counts), max(counts)
        if whole <= FARTHEST * longest:
            return [
                cond if count == whole else replace(cond, context=cond.context.repeat(1, whole // count, 1))
                for cond, count in zip(conds, counts, strict=True)
            ]
        empty = torch.cat([self._said(index, 0, ())[0] for index in range(len(self.bundle.encoders))], dim=-1)[None]
        return [
            replace(cond, context=torch.cat([cond.context, *[empty] * (longest - count)], dim=1))
            for cond, count in zip(conds, counts, strict=True)
        ]

    def _chunks(self, scene: Scene, grammar: str) -> list[tuple[Chunk, ...]]:
        """The scene's chunks for each encoder, equally many."""
        found = [chunks(scene, grammar, tokenizer, self.sizes, []) for _, tokenizer in self.bundle.encoders]
        most = max(map(len, found))
        return [parts + ((),) * (most - len(parts)) for parts in found]

    def _said(self, index: int, side: int, key: Key) -> Encoded:
        if (index, side, key) not in self.known:
            self._encode(index, ((), key) if side else (key, ()))
        return self.known[index, side, key]

    def _encode(self, index: int, pair: tuple[Key, Key]) -> None:
        """One batch of two chunks through one encoder."""
        encoder, tokenizer = self.bundle.encoders[index]
        ids = torch.tensor([_framed(key, tokenizer) for key in pair]).to(self.bundle.device)
        words = None
        if any(name for key in pair for _, name, _ in key):
            words = encoder.words(ids).clone()
            for row, key in enumerate(pair):
                for place, (_, name, at) in enumerate(key, start=1):
                    if name:
                        words[row, place] = self.bundle.embeddings[name][index][at].to(words)
        options = {} if self.clip_skip is None else {"skip": self.clip_skip - 1}
        with runtime.exact(self.bundle.device, self.bundle.threads):
            encoded = encoder(ids, words=words, **options)
        for side, key in enumerate(pair):
            self.known[index, side, key] = encoded.tokens[side].float(), encoded.pooled[side].float()


def _scenes(prompt: Prompt) -> Sequence[tuple[Scene, str]]:
    return [(scene, prompt.grammar) for part in prompt.parts for scene in part.scenes]


def _key(chunk: Chunk) -> Key:
    return tuple((token.id, token.embedding, token.row) for token in chunk)


def _framed(key: Key, tokenizer: Tokenizer) -> list[int]:
    """start, the chunk's ids, end, padding."""
    ids = [tokenizer.start, *(id for id, _, _ in key), tokenizer.end]
    return ids + [tokenizer.end if tokenizer.pad == "end" else 0] * (tokenizer.length - len(ids))


def mean_kept(
    said: Float[Tensor, "n w"], weights: Float[Tensor, " n"], empty: Callable[[], Encoded]
) -> Float[Tensor, "n w"]:
    """A1111's arithmetic: z' = w z, then z' mean(z) / mean(z'), the means over the whole chunk."""
    weighed = said * weights[:, None]
    return weighed * (said.mean() / weighed.mean())


def from_empty(
    said: Float[Tensor, "n w"], weights: Float[Tensor, " n"], empty: Callable[[], Encoded]
) -> Float[Tensor, "n w"]:
    """ComfyUI's arithmetic: z' = e + w (z - e), where e is what the empty text says at the same place."""
    nothing, _ = empty()
    return torch.where(weights[:, None] == 1, said, nothing + weights[:, None] * (said - nothing))


WEIGHING: dict[str, Weigh] = {"a1111": mean_kept, "comfy": from_empty}
