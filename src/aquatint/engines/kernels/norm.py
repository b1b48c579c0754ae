"""GroupNorm and SiLU in one pass over what is in memory (Wu & He 2018)."""

import ctypes

import torch
from jaxtyping import Float
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.engines.kernels.library import Norm, address, chosen, counted, laid, library, workspace


def norm_silu(
    x: Float[Tensor, "b c h w"],
    groups: int,
    weight: Float[Tensor, " c"] | None,
    bias: Float[Tensor, " c"] | None,
    eps: float,
    silu: bool = True,
    *,
    threads: int | None = None,
    isa: int | None = None,
) -> Float[Tensor, "b c h w"]:
    """silu(group_norm(x, groups, weight, bias, eps)), or without the SiLU; float32 on the CPU, channels last.

    Means and variances are summed in float64. The same bits for any number of threads (torch's, if None), and for a
    picture alone or in a batch; `isa` as Winograd's. Raises UserError for other types and shapes, and where there is no
    library.
    """
    count, channels, height, width = x.shape
    if groups < 1 or channels % groups:
        raise UserError(f"{channels} channels are not {groups} groups.", "A number that divides the channels.")
    x = laid("x", x, (count, channels, height, width))
    weight = None if weight is None else laid("weight", weight, (channels,))
    bias = None if bias is None else laid("bias", bias, (channels,))
    y = torch.empty_like(x, memory_format=torch.channels_last)
    if y.numel() == 0:
        return y
    isa, threads = chosen(isa), counted(threads)
    norm = Norm(count, height * width, channels, groups, silu, eps)
    work = workspace(library().aquatint_norm_workspace(isa, ctypes.byref(norm)))
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias), ("y", y), ("workspace", work)):
        setattr(norm, name, address(tensor))
    library().aquatint_norm(isa, ctypes.byref(norm), threads)
    return y
