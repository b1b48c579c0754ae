"""Products in 8-bit floats (e4m3: 3 bits of fraction, at most 448), where a card has them: quicker, and not the same.

Each row of the input and of the weight is divided by its largest number (so that no row depends on its company), the
sum is in float32. Only the feed-forwards' products: the widest, which gain most (1.2 to 1.6 times on an H200 alone; the
small ones 1.1), and half of all that a U-Net's linear layers do. benchmarks/fp8.py measures the error.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aquatint.nets.blocks import GatedFeed

E4M3, LARGEST = torch.float8_e4m3fn, 448.0


class Short(nn.Linear):
    """A linear layer whose product is taken in 8-bit floats."""

    short: Tensor
    scale: Tensor

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """x W^T + bias, rounded to bfloat16 on the way."""
        rows, scale = shortened(x.flatten(0, -2))
        bias = None if self.bias is None else self.bias.to(torch.bfloat16)
        across, down = self.scale[None, :], scale[:, None]
        made = torch._scaled_mm(rows, self.short.T, down, across, bias, out_dtype=torch.bfloat16)
        return made.to(x.dtype).unflatten(0, x.shape[:-1])


@torch.no_grad()
def shorten(net: nn.Module) -> None:
    """Have a net's feed-forwards multiply in 8-bit floats; itself, so give it a copy. Weights stay beside the short."""
    for part in net.modules():
        if isinstance(part, GatedFeed):
            for layer in (part.enter, part.leave):
                if type(layer) is nn.Linear and layer.in_features % 16 == layer.out_features % 16 == 0:
                    layer.__class__ = Short
                    layer.short, layer.scale = shortened(layer.weight)


def shortened(rows: Float[Tensor, "r w"]) -> tuple[Tensor, Float[Tensor, " r"]]:
    """(8-bit floats [r, w], scales [r]): rows = floats * scale, and the largest of a row is 448 (or -448).

    A number's last bit is a sixteenth to an eighth of it, and never below 2^-9 of its row's scale. A row that holds
    what is not finite has no number at all.
    """
    if rows.is_cuda:
        from aquatint.engines.triton_kernels import shortened as kernel

        return kernel(rows)
    v = rows.float()
    scale = v.abs().amax(1).clamp(min=1e-30) / LARGEST + 0.0 * v.sum(1)
    return (v / scale[:, None]).to(E4M3), scale
