"""The autoencoder tile by tile: the numbers of the whole picture, with the memory of a tile where it counts.

What happens at the latents' size (an eighth of the picture's, where the attention is) is computed whole; every further
level is one piece, computed by tiles (nets/tiles.py), and only what lies between two levels is there in full: a
quarter of a decoder's largest tensor in Stable Diffusion's, where several of these are there at once otherwise. Norms
are measured over all tiles first, which takes several times as long as the whole picture would; without norms little is
lost.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.autoencoder import Autoencoder, Level
from aquatint.nets.tiles import Around, by_tiles, measured

SMALLEST = 64  # pixels of a tile's side


class _Last(nn.Module):
    """Norm, SiLU, convolution: the end of encoder and decoder."""

    def __init__(self, norm: nn.Module, leave: nn.Module) -> None:
        super().__init__()
        self.norm, self.leave = norm, leave

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(F.silu(self.norm(x)))


def decode_tiled(
    autoencoder: Autoencoder, latents: Float[Tensor, "b c h8 w8"], tile: int, around: Around = (False, False)
) -> Float[Tensor, "b 3 h w"]:
    """Autoencoder.decode by tiles of `tile` pixels a side; around: whether edges meet, down and across."""
    config, decoder = autoencoder.config, autoencoder.decoder
    z = latents / config.scale + config.shift
    x = decoder.middle(decoder.enter(autoencoder.post_quant(z.to(autoencoder.post_quant.weight.dtype))))
    levels = _levels(decoder.levels)
    for block in levels[0].blocks:
        x = block(x)
    for index, level in enumerate(levels[1:], start=1):
        last = index == len(levels) - 1
        ends = [level.resize, _Last(decoder.norm, decoder.leave)] if last else []
        piece = nn.Sequential(levels[index - 1].resize, *level.blocks, *ends)
        reach = -(-(1 + 2 * len(level.blocks) + last) // 2) + 1
        side = max(tile // 2, 1)
        ready = measured(piece, x, side, reach, finer=2, around=around)
        x = by_tiles(ready, x, side, reach, up=2, around=around)
    if len(levels) == 1:
        x = _Last(decoder.norm, decoder.leave)(levels[0].resize(x))
    return x.to(latents.dtype)


def encode_tiled(
    autoencoder: Autoencoder, pictures: Float[Tensor, "b 3 h w"], tile: int, around: Around = (False, False)
) -> Float[Tensor, "b c h8 w8"]:
    """Autoencoder.encode (the posterior's mean) by tiles of `tile` pixels a side."""
    encoder, levels = autoencoder.encoder, _levels(autoencoder.encoder.levels)
    x = pictures.to(autoencoder.quant.weight.dtype)
    for index, level in enumerate(levels[:-1]):
        first = index == 0
        piece = nn.Sequential(*([encoder.enter] if first else []), *level.blocks, level.resize)
        reach = first + 2 * len(level.blocks) + 1
        reach, side = reach + reach % 2, max(tile // 2 * 2, 2)
        ready = measured(piece, x, side, reach, around=around)
        x = by_tiles(ready, x, side, reach, down=2, around=around)
    if len(levels) == 1:
        x = encoder.enter(x)
    x = encoder.middle(levels[-1](x))
    mean, _ = autoencoder.quant(_Last(encoder.norm, encoder.leave)(x)).to(pictures.dtype).chunk(2, dim=1)
    return (mean - autoencoder.config.shift) * autoencoder.config.scale


def _levels(levels: nn.ModuleList) -> Sequence[Level]:
    made = [level for level in levels if isinstance(level, Level)]
    assert len(made) == len(levels), "an autoencoder is made of levels"
    return made
