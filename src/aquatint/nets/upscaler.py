"""A trained upscaler, ready to be asked."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from aquatint.nets.rrdb import CompactNet, RRDBNet
from aquatint.nets.tiles import Around


@dataclass(frozen=True, eq=False)
class Upscaler:
    """A net that enlarges pictures, by its file's name; `digest` is the file's sha256."""

    net: RRDBNet | CompactNet
    name: str
    digest: str

    @property
    def scale(self) -> int:
        """How many times larger a side becomes."""
        return self.net.config.scale

    def __call__(
        self, pictures: Float[Tensor, "b 3 h w"], tile: int = 512, around: Around = (False, False)
    ) -> Float[Tensor, "b 3 h2 w2"]:
        """Pictures in [-1, 1] -> `scale` times larger ones, about [-1, 1], computed by tiles where they are larger."""
        weight = next(self.net.parameters())
        x = ((pictures + 1) / 2).to(weight.device, weight.dtype)
        fold = self.net.config.fold if isinstance(self.net, RRDBNet) else 1
        height, width = x.shape[2:]
        odd = (0, -width % fold, 0, -height % fold)
        x = F.pad(x, odd, mode="replicate") if any(odd) else x
        with torch.no_grad():
            small = max(x.shape[2:]) <= tile and not any(around)
            made = self.net(x) if small else self.net.tiled(x, tile, around)
        return made[:, :, : height * self.scale, : width * self.scale].to(pictures.device, pictures.dtype) * 2 - 1
