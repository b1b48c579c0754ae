"""Batches of a prepared folder by step: read, checked, decoded, cut and worded, some steps ahead, by several threads.

    loader = Loader(Prepared("set"), shapes(512 * 512), batch=16, seed=1, workers=4)
    Recipe(..., batch=loader.batch, ...)

A batch is a function of (seed, step): which process, how many of them, how many workers and what was asked before do
not count. There is nothing to save: a run that goes on asks for its next step.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from aquatint.base import images
from aquatint.base.errors import UserError
from aquatint.base.noise import CROP, Noise
from aquatint.training.data.buckets import Plan, Shape
from aquatint.training.data.prepared import Prepared
from aquatint.training.data.shards import Damaged, Sample
from aquatint.training.data.wording import Wording
from aquatint.training.recipe import Batch, Moment, Share

PLACE = 2  # step of CROP's draws: where a cut lies, and whether it is mirrored


class Shown(NamedTuple):
    """A sample as a step shows it: uint8 [h, w, 3]; six numbers as XL is told them; words; and which it was.

    mirrored   whether its picture is the mirror image
    """

    pixels: np.ndarray
    cut: tuple[int, ...]
    caption: str
    number: int
    sha256: str
    mirrored: bool


class Loader:
    """The batches of one run.

    among     shapes (buckets.py); one of them, and every picture is brought to it
    batch     samples a step, over all processes
    wording   how captions vary          flip, crop   whether pictures are mirrored, and cut elsewhere than the middle
    workers   threads that work ahead    ahead        steps they are ahead at most
    skip      whether a damaged sample is left out of its batch and told of, instead of stopping the run
    tell      is told of each that is left out

    `counts` says how many samples were "indexed" (asked for), "read", "skipped" and "failed".
    """

    def __init__(
        self,
        data: Prepared,
        among: Sequence[Shape],
        *,
        batch: int,
        seed: int = 0,
        wording: Wording | None = None,
        flip: bool = False,
        crop: bool = False,
        workers: int = 0,
        ahead: int = 2,
        skip: bool = False,
        tell: Callable[[Damaged], None] | None = None,
    ) -> None:
        self.data, self.seed, self.size = data, seed, batch
        self.plan = Plan(seed, batch, data.sizes(), tuple(among))
        self.wording, self.flip, self.crop = wording or Wording(), flip, crop
        self.skip, self.tell, self.ahead = skip, tell, ahead
        self.counts: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(workers, "loader") if workers > 0 else None
        self._begun: dict[tuple[int, Share], list[Future[Shown]]] = {}

    def batch(self, moment: Moment, share: Share = Share()) -> Batch:  # noqa: B008
        """Our part of a step's batch: pixels [b, 3, h, w] in [-1, 1], cuts [b, 6], captions, numbers, sha256s, and
        which are mirrored."""
        if self.size % share.world:
            raise UserError(f"A batch of {self.size} for {share.world} processes.", "A multiple of their number.")
        found = self._gathered(moment.step, share)
        if not found:
            raise UserError(f"Every sample of step {moment.step} is damaged.", "One that is whole.", "Mend the shards.")
        pixels = torch.from_numpy(np.stack([shown.pixels for shown in found]))
        return {
            "pixels": images.from_bytes(pixels.permute(0, 3, 1, 2).contiguous()),
            "cuts": torch.tensor([shown.cut for shown in found], dtype=torch.float32),
            "captions": [shown.caption for shown in found],
            "numbers": [shown.number for shown in found],
            "sha256": [shown.sha256 for shown in found],
            "mirrored": [shown.mirrored for shown in found],
        }

    def numbers(self, step: int, share: Share = Share()) -> list[int]:  # noqa: B008
        """The samples of our part of a step, without reading them."""
        part = self.size // share.world
        return self.plan.turn(step).numbers[share.rank * part : (share.rank + 1) * part]

    def close(self) -> None:
        """Let the workers go."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _gathered(self, step: int, share: Share) -> list[Shown]:
        """The step's samples in their order, and the next steps begun."""
        if self._pool is not None:
            for coming in range(step, step + 1 + self.ahead):
                self._begin(coming, share)
            for known in [
                key for key in self._begun if not step <= key[0] <= step + self.ahead or key[1].world != share.world
            ]:
                del self._begun[known]
        shape, numbers = self.plan.turn(step).shape, self.numbers(step, share)
        first = step * self.size + share.rank * len(numbers)
        waiting = self._begun.pop((step, share), None)
        found = []
        for index, number in enumerate(numbers):
            self.counts["indexed"] += 1
            try:
                found.append(waiting[index].result() if waiting else self._shown(number, shape, first + index))
            except Damaged as damage:
                self.counts["skipped" if self.skip else "failed"] += 1
                if not self.skip:
                    raise
                if self.tell is not None:
                    self.tell(damage)
            else:
                self.counts["read"] += 1
        return found

    def _begin(self, step: int, share: Share) -> None:
        if self._pool is None or (step, share) in self._begun:
            return
        shape, numbers = self.plan.turn(step).shape, self.numbers(step, share)
        first = step * self.size + share.rank * len(numbers)
        work = [self._pool.submit(self._shown, number, shape, first + index) for index, number in enumerate(numbers)]
        self._begun[step, share] = work

    def _shown(self, number: int, shape: Shape, sample: int) -> Shown:
        """One sample for one showing; `sample` is the showing's number in the run."""
        found = self.data.read(number)
        where = [0.5, 0.5, 1.0]
        if self.crop or self.flip:
            where = Noise([self.seed], [sample]).uniform((3,), step=PLACE, draw=CROP)[0].tolist()
        across, down = where[:2] if self.crop else (0.5, 0.5)
        picture = decoded(found)
        made = ImageOps.fit(picture, shape, Image.Resampling.LANCZOS, centering=(across, down))
        mirrored = self.flip and where[2] < 0.5
        made = ImageOps.mirror(made) if mirrored else made
        words = self.wording.say(found.caption, self.seed, sample)
        return Shown(np.asarray(made), cut_of(picture.size, shape, across, down), words, number, found.sha256, mirrored)


def decoded(sample: Sample) -> Image.Image:
    """A sample's picture, RGB, as it is seen."""
    return images.rgb(images.decode(sample.picture))


def cut_of(size: tuple[int, int], shape: Shape, across: float, down: float) -> tuple[int, ...]:
    """Height and width of the picture, top and left of the cut in it once it was brought to size, those of the cut."""
    scale = max(shape.width / size[0], shape.height / size[1])
    left, top = (
        round((side * scale - goal) * part) for side, goal, part in zip(size, shape, (across, down), strict=True)
    )
    return size[1], size[0], max(0, top), max(0, left), shape.height, shape.width


def cut(picture: Image.Image, shape: Shape) -> Image.Image:
    """The middle of a picture, brought to a shape."""
    return ImageOps.fit(picture, shape, Image.Resampling.LANCZOS)


def latents_key(sha256: str, shape: Shape, mirrored: bool = False) -> str:
    """What a cache calls the latents of a picture cut from its middle to a shape."""
    return f"{sha256}/{shape.width}x{shape.height}{'/mirrored' if mirrored else ''}"
