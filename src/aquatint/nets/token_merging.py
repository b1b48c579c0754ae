"""Token merging (Bolya and Hoffman 2023): self-attention among fewer pixels, those alike being one for its time.

An approximation, used only where asked for.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.base.errors import UserError
from aquatint.base.noise import MERGE, Noise
from aquatint.nets.attention import Attention
from aquatint.nets.blocks import TransformerLayer
from aquatint.nets.shared import shared_copy
from aquatint.nets.unet import UNet

MOST = 0.75  # share of the pixels that can go: of every four, one stays as what others are merged into


def merging(net: UNet, share: float, height: int, width: int) -> UNet:
    """The U-Net with `share` of the pixels merged into others in the self-attention of its largest stage that has any.

    A copy over the same weights, for latents of height x width. Feed-forward and cross-attention see all pixels. The
    net itself comes back at share 0. UserError for a U-Net that attends nowhere but in its middle.
    """
    assert 0 <= share <= MOST, f"share = {share}"
    if not share:
        return net
    stages = net.config.stages
    place = next((index for index, stage in enumerate(stages) if stage.depth), None)
    if place is None:
        raise UserError("This U-Net has no self-attention to merge pixels in.", "One that has, above its middle.")
    for _ in range(place):
        height, width = -(-height // 2), -(-width // 2)
    twin = shared_copy(net)
    sides = f"descent.{place}.", f"ascent.{len(stages) - 1 - place}."
    found = [
        part for name, part in twin.named_modules() if isinstance(part, TransformerLayer) if name.startswith(sides)
    ]
    assert found, "a stage with transformers has layers"
    for index, layer in enumerate(found):
        layer.among = MergedAttention(layer.among, share, height, width, index)  # type: ignore[assignment]
    return twin


class MergedAttention(nn.Module):
    """Self-attention of height x width pixels, `share` of which are merged into others before and parted again after.

    Bipartite soft matching (Bolya et al. 2022): in every square of two by two pixels chance makes one a place to
    merge into, the same at every step and for every picture, another in every layer (`index`). Each of the others has
    one such place that it is most alike, by cosine; those that are most alike theirs go there, where the mean stands
    for all, and get its answer back. Pictures of a batch are matched one by one. Where a side is one pixel there are no
    squares, and nothing is merged.
    """

    into: Tensor
    others: Tensor

    def __init__(self, inner: Attention, share: float, height: int, width: int, index: int) -> None:
        super().__init__()
        self.inner = inner
        into, device = chosen(height, width, index), inner.q.weight.device
        others = torch.ones(height * width, dtype=torch.bool)
        others[into] = False
        self.register_buffer("into", into.to(device), persistent=False)
        self.register_buffer("others", others.nonzero()[:, 0].to(device), persistent=False)
        self.gone = min(int(height * width * share), len(self.others)) if len(into) else 0

    def forward(self, x: Float[Tensor, "b s w"]) -> Float[Tensor, "b s w"]:
        """Every pixel's answer; those that were merged have the same."""
        assert x.shape[1] == len(self.into) + len(self.others), "made for latents of another size"
        if not self.gone:
            return self.inner(x)
        place = self.places(x)
        y = self.inner(means(x, place, x.shape[1] - self.gone))
        return y.gather(1, place[..., None].expand_as(x))

    def places(self, x: Float[Tensor, "b s w"]) -> Int[Tensor, "b s"]:
        """Where each pixel goes among those that are left: first who is not merged, then the places to merge into."""
        into, others = self.into, self.others
        alike = F.normalize(x, dim=-1)
        best, where = (alike[:, others] @ alike[:, into].transpose(1, 2)).max(dim=-1)
        order = best.argsort(dim=1, descending=True, stable=True)
        stay = len(others) - self.gone
        row = torch.arange(stay, device=x.device).expand(len(x), -1)
        place = x.new_empty(x.shape[:2], dtype=torch.int64)
        place[:, into] = stay + torch.arange(len(into), device=x.device)
        put = torch.cat([stay + where.gather(1, order[:, : self.gone]), row], dim=1)
        place[:, others] = put.gather(1, order.argsort(dim=1))
        return place


def chosen(height: int, width: int, index: int) -> Int[Tensor, " n"]:
    """The pixel that layer number `index` merges into in each square of two by two, row by row."""
    rows, columns = height // 2, width // 2
    if not rows * columns:
        return torch.empty(0, dtype=torch.int64)
    corner = Noise([0]).integers((rows, columns), 4, step=index, draw=MERGE)[0]
    down, right = 2 * torch.arange(rows)[:, None], 2 * torch.arange(columns)
    return ((down + corner // 2) * width + right + corner % 2).flatten()


def means(x: Float[Tensor, "b s w"], place: Int[Tensor, "b s"], count: int) -> Float[Tensor, "b n w"]:
    """The mean of the rows that go to each of `count` places, of which none is empty.

    In bags, and not by adding to places at once, whose order is nobody's on a graphics card.
    """
    rows = (place + count * torch.arange(len(x), device=x.device)[:, None]).flatten()
    order = rows.argsort(stable=True)
    begins = torch.searchsorted(rows[order], torch.arange(count * len(x), device=x.device))
    mean = F.embedding_bag(order, x.flatten(0, 1), begins, mode="mean")
    return mean.unflatten(0, (len(x), count))
