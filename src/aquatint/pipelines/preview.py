"""Pictures of unfinished latents, in a millisecond instead of the decoder's seconds.

A latent is mostly a colour: a linear map from its four numbers to red, green and blue shows what the decoder would, at
an eighth of the size and without detail. The map is fitted to the model's own autoencoder on a chart of flat colours,
so that every model has its own and none needs a table.
"""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from aquatint.base import images
from aquatint.nets.autoencoder import Autoencoder

SHADES = (-0.9, -0.3, 0.3, 0.9)  # of red, green and blue on the chart: 4^3 = 64 colours in 8 x 8 fields
FIELD = 4  # latents a side of each field; its outer ones see the neighbours and are left out of the fit


@dataclass(frozen=True)
class Preview:
    """rgb = latents @ matrix[:-1] + matrix[-1], pixel by pixel."""

    matrix: Float[Tensor, "c1 3"]

    def __call__(self, latents: Float[Tensor, "1 c h w"]) -> Image.Image:
        """Latents [1, 4, h, w] -> an RGB picture of w x h pixels."""
        x = latents.float().cpu().permute(0, 2, 3, 1)
        colours = torch.nan_to_num(x @ self.matrix[:-1] + self.matrix[-1]).clamp(-1.0, 1.0)
        return images.to_pictures(colours.permute(0, 3, 1, 2))[0]


def fit(autoencoder: Autoencoder, device: torch.device) -> Preview:
    """The least-squares map from latents to colours, from one encoding of the chart."""
    side = FIELD * autoencoder.config.factor
    colours = torch.tensor(list(itertools.product(SHADES, repeat=3))).T.reshape(1, 3, 8, 8)
    chart = colours.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    latents = autoencoder.encode(chart.to(device)).float().cpu()
    fields = latents.unflatten(3, (8, FIELD)).unflatten(2, (8, FIELD))[:, :, :, 1:-1, :, 1:-1].mean(dim=(3, 5))
    x = fields.flatten(2)[0].T.double()
    design = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    # the pseudo-inverse: latents of an untrained autoencoder need not span their space
    return Preview((torch.linalg.pinv(design) @ colours.flatten(2)[0].T.double()).float())
