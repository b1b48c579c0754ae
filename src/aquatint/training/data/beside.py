"""What InstructPix2Pix and depth nets are shown while they learn: files beside the pictures."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageOps
from torch import Tensor

from aquatint.base import images
from aquatint.base.errors import UserError
from aquatint.nets.autoencoder import Autoencoder
from aquatint.training.data.buckets import Shape
from aquatint.training.data.folder import BEFORE, DEPTH, Example
from aquatint.training.data.loader import cut

SIGHTS = {  # by Family.sees: what it is called, and what is asked for where it is missing
    "picture": ("picture before", f"The picture that it was made of, of the same name, in {BEFORE}/ beside it."),
    "depth": (
        "depth map",
        f"A grey picture of the same name in {DEPTH}/ beside it, as PNG, white where things are near.",
    ),
}


def check(examples: Sequence[Example], sees: str) -> None:
    """UserError if one of the examples lacks what a net that `sees` such things is shown."""
    name, takes = SIGHTS[sees]
    bare = [
        example.path.name for example in examples if (example.before if sees == "picture" else example.depth) is None
    ]
    if bare:
        raise UserError(f'"{bare[0]}" has no {name}{f", nor have {len(bare) - 1} more" if bare[1:] else ""}.', takes)


def sight(example: Example, whole: Image.Image, shape: Shape, sees: str) -> Image.Image:
    """What belongs to an example's picture (`whole`), cut as that is: the picture before (RGB), or the depth map (L).

    A depth map spans the whole picture, whatever its size. UserError for a picture before of another size, whose
    places would not be those of the picture, and for what is no picture.
    """
    path = example.before if sees == "picture" else example.depth
    assert path is not None, "checked before"
    found = Example(path, "").picture()
    if sees == "depth":
        grey = found.convert("L")
        return grey if whole.size == shape else cut(grey.resize(whole.size, Image.Resampling.BICUBIC), shape)
    if found.size != whole.size:
        raise UserError(
            f'"{path}" is {found.width} x {found.height} pixels, "{example.path.name}" {whole.width} x {whole.height}.',
            "Both of one size.",
        )
    return cut(found, shape)


def beside(
    example: Example, whole: Image.Image, shape: Shape, mirrored: bool, sees: str, autoencoder: Autoencoder
) -> Float[Tensor, "1 k h w"]:
    """The channels that the net is shown behind a picture's noisy latents, as in painting (pipelines/shown.py).

    "picture"  the mean of the latents of the picture before, not scaled (Brooks et al. 2023, as they trained it)
    "depth"    the depth map at the latents' size, from -1 (far) to 1 (near)
    """
    seen = sight(example, whole, shape, sees)
    seen = ImageOps.mirror(seen) if mirrored else seen
    if sees == "picture":
        device = next(autoencoder.parameters()).device
        return autoencoder.posterior(images.to_tensor(seen).to(device)).mean.float()
    factor = autoencoder.config.factor
    try:
        return images.depth(seen, shape.height // factor, shape.width // factor)
    except UserError as error:
        raise UserError(f'"{example.depth}": {error.got}', error.takes, error.remedy) from None


def unseen(drawn: Float[Tensor, "b 1"], silent: float, share: float) -> Bool[Tensor, "b 1"]:
    """Which samples are not shown their picture, where those with `drawn` < silent are not told their caption.

    drawn   uniform, in [0, 1);   share: of the samples that are not shown it

    Half of the rarer kind lack both, and more where there is no room: of 0.1 and 0.1, one twentieth lacks the words
    alone, one the picture alone, and one both (Brooks et al. 2023, section 3.2.1).
    """
    first = silent - min(silent, share) / 2
    return torch.remainder(drawn.double() - first, 1.0) < share
