"""A few pictures for fine-tuning: encoded once, their captions as token ids, and batches of them by number."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from aquatint.base import images
from aquatint.base.errors import UserError
from aquatint.base.noise import CAPTION, CROP, POSTERIOR, Noise
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.training.data.beside import SIGHTS, beside, check, unseen
from aquatint.training.data.buckets import Plan, Shape
from aquatint.training.data.folder import HINT, Example
from aquatint.training.data.loader import cut, cut_of

MOST_CHUNKS = 4  # of a caption
BACK = 20  # tokens that a comma may lie back


@dataclass(frozen=True)
class Written:
    """Captions as the text encoder takes them: of each as many chunks of 77, side by side.

    ids     [n, k * 77]
    slots   [n, k * 77]: which of the learned vectors stands at a place, -1 where the id's own does
    """

    ids: Int[Tensor, "n s"]
    slots: Int[Tensor, "n s"]

    def repeated(self, length: int) -> "Written":
        """The same, repeated up to so many ids, a multiple of what they have."""
        times = length // self.ids.shape[1]
        return Written(self.ids.repeat(1, times), self.slots.repeat(1, times))


def written(
    captions: Sequence[str], tokenizer: Tokenizer, word: str = "", vectors: int = 0, *, chunks: int = 1
) -> Written:
    """Captions -> ids, with a learned word's vectors wherever that word stands by itself.

    chunks   of 75 tokens that a caption may have. They end as they do in a prompt (pipelines/chunks.py): at the last
             comma, where that lies at most BACK tokens back. Where captions have different numbers of chunks, each is
             repeated up to their common multiple, which attention does not notice

    Raises UserError for a caption that is longer, and for one that lacks the word that is to be learned.
    """
    room, comma = tokenizer.length - 2, tokenizer.table.get(",</w>", -1)
    apart = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)") if word else None
    told: list[list[list[tuple[int, int]]]] = []
    for caption in captions:
        parts = [caption] if apart is None else apart.split(caption)
        if apart is not None and len(parts) == 1:
            raise UserError(
                f'The caption "{caption[:80]}" does not say "{word}".', "The word that is to be learned in each."
            )
        groups: list[list[tuple[int, int]]] = []
        for index, part in enumerate(parts):
            groups += [[(0, slot) for slot in range(vectors)]] if index else []
            groups += [[(id, -1)] for id in tokenizer.ids(part)]
        found = _chunks(groups, room, comma)
        if len(found) > chunks:
            raise UserError(
                f'The caption "{caption[:80]}" has {sum(map(len, groups))} tokens.',
                f"At most {chunks} chunks of {room}." if chunks > 1 else f"At most {room}.",
                "Say it shorter" + (f", or --set chunks={len(found)}." if len(found) <= MOST_CHUNKS else "."),
            )
        told.append(found)
    times = math.lcm(*map(len, told))
    ids = tokenizer([""] * (len(told) * times)).view(len(told), times, -1)
    slots = torch.full_like(ids, -1)
    for row, found in enumerate(told):
        for place in range(times):
            chunk = found[place % len(found)]
            end = len(chunk) + 1
            ids[row, place, 1 : end + 1] = torch.tensor([*(id for id, _ in chunk), tokenizer.end])
            slots[row, place, 1:end] = torch.tensor([slot for _, slot in chunk])
    return Written(ids.flatten(1), slots.flatten(1))


def _chunks(groups: Sequence[Sequence[tuple[int, int]]], room: int, comma: int) -> list[list[tuple[int, int]]]:
    """Groups of tokens (id, slot) in chunks of at most `room`, one at least; a group that fits is not torn."""
    done: list[list[tuple[int, int]]] = [[]]
    last = -1  # where the last comma of the chunk stands
    for group in groups:
        if group[0] == (comma, -1):
            last = len(done[-1])
        elif last >= 0 and len(done[-1]) == room and room - last <= BACK:
            done[-1], rest, last = done[-1][: last + 1], done[-1][last + 1 :], -1
            done.append(rest)
        if len(done[-1]) + (len(group) if len(group) <= room else 1) > room:
            done.append([])
            last = -1
        for token in group:
            if len(done[-1]) == room:
                done.append([])
            done[-1].append(token)
    return done


Hinter = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Encoded:
    """Pictures' posteriors as scaled latents, [n, c, h, w], and behind them those of their mirror images (`flipped`).

    cuts    [m, 6], what Stable Diffusion XL is told: the picture's height and width, top and left of what was cut
            out of it (once it was brought to size), height and width of that
    count   n, the pictures without their mirror images
    masks   how much each place counts, or None where no picture has a mask
    hints   what a ControlNet is shown;   pixels: the pictures themselves, for a net that is shown parts of them
    beside  what a net is shown behind the noisy latents (data/beside.py)
    """

    means: Float[Tensor, "m c h w"]
    deviations: Float[Tensor, "m c h w"]
    cuts: Float[Tensor, "m 6"]
    count: int
    masks: Float[Tensor, "m 1 h w"] | None = None
    hints: UInt8[Tensor, "m 3 y x"] | None = None
    pixels: UInt8[Tensor, "m 3 y x"] | None = None
    beside: Float[Tensor, "m k h w"] | None = None

    @property
    def flipped(self) -> bool:
        """Whether mirror images are there."""
        return len(self.means) > self.count


@torch.no_grad()
def encode(
    examples: Sequence[Example],
    autoencoder: Autoencoder,
    shape: Shape,
    *,
    flip: bool,
    sees: str = "nothing",
    hinted: bool = False,
    hinter: Hinter | None = None,
) -> Encoded:
    """Pictures cut to a shape from their middle; one by one, so that none depends on another.

    sees     what the net is shown beside the latents (Family.sees): for "mask" the pictures are kept; UserError for a
             picture before or a depth map that is missing
    hinted   whether each has a hint, by `hinter`, or its own if that is None; UserError for one that is missing
    """
    device = next(autoencoder.parameters()).device
    config = autoencoder.config
    if hinted and hinter is None and (bare := [example.path.name for example in examples if example.hint is None]):
        raise UserError(
            f'"{bare[0]}" has no hint{f", nor have {len(bare) - 1} more" if bare[1:] else ""}.',
            f"A picture of the same name in {HINT}/ beside it, as PNG.",
            "Or let one be made: --set hint=canny.",
        )
    if sees in SIGHTS:
        check(examples, sees)
    means, deviations, masks, cuts = [], [], list[Tensor](), []
    hints, kept, sights = list[Tensor](), list[Tensor](), list[Tensor]()
    masked = any(example.mask for example in examples)
    for mirrored in (False, True) if flip else (False,):
        for example in examples:
            whole = example.picture()
            picture = cut(whole, shape)
            shown = ImageOps.mirror(picture) if mirrored else picture
            cuts.append(cut_of(whole.size, shape, 0.5, 0.5))
            posterior = autoencoder.posterior(images.to_tensor(shown).to(device))
            means.append((posterior.mean.float() - config.shift) * config.scale)
            deviations.append(torch.exp(0.5 * posterior.log_variance.float()) * config.scale)
            if masked:
                masks.append(_mask(example, shape, config.factor, mirrored))
            if sees == "mask":
                kept.append(_bytes(shown))
            if sees in SIGHTS:
                sights.append(beside(example, whole, shape, mirrored, sees, autoencoder))
            if hinted:
                hints.append(_hint(example, picture, shape, mirrored, hinter))
    found = torch.cat(means), torch.cat(deviations)
    if not all(bool(torch.isfinite(part).all()) for part in (*found, *sights)):
        raise UserError("The autoencoder gave values that are not finite for these pictures.", "Sound weights.")
    told = torch.tensor(cuts, dtype=torch.float32, device=device)
    rest = {"masks": masks, "hints": hints, "pixels": kept, "beside": sights}
    return Encoded(
        *found, told, len(examples), **{name: torch.cat(rows).to(device) for name, rows in rest.items() if rows}
    )


def _mask(example: Example, shape: Shape, factor: int, mirrored: bool) -> Tensor:
    """A picture's mask on the latents, [1, 1, height, width]; ones if it has none."""
    width, height = shape.width // factor, shape.height // factor
    if example.mask is None:
        return torch.ones(1, 1, height, width)
    whole = cut(Example(example.mask, "").picture(), shape).convert("L")
    grey = whole.resize((width, height), Image.Resampling.BOX)
    found = np.asarray(ImageOps.mirror(grey) if mirrored else grey, dtype=np.float32) / 255
    return torch.from_numpy(found)[None, None]


def _hint(example: Example, picture: Image.Image, shape: Shape, mirrored: bool, hinter: Hinter | None) -> Tensor:
    """What a ControlNet is shown of a picture that was cut, [1, 3, h, w]; of its mirror image, the mirrored."""
    if hinter is None:
        assert example.hint is not None, "asked for before"
        made = cut(Example(example.hint, "").picture(), shape)
    else:
        made = hinter(picture)
    return _bytes(ImageOps.mirror(made) if mirrored else made)


def _bytes(picture: Image.Image) -> UInt8[Tensor, "1 3 h w"]:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].contiguous()


class Taught:
    """Batches by step: pictures in an order of each epoch's own, mirrored and silenced by chance, drawn latents.

    Sample k of a run is a function of (seed, k), whoever computes it.

    groups   the encoded pictures of each of the plan's shapes, None where a shape has none
    silent   share of the samples without their caption;   unseen: of those that are shown zeros for the picture before
    """

    def __init__(
        self,
        plan: Plan,
        groups: Sequence[Encoded | None],
        captions: Sequence[Written],
        empty: Sequence[Written],
        *,
        seed: int,
        silent: float,
        unseen: float = 0.0,
    ) -> None:
        self.plan, self.groups, self.captions, self.seed = plan, tuple(groups), captions, seed
        self.silent, self.unseen = silent, unseen
        self.empty = [alone.repeated(said.ids.shape[1]) for alone, said in zip(empty, captions, strict=True)]

    def batch(self, step: int, places: Sequence[int]) -> dict[str, Tensor]:
        """Of the samples at these places of a step's batch: latents, cuts, ids and slots, and of a second encoder ids2
        and slots2. Where there are such, mask, hints, pixels and beside too.
        """
        turn = self.plan.turn(step)
        noise = Noise([self.seed] * len(places), [step * self.plan.batch + place for place in places])
        return self._samples(self.plan.among.index(turn.shape), [turn.numbers[place] for place in places], noise)

    def every(self, size: int) -> Iterator[dict[str, Tensor]]:
        """Each picture once, in batches of at most `size` and of one shape."""
        done = 0
        for index, members in enumerate(self.plan.members):
            for first in range(0, len(members), size):
                chosen = members[first : first + size].tolist()
                noise = Noise([self.seed] * len(chosen), range(done, done := done + len(chosen)))
                yield self._samples(index, chosen, noise)

    def _samples(self, index: int, chosen: Sequence[int], noise: Noise) -> dict[str, Tensor]:
        """Pictures of one shape by their numbers, with what chance does to each."""
        encoded, rows = self.groups[index], torch.tensor(chosen)
        assert encoded is not None, "a step's shape has pictures"
        inside = torch.from_numpy(np.searchsorted(self.plan.members[index], chosen))
        turned = (noise.uniform((1,), draw=CROP)[:, 0] < 0.5).long() * int(encoded.flipped)
        kept = inside + turned * encoded.count
        eps = noise.normal(tuple(encoded.means.shape[1:]), draw=POSTERIOR, device=encoded.means.device)
        latents = encoded.means[kept] + encoded.deviations[kept] * eps
        drawn = noise.uniform((1,), draw=CAPTION)
        silent = drawn < self.silent
        batch = {"latents": latents, "cuts": encoded.cuts[kept]}
        for ending, said, empty in zip(("", "2")[: len(self.captions)], self.captions, self.empty, strict=True):
            batch[f"ids{ending}"] = torch.where(silent, empty.ids, said.ids[rows])
            batch[f"slots{ending}"] = torch.where(silent, empty.slots, said.slots[rows])
        rest = {"mask": encoded.masks, "hints": encoded.hints, "pixels": encoded.pixels, "beside": encoded.beside}
        batch |= {name: found[kept] for name, found in rest.items() if found is not None}
        if self.unseen:
            blind = unseen(drawn, self.silent, self.unseen)[..., None, None]
            batch["beside"] = batch["beside"].masked_fill(blind.to(latents.device), 0.0)
        return batch
