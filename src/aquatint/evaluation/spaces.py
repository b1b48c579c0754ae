"""Feature spaces, by name: where the distances between sets of pictures are measured.

detector    what our detector of the pocket world sees (160 numbers): blind to all that is not of that world
pixels      the means of 8 x 8 fields (192 numbers): colours and their places, no things
thumbs      the picture at 32 x 32 px (3,072 numbers): where copies of training pictures are looked for
clip        CLIP's image vector, of the user's CLIP
inception   the pool of the Inception of FID, from the user's TorchScript file: distances in it are FID and KID

All look at a picture's middle square, brought to their own size. Features are float32 [n, d].
"""

import hashlib
import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from aquatint.base import files, images
from aquatint.base.errors import UserError
from aquatint.evaluation.detector import Detector
from aquatint.evaluation.metrics import thumbnails
from aquatint.nets.text import ImageTower
from aquatint.pipelines.preprocess import clip_pixels
from aquatint.weights.clip import Clip

DETECTOR = Path(__file__).parent / "detector.safetensors"
FIELDS = 8  # a side of the space "pixels"
THUMB = 32  # px
INCEPTION_SIDE = 299  # px, by Pillow's bicubic filter, as clean-fid has it (Parmar et al. 2022)
BATCH = 32
LARGEST_SCRIPT = 512 * 2**20
# The translation of TensorFlow's Inception of 2015-12-05 that NVIDIA publishes with StyleGAN2-ADA and StyleGAN3, which
# clean-fid and k-diffusion fetch too; the sum is k-diffusion's.
INCEPTION = {"f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4": "inception-2015-12-05"}
Pictures = Sequence[Image.Image]


@dataclass(frozen=True)
class Space:
    """A way from pictures to features.

    name    as distances in it are called (fd_<name>, kd_<name>; fid and kid in Inception's)
    digest  sha256 of what looks; "" where it is arithmetic
    """

    name: str
    digest: str
    _look: Callable[[Pictures], Tensor]

    @torch.no_grad()
    def features(self, pictures: Iterable[Image.Image]) -> Float[Tensor, "n d"]:
        """One row a picture, BATCH of them in memory at once; UserError where one is not finite, or none is there."""
        source = iter(pictures)
        rows = [self._look(part).float().cpu() for part in iter(lambda: [*islice(source, BATCH)], [])]
        if not rows:
            raise UserError("There are no pictures to look at.", "One or more.")
        found = torch.cat(rows)
        if not bool(torch.isfinite(found).all()):
            bad = int((~torch.isfinite(found)).any(dim=1).nonzero()[0])
            raise UserError(
                f'The features of picture {bad} in the space "{self.name}" are not finite numbers.',
                "Sound weights.",
                "Fetch its file again.",
            )
        return found

    @property
    def distances(self) -> tuple[str, str]:
        """What the Fréchet and the kernel distance in this space are called."""
        return ("fid", "kid") if self.digest in INCEPTION else (f"fd_{self.name}", f"kd_{self.name}")


def pixels() -> Space:
    """Means of 8 x 8 fields, 0 ... 1."""

    def look(pictures: Pictures) -> Tensor:
        return torch.cat([thumbnails(np.array(one)[None], FIELDS).flatten(1) / 255 for one in squares(pictures)])

    return Space("pixels", "", look)


def thumbs() -> Space:
    """Thumbnails of 32 x 32 px, scaled so that a distance is the root mean squared difference of 0 ... 255."""

    def look(pictures: Pictures) -> Tensor:
        rows = [thumbnails(np.array(one)[None], THUMB).flatten(1) for one in squares(pictures)]
        return torch.cat(rows) / math.sqrt(3 * THUMB * THUMB)

    return Space("thumbs", "", look)


def detector(net: Detector | None = None) -> Space:
    """The carried detector's features, or another's."""
    digest = files.measure(DETECTOR)[1] if net is None else ""
    eye = Detector.open(DETECTOR) if net is None else net

    def look(pictures: Pictures) -> Tensor:
        return torch.cat([eye.features(np.array(one)[None]) for one in squares(pictures)])

    return Space("detector", digest, look)


def clip(opened: Clip) -> Space:
    """CLIP's projected vectors, as they are (not normalised)."""
    tower: ImageTower = opened.image
    size = tower.config.size
    return Space("clip", opened.digest, lambda pictures: tower(torch.cat([clip_pixels(one, size) for one in pictures])))


@torch.no_grad()
def clip_texts(opened: Clip, texts: Sequence[str]) -> Float[Tensor, "n d"]:
    """The texts' vectors in CLIP's space; of a text longer than 75 tokens the first 75 are read."""
    parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    return torch.cat([opened.text(opened.tokenizer(part)).pooled for part in parts])


def inception(path: str | Path, trusted: str | None = None) -> Space:
    """The pool of a TorchScript Inception: a module called with float pictures [n, 3, h, w] of 0 ... 255 and
    return_features=True.

    A TorchScript file holds a program, which runs here. Only a file of the one known sum is run, or one whose sum the
    user gives. Its distances are called fid and kid only for the known one. What is loaded is the very bytes that were
    summed.
    """
    blob = files.read(path, limit=LARGEST_SCRIPT)
    digest = hashlib.sha256(blob).hexdigest()
    if digest not in INCEPTION and (trusted or "").strip().lower() != digest:
        raise UserError(
            f'"{path}" is a program with the sha256 {digest}'
            + (f", not {trusted.strip()[:64]}." if trusted else ", which is not that of FID's Inception."),
            f"{next(iter(INCEPTION.values()))}.pt, sha256 {next(iter(INCEPTION))}.",
            "If you know where this file is from and want its program to run: --trust-sha256 and its sum.",
        )
    module = _script(blob, path)

    def look(pictures: Pictures) -> Tensor:
        side = (INCEPTION_SIDE, INCEPTION_SIDE)
        seen = [np.asarray(one.resize(side, Image.Resampling.BICUBIC)) for one in squares(pictures)]
        x = torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).float()
        try:
            found = module(x, return_features=True)
        except Exception as error:  # a program's own error may be any
            raise _unfit(path, str(error).strip().partition("\n")[0][:100]) from None
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(pictures):
            raise _unfit(path, "it gave no row of numbers a picture")
        return found

    return Space("inception", digest, look)


def squares(pictures: Pictures) -> Iterator[Image.Image]:
    """The middle square of each, RGB."""
    for picture in pictures:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        yield images.rgb(picture).crop((left, top, left + side, top + side))


def _script(blob: bytes, path: str | Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole, since torch 2.10
            return torch.jit.load(io.BytesIO(blob), map_location="cpu").eval()
    except Exception as error:  # torch raises RuntimeError, ValueError and others for a damaged archive
        raise _unfit(path, str(error).strip().partition("\n")[0][:100]) from None


def _unfit(path: str | Path, why: str) -> UserError:
    return UserError(f'"{path}" is no Inception in TorchScript: {why}.', "A module of pictures, return_features=True.")
