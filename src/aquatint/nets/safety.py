"""Stable Diffusion's safety checker: how near pictures are, in CLIP's eyes, to concepts that they are kept from."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.nets.text import ImageConfig, ImageTower

CARE = 0.01  # how much nearer everything counts once a special concept is found


class Checked(NamedTuple):
    """flagged: whether a picture is nearer to any concept than its limit; scores [b, concepts]: how much nearer."""

    flagged: Bool[Tensor, " b"]
    scores: Float[Tensor, "b c"]


class SafetyChecker(nn.Module):
    """Pictures -> which of them are flagged (Rombach et al. 2022's release; Rando et al. 2022 tell how it works).

    concepts, limits            vectors [c, p] and the cosine from which on each counts
    special, special_limits     the same for concepts that make the others count sooner, and flag nothing themselves
    """

    def __init__(self, config: ImageConfig, concepts: int = 17, special: int = 3) -> None:
        super().__init__()
        self.tower = ImageTower(config)
        self.concepts = nn.Parameter(torch.ones(concepts, config.projection))
        self.limits = nn.Parameter(torch.ones(concepts))
        self.special = nn.Parameter(torch.ones(special, config.projection))
        self.special_limits = nn.Parameter(torch.ones(special))

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Checked:
        """Pictures as the tower takes them; scores are rounded to three places, as the checks of others are."""
        seen = F.normalize(self.tower(pictures).float())
        special = seen @ F.normalize(self.special).T - self.special_limits
        adjusted = torch.zeros(len(seen), device=seen.device)
        for column in special.T:  # each found one counts for those after it
            adjusted = torch.where(_rounded(column + adjusted) > 0, CARE, adjusted)
        scores = _rounded(seen @ F.normalize(self.concepts).T - self.limits + adjusted[:, None])
        return Checked((scores > 0).any(dim=1), scores)


def _rounded(x: Tensor) -> Tensor:
    return torch.round(x, decimals=3)
