"""FreeU (Si et al. 2024): on the way up the backbone counts more and the skips' low frequencies less. No training."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aquatint.nets.shared import shared_copy
from aquatint.nets.unet import UNet, Up


def freed(net: UNet, backbone: tuple[float, float], skips: tuple[float, float], version: int = 2) -> UNet:
    """The U-Net with FreeU in the first two stages of its ascent: a copy that shares its tensors.

    backbone   b1, b2: what the first half of the backbone's channels is multiplied by in either stage
    skips      s1, s2: what the lowest frequencies of the skips are multiplied by
    version    1: by b everywhere; 2: by 1 + (b - 1) m, where m is the mean over the channels, brought to 0 ... 1 in
               each picture, so that it is amplified where it says something

    Stages are counted as diffusers does. Other programs look for the channel counts of Stable Diffusion 1 instead,
    and so take b1, s1 for two stages of it and b2, s2 for one. Where all are 1 the net itself comes back.
    """
    assert version in (1, 2), f"there is no version {version}"
    if backbone == skips == (1.0, 1.0):
        return net
    twin, widths = shared_copy(net), [stage.width for stage in net.config.stages[::-1]]
    for index, up in enumerate(list(twin.ascent)[:2]):
        assert isinstance(up, Up)
        inside = [widths[max(index - 1, 0)]] + [widths[index]] * net.config.blocks
        cells = zip(up.cells, inside, strict=True)
        up.cells = nn.ModuleList(Freed(cell, width, backbone[index], skips[index], version) for cell, width in cells)
    return twin


class Freed(nn.Module):
    """A cell of the ascent whose input is changed first: `width` channels of backbone, then those of the skip."""

    def __init__(self, cell: nn.Module, width: int, b: float, s: float, version: int) -> None:
        super().__init__()
        self.cell, self.width, self.b, self.s, self.version = cell, width, b, s, version

    @property
    def attend(self) -> nn.Module | None:
        """The cell's transformer, where those who look for it by name find it (nets/picture_prompt.py)."""
        attend: nn.Module | None = self.cell.attend  # type: ignore[assignment]
        return attend

    def forward(
        self, x: Float[Tensor, "b i h w"], time: Float[Tensor, "b t"], context: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b o h w"]:
        """The cell's answer to the changed input."""
        body, skip, half = x[:, : self.width], x[:, self.width :], self.width // 2
        by = self.b if self.version == 1 else 1 + (self.b - 1) * shown(body)
        skip = skip + (self.s - 1) * lowest(skip)
        return self.cell(torch.cat([body[:, :half] * by, body[:, half:], skip], dim=1), time, context)


def shown(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
    """The mean over the channels, brought to 0 ... 1 in each picture; 0 where it is the same everywhere."""
    mean = x.mean(1, keepdim=True)
    low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    return (mean - low) / (high - low).clamp(min=torch.finfo(mean.dtype).tiny)


def lowest(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """What the frequencies 0 and -1 along both axes bring to x: the square that FreeU's filter cuts out.

    It is not even about 0, so that the inverse transform is complex; its real part is what is published.
    """
    wave = torch.fft.fft2(x.float())
    kept = torch.zeros_like(wave)
    for row in (0, -1):
        for column in (0, -1):
            kept[..., row, column] = wave[..., row, column]
    return torch.fft.ifft2(kept).real.to(x.dtype)
