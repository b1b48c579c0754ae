"""Attention without its matrix of weights ever being there in full (Dao et al. 2022, arXiv:2205.14135)."""

import ctypes

import torch
from jaxtyping import Float
from torch import Tensor

from aquatint.engines.kernels.library import Attention, address, checked, chosen, counted, library, workspace


def attend(
    q: Float[Tensor, "b n q d"],
    k: Float[Tensor, "b n k d"],
    v: Float[Tensor, "b n k d"],
    *,
    threads: int | None = None,
    isa: int | None = None,
) -> Float[Tensor, "b n q d"]:
    """softmax(q k^T / sqrt(d)) v, float32 on the CPU; laid out [b, q, n, d], as the next projection wants it.

    The same bits for any number of threads (torch's, if None), and for a picture alone or in a batch; `isa` as
    Winograd's. Powers are off by 2e-7 of themselves at most. Raises UserError for other types and shapes, and where
    there is no library.
    """
    count, heads, queries, depth = q.shape
    keys = k.shape[2]
    q = _dense("q", q, (count, heads, queries, depth))
    k, v = (_dense(name, x, (count, heads, keys, depth)) for name, x in (("k", k), ("v", v)))
    y = torch.empty((count, queries, heads, depth))
    if y.numel() == 0:
        return y.transpose(1, 2)
    if keys == 0:
        return y.fill_(torch.nan).transpose(1, 2)
    isa, threads = chosen(isa), counted(threads)
    work = Attention(count, heads, queries, keys, depth)
    for name, x in (("q", q), ("k", k), ("v", v)):
        setattr(work, name, address(x))
        setattr(work, f"{name}_strides", (ctypes.c_long * 3)(*x.stride()[:3]))
    memory = workspace(library().aquatint_attention_workspace(isa, ctypes.byref(work), threads))
    work.y, work.workspace = address(y), address(memory)
    library().aquatint_attention(isa, ctypes.byref(work), threads)
    return y.transpose(1, 2)


def _dense(name: str, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor that is `checked`, whose rows are dense: copied only if they are not."""
    x = checked(name, x, shape)
    return x if x.stride(3) == 1 else x.contiguous()
