"""The KL autoencoder between pictures and latents (Kingma & Welling 2014; Rombach et al. 2022, section 3.1)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.attention import Attention
from aquatint.nets.blocks import Grow, ResBlock, Shrink, conv3, group_norm


@dataclass(frozen=True)
class AutoencoderConfig:
    """The autoencoder as data; between two widths the size halves, so four widths make a factor of 8.

    encoder, decoder   widths from full size down to the latents' size (the decoder walks its own backwards)
    blocks             ResBlocks a level in the encoder; one more in the decoder
    groups             of the GroupNorms; 0 leaves the norms out
    middle_attention   whether encoder and decoder attend at the latents' size
    scale, shift       latents = (z - shift) * scale: what brings them to unit variance for the U-Net
    """

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    blocks: int = 2
    channels: int = 3
    latents: int = 4
    groups: int = 32
    middle_attention: bool = True
    scale: float = 0.18215
    shift: float = 0.0

    @property
    def factor(self) -> int:
        """How many pixels a latent spans in each direction."""
        return int(2 ** (len(self.encoder) - 1))


class Posterior(NamedTuple):
    """A Gaussian over latents, one mean and one log-variance a value."""

    mean: Float[Tensor, "b c h w"]
    log_variance: Float[Tensor, "b c h w"]

    def sample(self, eps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """mean + exp(log_variance / 2) * eps."""
        return self.mean + torch.exp(0.5 * self.log_variance) * eps

    def kl(self) -> Float[Tensor, " b"]:
        """KL(posterior || N(0, 1)) in nats, summed over each picture's latents (Kingma & Welling 2014, appendix B)."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1.0 - self.log_variance).sum(dim=(1, 2, 3))


class SpatialAttention(nn.Module):
    """x + attention among all pixels, one head as wide as the features."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(width, groups, 1e-6)
        self.among = Attention(width, heads=1, bias=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Every pixel has seen every other."""
        y = self.among(self.norm(x).flatten(2).transpose(1, 2))
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class Middle(nn.Module):
    """ResBlock, attention (or none), ResBlock, at the latents' size."""

    def __init__(self, config: AutoencoderConfig, width: int) -> None:
        super().__init__()
        self.first = _res(config, width, width)
        self.attend = SpatialAttention(width, config.groups) if config.middle_attention else nn.Identity()
        self.second = _res(config, width, width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same shape."""
        return self.second(self.attend(self.first(x)))


class Level(nn.Module):
    """One resolution: ResBlocks, then half the size (encoder), twice the size (decoder), or neither at the end."""

    def __init__(self, blocks: list[ResBlock], resize: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resize = resize

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """The blocks in order, then the resize."""
        for block in self.blocks:
            x = block(x)
        return self.resize(x)


class Encoder(nn.Module):
    """Pictures -> mean and log-variance of the latents, before the 1x1 `quant` convolution."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.encoder
        self.enter = conv3(config.channels, widths[0])
        self.levels = nn.ModuleList()
        inside = widths[0]
        for index, width in enumerate(widths):
            blocks = [_res(config, inside if block == 0 else width, width) for block in range(config.blocks)]
            last = index == len(widths) - 1
            self.levels.append(Level(blocks, nn.Identity() if last else Shrink(width, even=True)))
            inside = width
        self.middle = Middle(config, inside)
        self.norm = group_norm(inside, config.groups, 1e-6)
        self.leave = conv3(inside, 2 * config.latents)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b m h8 w8"]:
        """[b, 3, h, w] -> [b, 2 * latents, h / 8, w / 8]."""
        x = self.enter(x)
        for level in self.levels:
            x = level(x)
        return self.head(self.middle(x))

    def head(self, x: Float[Tensor, "b c h8 w8"]) -> Float[Tensor, "b m h8 w8"]:
        """The last norm and convolution."""
        return self.leave(F.silu(self.norm(x)))


class Decoder(nn.Module):
    """Latents, after the 1x1 `post_quant` convolution -> pictures."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.decoder
        inside = widths[-1]
        self.enter = conv3(config.latents, inside)
        self.middle = Middle(config, inside)
        self.levels = nn.ModuleList()
        for index, width in reversed(list(enumerate(widths))):
            blocks = [_res(config, inside if block == 0 else width, width) for block in range(config.blocks + 1)]
            self.levels.append(Level(blocks, nn.Identity() if index == 0 else Grow(width)))
            inside = width
        self.norm = group_norm(inside, config.groups, 1e-6)
        self.leave = conv3(inside, config.channels)

    def forward(self, z: Float[Tensor, "b c h8 w8"]) -> Float[Tensor, "b 3 h w"]:
        """[b, latents, h, w] -> [b, 3, 8h, 8w]."""
        x = self.middle(self.enter(z))
        for level in self.levels:
            x = level(x)
        return self.head(x)

    def head(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
        """The last norm and convolution."""
        return self.leave(F.silu(self.norm(x)))


class Autoencoder(nn.Module):
    """Pictures in [-1, 1] <-> latents of unit variance, 1/8 of the size; it owns its scale and shift."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant = nn.Conv2d(2 * config.latents, 2 * config.latents, 1)
        self.post_quant = nn.Conv2d(config.latents, config.latents, 1)

    def posterior(self, pictures: Float[Tensor, "b 3 h w"]) -> Posterior:
        """The Gaussian over *unscaled* latents z; log-variance is kept within [-30, 20]."""
        moments = self.quant(self.encoder(pictures.to(self.quant.weight.dtype))).to(pictures.dtype)
        mean, log_variance = moments.chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-30.0, 20.0))

    def encode(
        self, pictures: Float[Tensor, "b 3 h w"], eps: Float[Tensor, "b c h8 w8"] | None = None
    ) -> Float[Tensor, "b c h8 w8"]:
        """[b, 3, h, w] in [-1, 1] -> scaled latents [b, 4, h / 8, w / 8]: a sample for `eps`, the mean without."""
        posterior = self.posterior(pictures)
        z = posterior.mean if eps is None else posterior.sample(eps)
        return (z - self.config.shift) * self.config.scale

    def decode(self, latents: Float[Tensor, "b c h8 w8"]) -> Float[Tensor, "b 3 h w"]:
        """Scaled latents [b, 4, h, w] -> pictures [b, 3, 8h, 8w], about [-1, 1] and not clamped."""
        z = latents / self.config.scale + self.config.shift
        return self.decoder(self.post_quant(z.to(self.post_quant.weight.dtype))).to(latents.dtype)


def _res(config: AutoencoderConfig, inside: int, outside: int) -> ResBlock:
    return ResBlock(inside, outside, time=None, groups=config.groups, eps=1e-6)
