"""Scaled dot-product attention, softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, eq. 1), and where it is swapped."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aquatint.base.errors import unknown

AttentionFn = Callable[[Float[Tensor, "b n q d"], Float[Tensor, "b n k d"], Float[Tensor, "b n k d"], bool], Tensor]


def fused(
    q: Float[Tensor, "b n q d"], k: Float[Tensor, "b n k d"], v: Float[Tensor, "b n k d"], causal: bool = False
) -> Float[Tensor, "b n q d"]:
    """Attention by torch's own fused kernel; the default everywhere."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def written_out(
    q: Float[Tensor, "b n q d"], k: Float[Tensor, "b n k d"], v: Float[Tensor, "b n k d"], causal: bool = False
) -> Float[Tensor, "b n q d"]:
    """Attention as the formula says it; the reference for the others, and the one that shows its weights."""
    return attention_weights(q, k, causal) @ v


def attention_weights(
    q: Float[Tensor, "b n q d"], k: Float[Tensor, "b n k d"], causal: bool = False
) -> Float[Tensor, "b n q k"]:
    """softmax(q k^T / sqrt(d)): how much each query looks at each key; rows sum to 1."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return scores.softmax(dim=-1)


class Attention(nn.Module):
    """Multi-head attention from one sequence to another: project, attend head by head, project back.

    width       of the queries and of the result
    context     of what keys and values are made from; the same as width for self-attention
    heads       must divide width
    bias        on q, k, v (CLIP has it, the U-Net has not)
    causal      a token sees only itself and those before it
    """

    def __init__(
        self, width: int, context: int | None = None, *, heads: int, bias: bool = False, causal: bool = False
    ) -> None:
        super().__init__()
        assert width % heads == 0, f"{heads} heads do not divide width {width}"
        context = width if context is None else context
        self.heads, self.causal = heads, causal
        self.q = nn.Linear(width, width, bias=bias)
        self.k = nn.Linear(context, width, bias=bias)
        self.v = nn.Linear(context, width, bias=bias)
        self.out = nn.Linear(width, width)
        self.attend: AttentionFn = fused

    def forward(
        self, x: Float[Tensor, "b q w"], context: Float[Tensor, "b k c"] | None = None
    ) -> Float[Tensor, "b q w"]:
        """Attend from x to context, or to x itself when there is none."""
        context = x if context is None else context
        q, k, v = (self.split(y) for y in (self.q(x), self.k(context), self.v(context)))
        return self.out(self.attend(q, k, v, self.causal).transpose(1, 2).flatten(2))

    def split(self, y: Float[Tensor, "b s w"]) -> Float[Tensor, "b n s d"]:
        """One row of width w -> n heads of width w / n."""
        return y.unflatten(2, (self.heads, -1)).transpose(1, 2)


def set_attention(model: nn.Module, name: str) -> None:
    """Make every Attention in `model` use the named way of computing it."""
    if name not in ATTENTIONS:
        raise unknown("attention", name, ATTENTIONS)
    for module in model.modules():
        if isinstance(module, Attention):
            module.attend = ATTENTIONS[name]


ATTENTIONS: dict[str, AttentionFn] = {"fused": fused, "written_out": written_out}
