"""What becomes of a picture that the safety checker flags: the user's choice, and part of the request.

bundle = load(model, safety="safety_checker")              # the user's file
bundle.paint("a cat", safety="blur")                       # note | blur | refuse; "off" asks it nothing
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageFilter
from torch import Tensor

from aquatint.base import images, runtime
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.record import File
    from aquatint.pipelines.request import Request

ACTIONS = ("off", "note", "blur", "refuse")
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures that CLIP was trained on, and their deviations
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class Flagged(UserError):
    """The request refuses flagged pictures, and this one was."""

    def __init__(self, seed: int) -> None:
        super().__init__(
            f"The safety checker flagged the picture of seed {seed}.",
            "",
            'Another seed or prompt; or safety "note" or "blur", if it is wrong.',
        )


def check_safety(bundle: "Bundle", request: "Request") -> "tuple[File, ...]":
    """The checker's file, for the record; UserError if the request asks a checker that was not opened."""
    if request.safety == "off":
        return ()
    if bundle.safety is None:
        raise UserError(
            f'safety "{request.safety}" without a safety checker.',
            "The file of one.",
            "Open it with load(safety=...) or --safety FILE.",
        )
    from aquatint.pipelines.record import File

    return (File("safety", bundle.safety.name, bundle.safety.digest, bundle.safety.digest),)


def judged(bundle: "Bundle", request: "Request", image: Image.Image) -> tuple[Image.Image, bool | None]:
    """(the picture as it may be shown, whether it was flagged or None); raises Flagged where that is wanted."""
    if request.safety == "off" or bundle.safety is None:
        return image, None
    with runtime.exact(torch.device("cpu"), bundle.threads):
        flagged = bool(bundle.safety.net(seen(image, bundle.safety.net.tower.config.size)).flagged[0])
    if flagged and request.safety == "refuse":
        raise Flagged(request.seeds[0])
    if flagged and request.safety == "blur":
        image = image.filter(ImageFilter.GaussianBlur(max(image.size) / 16))
    return image, flagged


def seen(image: Image.Image, size: int) -> Float[Tensor, "1 3 s s"]:
    """A picture as CLIP's image tower takes it: its middle, `size` pixels a side, by its mean and deviation."""
    picture = images.rgb(image)
    short = min(picture.size)
    width, height = (int(side * size / short) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    picture = picture.crop((left, top, left + size, top + size))
    values: Any = np.asarray(picture).astype(np.float32) / np.float32(255)
    values = (values - np.asarray(MEAN, np.float32)) / np.asarray(DEVIATION, np.float32)
    return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()
