"""What becomes of a picture that the safety checker flags: the user's choice, and part of the request.

bundle = load(model, safety="safety_checker")              # the user's file
bundle.paint("a cat", safety="blur")                       # note | blur | refuse; "off" asks it nothing
"""

from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageFilter

from aquatint.base import runtime
from aquatint.base.errors import UserError
from aquatint.pipelines.preprocess import clip_pixels

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.record import File
    from aquatint.pipelines.request import Request

ACTIONS = ("off", "note", "blur", "refuse")


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
        flagged = bool(bundle.safety.net(clip_pixels(image, bundle.safety.net.tower.config.size)).flagged[0])
    if flagged and request.safety == "refuse":
        raise Flagged(request.seeds[0])
    if flagged and request.safety == "blur":
        image = image.filter(ImageFilter.GaussianBlur(max(image.size) / 16))
    return image, flagged
