"""Who judges an autoencoder's pictures while it learns: a patch discriminator, and a perceptual distance."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.blocks import group_norm
from aquatint.nets.text import ImageTower


@dataclass(frozen=True)
class CriticConfig:
    """A patch discriminator as data: each width but the last halves the size once."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 32


class PatchCritic(nn.Module):
    """Real or painted? One logit for each overlapping patch (Isola et al. 2017, section 3.2.2).

    GroupNorm where the original has BatchNorm: a patch's verdict does not depend on the pictures beside it.
    """

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for index, width in enumerate(config.widths):
            stride = 1 if index == len(config.widths) - 1 else 2
            layers.append(nn.Conv2d(inside, width, 4, stride=stride, padding=1))
            if index:
                layers.append(group_norm(width, config.groups, 1e-5))
            layers.append(nn.LeakyReLU(0.2))
            inside = width
        layers.append(nn.Conv2d(inside, 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 y x"]:
        """Pictures in [-1, 1] -> logits, high for real."""
        return self.layers(pictures)


def hinge(real: Float[Tensor, "b 1 y x"], painted: Float[Tensor, "b 1 y x"]) -> Float[Tensor, ""]:
    """The critic's loss: 1/2 mean max(0, 1 - real) + 1/2 mean max(0, 1 + painted) (Lim & Ye 2017)."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + painted).mean())


class Perception(nn.Module):
    """How different two pictures look to a frozen image tower: mean squared distance of its normalised states.

    In the manner of LPIPS (Zhang et al. 2018, eq. 1) with unit channel weights, over a tower that aquatint trained.
    Gradients reach the pictures, never the tower. Pictures of a multiple of the tower's size are averaged down to it.
    """

    def __init__(self, tower: ImageTower, layers: tuple[int, ...] = (0, 1, 2)) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False).eval()
        self.layers = layers

    def forward(self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """0 for equal pictures; at most 4 a layer."""
        times = a.shape[-1] // self.tower.config.size
        if times > 1:
            a, b = F.avg_pool2d(a, times), F.avg_pool2d(b, times)
        with torch.no_grad():
            wanted = self.tower.states(b)
        states = self.tower.states(a)
        distances = [
            (F.normalize(states[i][:, 1:], dim=-1) - F.normalize(wanted[i][:, 1:], dim=-1)).square().sum(-1).mean()
            for i in self.layers
        ]
        return torch.stack(distances).mean()


def edges(a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"], scales: int = 3) -> Float[Tensor, ""]:
    """Mean absolute difference of both pictures' horizontal and vertical gradients, over sizes 1, 1/2, 1/4 ..."""
    terms = []
    difference = a - b
    for scale in range(scales):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        terms += [difference.diff(dim=-1).abs().mean(), difference.diff(dim=-2).abs().mean()]
    return torch.stack(terms).mean()
