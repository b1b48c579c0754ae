"""What a U-Net is shown in channels of its own: the mask and the masked picture, the picture, or a depth map."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from aquatint.base import images
from aquatint.base.errors import UserError
from aquatint.families import Family
from aquatint.pipelines.edit import Canvas, Edit, fitted
from aquatint.pipelines.given import Given

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.request import Resolved

PICTURE_GUIDANCE = 1.5  # Brooks et al. 2023
STRENGTH = 0.75


def settled(edit: Edit | None, family: Family) -> Edit | None:
    """The edit with its strength said: where it is not, all steps for a net that is shown the picture, else 0.75."""
    if edit is None or edit.strength is not None:
        return edit
    return replace(edit, strength=1.0 if family.sees == "picture" else STRENGTH)


def check_shown(family: Family, request: "Resolved") -> None:
    """A UserError if the model needs to be shown what the request does not have, or is given what it cannot see."""
    name, sees = family.name, family.sees
    if sees == "unknown":
        raise UserError(
            f"{name}'s U-Net takes {family.unet.channels_in} channels.",
            "The latents alone, or with a mask and picture, a picture, or a depth map.",
        )
    if sees == "picture" and request.edit is None:
        raise UserError(f"{name} changes pictures, and there is none.", "A picture to change.", "Give it (--image).")
    if sees == "depth" and request.depth is None:
        raise UserError(
            f"{name} paints after a depth map, and there is none.",
            "A picture that is white where things are near (as MiDaS and other estimators make).",
            "Give it (--depth).",
        )
    if sees != "depth" and request.depth is not None:
        raise UserError(f"A depth map for {name}.", "A model that is shown one.", "Leave it out.")
    if sees != "picture" and request.picture_guidance is not None:
        raise UserError(
            f"picture_guidance = {request.picture_guidance:g} for {name}.",
            "A model that is shown the picture (InstructPix2Pix).",
            "Leave it out.",
        )


def shown(bundle: "Bundle", request: "Resolved", over: Canvas | None) -> Float[Tensor, "1 c h w"] | None:
    """The channels behind the noisy latents', or None for a net without such.

    "mask"     the mask (1 where to paint), and the latents of the picture with that part greyed out; without an edit,
               everything is to be painted
    "picture"  the mean of the picture's latents, not scaled, as InstructPix2Pix was trained
    "depth"    the depth map, from -1 (far) to 1 (near)

    A net that learns is shown the same (training/data/holes.py, training/data/beside.py).
    """
    sees = bundle.family.sees
    if sees == "nothing":
        return None
    _, height, width = bundle.latent_shape(request.width, request.height)
    if sees == "depth":
        assert request.depth is not None, "checked before"
        return images.depth(depth_seen(request.depth, request.edit, over), height, width).to(bundle.device)
    if sees == "picture":
        assert over is not None, "checked before"
        return bundle.autoencoder.posterior(images.to_tensor(over.picture).to(bundle.device)).mean
    picture = torch.zeros(1, bundle.autoencoder.config.channels, request.height, request.width, device=bundle.device)
    mask = torch.ones(1, 1, height, width, device=bundle.device)
    if over is not None and over.mask is not None:
        hidden = torch.from_numpy(np.asarray(over.mask).astype(np.float32) >= 128)
        picture = (images.to_tensor(over.picture) * ~hidden).to(bundle.device)
        mask = F.max_pool2d(hidden[None, None].float(), bundle.autoencoder.config.factor).to(bundle.device)
    return torch.cat([mask, bundle.autoencoder.encode(picture)], dim=1)


def depth_seen(depth: Given, edit: Edit | None, over: Canvas | None) -> Image.Image:
    """The part of a depth map that lies where the picture is painted; the map spans the whole of the picture."""
    picture = images.rgb(depth.pixels).convert("L")
    if edit is None or over is None:
        return picture
    if edit.masked:
        return picture.resize(edit.size, Image.Resampling.BICUBIC).crop(over.place)
    if edit.fit != "exact":
        whole = picture.resize(edit.size, Image.Resampling.BICUBIC)
        return fitted(whole, over.picture.width, over.picture.height, edit.fit)
    return picture
