"""What is asked of every tensor that comes in or goes out: finite values, and the sum of its bytes."""

import hashlib

import torch
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.weights.writer import bytes_of

DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # what the nets compute in and weights are written as


def finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. Its extremes tell, at the speed of memory; a mask takes 50 times as long."""
    if not tensor.numel():
        return True
    if tensor.ndim == 4 and not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)  # as engines.plain lays kernels out; what lies otherwise is copied
    return all(torch.isfinite(extreme).item() for extreme in torch.aminmax(tensor.detach()))


def check_finite(tensor: Tensor, what: str) -> None:
    """A UserError if any value is NaN or infinite."""
    if not finite(tensor):
        raise UserError(f"{what} holds values that are not finite (NaN or infinity).", "Finite weights.")


def sha256(tensor: Tensor) -> str:
    """Of a tensor's bytes, in hexadecimal."""
    return hashlib.sha256(bytes_of(tensor)).hexdigest()
