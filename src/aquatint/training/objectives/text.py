"""Text and image towers pulled together: CLIP's symmetric contrastive loss (Radford et al. 2021, figure 3)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.base.noise import Noise
from aquatint.nets.text import ImageTower, TextEncoder
from aquatint.training.recipe import Batch, Every, Loss, Losses, Moment

HOTTEST = math.log(100.0)  # of the temperature (Radford et al. 2021, section 2.5)


class Towers(nn.Module):
    """Both towers and the temperature, as one player."""

    def __init__(self, text: TextEncoder, image: ImageTower) -> None:
        super().__init__()
        assert text.project is not None, "alignment needs a text encoder with a projection"
        self.text, self.image = text, image
        self.temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def contrast(
    texts: Float[Tensor, "n p"],
    images: Float[Tensor, "n p"],
    temperature: Float[Tensor, ""],
    own: slice = slice(None),
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean of both cross-entropies over the *global* batch, and the share of pictures whose own caption ranks first.

    Of the rows of the whole batch, unit vectors, `own` are ours: we take the cross-entropies of these, and the mean
    over all parts of the batch is the loss of the whole.
    """
    scale = temperature.clamp(max=HOTTEST).exp()
    right = torch.arange(len(texts), device=texts.device)[own]
    by_image, by_text = scale * images[own] @ texts.T, scale * texts[own] @ images.T
    loss = 0.5 * (F.cross_entropy(by_image, right) + F.cross_entropy(by_text, right))
    return loss, (by_image.argmax(dim=1) == right).float().mean()


class Alignment:
    """Batches of {"pixels": [b, 3, s, s] in [-1, 1], "ids": [b, 77]} -> the towers' loss."""

    def __init__(self, towers: Towers) -> None:
        self.towers = towers
        self.players: dict[str, nn.Module] = {"towers": towers}

    def losses(self, batch: Batch, moment: Moment, noise: Noise) -> Losses:
        """One loss, in nats; chance is log of the global batch.

        The temperature itself is kept at HOTTEST or below, as CLIP's authors do: if only its use were, it would get no
        gradient beyond, and never come back.
        """
        with torch.no_grad():
            self.towers.temperature.clamp_(max=HOTTEST)
        answer = yield self._every(batch)
        assert answer is not None, "Every is answered"
        texts, images = answer.rows
        loss, right = contrast(texts, images, self.towers.temperature, answer.own)
        yield Loss("towers", loss, {"loss": loss.item(), "right": right.item()})

    def _every(self, batch: Batch) -> Every:
        """Both towers' unit vectors, to which nothing here holds on: all parts' activations would be kept."""
        texts, images = self.towers.text(batch["ids"]).pooled, self.towers.image(batch["pixels"])
        return Every((F.normalize(texts, dim=-1), F.normalize(images, dim=-1)))
