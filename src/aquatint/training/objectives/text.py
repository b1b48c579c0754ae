"""Text and image towers pulled together: CLIP's symmetric contrastive loss (Radford et al. 2021, figure 3)."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.base.noise import Noise
from aquatint.nets.text import ImageTower, TextEncoder
from aquatint.training import parallel
from aquatint.training.recipe import Batch, Loss, Moment


class Towers(nn.Module):
    """Both towers and the temperature, as one player."""

    def __init__(self, text: TextEncoder, image: ImageTower) -> None:
        super().__init__()
        assert text.project is not None, "alignment needs a text encoder with a projection"
        self.text, self.image = text, image
        self.temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def contrast(
    texts: Float[Tensor, "b p"], images: Float[Tensor, "b p"], temperature: Float[Tensor, ""]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean of both cross-entropies over the *global* batch, and the share of pictures whose own caption ranks first.

    Rows of all processes are gathered with their gradients, so N processes compute what one would; each takes the
    cross-entropy of its own rows, and the mean over processes is the loss of the whole.
    """
    texts, images = F.normalize(texts, dim=-1), F.normalize(images, dim=-1)
    all_texts, all_images = parallel.gather(texts), parallel.gather(images)
    scale = temperature.exp().clamp(max=100.0)
    own = torch.arange(len(texts), device=texts.device) + parallel.share().rank * len(texts)
    by_image, by_text = scale * images @ all_texts.T, scale * texts @ all_images.T
    loss = 0.5 * (F.cross_entropy(by_image, own) + F.cross_entropy(by_text, own))
    return loss, (by_image.argmax(dim=1) == own).float().mean()


class Alignment:
    """Batches of {"pixels": [b, 3, s, s] in [-1, 1], "ids": [b, 77]} -> the towers' loss."""

    def __init__(self, towers: Towers) -> None:
        self.towers = towers
        self.players: dict[str, nn.Module] = {"towers": towers}

    def losses(self, batch: Batch, moment: Moment, noise: Noise) -> Iterator[Loss]:
        """One loss, in nats; chance is log of the global batch."""
        texts, images = self.towers.text(batch["ids"]).pooled, self.towers.image(batch["pixels"])
        loss, right = contrast(texts, images, self.towers.temperature)
        yield Loss("towers", loss, {"loss": loss.item(), "right": right.item()})
