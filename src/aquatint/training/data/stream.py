"""Captioned pictures by number: an endless, stateless stream in which sample i of a seed never changes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from aquatint.training.data.captions import caption
from aquatint.training.data.render import render
from aquatint.training.data.scenes import WORDS, Draws, Scene, scene
from aquatint.training.data.world import World


@dataclass(frozen=True)
class Stream:
    """The samples of one seed. Any worker may ask for any index, in any order: nothing is remembered.

    world     what may occur           kinds     scene kinds and their weights; the world's own if None
    size      side in px; the world's canvas if None
    complete  share of captions that name everything; empty: share of empty ones
    """

    world: World
    seed: int
    kinds: Mapping[str, float] | None = None
    size: int | None = None
    complete: float = 0.7
    empty: float = 0.1

    def scene(self, index: int) -> Scene:
        """The scene of sample `index`; never a held-out combination."""
        return scene(self.world, self.seed, index, kinds=self.kinds)

    def caption(self, index: int) -> str:
        """The caption of sample `index`, drawn from a stream of its own: changing the kinds changes no coin."""
        return caption(self.scene(index), Draws(self.seed, index, WORDS), self.complete, self.empty)

    def batch(self, indices: Iterable[int]) -> tuple[np.ndarray, list[str]]:
        """(pictures uint8 [n, size, size, 3], captions) of the samples with these numbers."""
        numbers = list(indices)
        pictures = [render(self.scene(index), self.size) for index in numbers]
        return np.stack(pictures), [self.caption(index) for index in numbers]
