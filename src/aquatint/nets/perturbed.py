"""Copies of a U-Net, over the same weights, whose self-attention is blind or is watched: what some guidance asks."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.nets.attention import Attention, AttentionFn, attention_weights
from aquatint.nets.blocks import Transformer2d, TransformerLayer
from aquatint.nets.shared import shared_copy
from aquatint.nets.unet import UNet


def perturbed(net: UNet, places: Sequence[str]) -> UNet:
    """The U-Net with self-attention that sees each pixel alone, softmax(q k^T / sqrt(d)) -> 1, in the places named.

    Ahn et al. 2024 (PAG), equation 15. A place is the name of a part: "middle", "descent.1", "ascent.0.cells.1".
    Raises UserError for one in which nothing attends.
    """
    twin = shared_copy(net)
    layers = {name: part for name, part in twin.named_modules() if isinstance(part, TransformerLayer)}
    for place in places:
        found = [part for name, part in layers.items() if name.startswith(place + ".")]
        if not found:
            takes = sorted({".".join(name.split(".")[: 1 if name.startswith("middle") else 2]) for name in layers})
            raise UserError(f'This U-Net has no self-attention in "{place}".', f"It has in: {', '.join(takes)}.")
        for layer in found:
            layer.among.attend = alone
    return twin


def alone(
    q: Float[Tensor, "b n q d"], k: Float[Tensor, "b n k d"], v: Float[Tensor, "b n k d"], causal: bool = False
) -> Float[Tensor, "b n q d"]:
    """Attention of each to itself only."""
    return v


def watched(net: UNet) -> tuple[UNet, list[Float[Tensor, "b n"]]]:
    """The U-Net, and a list to which each of its calls adds how much the middle's pixels are looked at.

    For each row of the batch and each pixel: the sum over all queries of the attention that the first layer of the
    middle gives to it, mean of the heads; 1 is the average. Raises UserError where the middle does not attend.
    """
    twin, seen = shared_copy(net), list[Tensor]()
    attend = twin.middle.first.attend
    if not isinstance(attend, Transformer2d) or not len(attend.layers):
        raise UserError("This U-Net has no self-attention in its middle.", "One that has, for self-attention guidance.")
    among = attend.layers[0].among
    assert isinstance(among, Attention)
    among.attend = _seen_by(among.attend, seen)
    return twin, seen


def _seen_by(attend: AttentionFn, seen: list[Tensor]) -> AttentionFn:
    def look(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
        seen.append(attention_weights(q.float(), k.float(), causal).mean(1).sum(1))
        return attend(q, k, v, causal)

    return look


def middle_size(net: UNet, height: int, width: int) -> tuple[int, int]:
    """(height, width) of the middle for latents of this size: halved, rounded up, between two stages."""
    for _ in net.config.stages[1:]:
        height, width = -(-height // 2), -(-width // 2)
    return height, width
