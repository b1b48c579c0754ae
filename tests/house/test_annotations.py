"""The tests' own checker of annotations: what it must notice, it notices, and in the package itself."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from tests.annotations import checked
from torch import Tensor

from aquatint.base.images import to_pictures
from aquatint.diffusion.schedule import Level
from aquatint.families import TINY
from aquatint.nets.tiny import TinyAutoencoder, TinyConfig
from aquatint.nets.unet import UNet


@checked
def joined(a: Float[Tensor, "b n"], b: Float[Tensor, "b m"], wrong: bool = False) -> "Float[Tensor, 'b 2']":
    """Calls itself with other sizes, which are nobody's business."""
    if len(a) > 1:
        joined(a[:1], b[:1])
    return torch.zeros(len(a), 3 if wrong else 2)


@checked
@dataclass(frozen=True)
class Row:
    name: str
    made: "Nowhere | None" = None  # type: ignore[name-defined]


@checked
def counted(upto: int) -> Iterator[Float[Tensor, "n"]]:
    yield from (torch.zeros(n) for n in range(upto))


def test_sizes_are_one_number_within_a_call_and_no_longer() -> None:
    joined(torch.zeros(2, 3), torch.zeros(2, 4))
    joined(torch.zeros(5, 3), torch.zeros(5, 4))
    assert len(list(counted(3))) == 3
    for bad in (torch.zeros(3, 4), torch.zeros(2, 4, 1), torch.zeros(2, 4, dtype=torch.int64), "x"):
        with pytest.raises(BeartypeCallHintViolation):
            joined(torch.zeros(2, 3), bad)  # type: ignore[arg-type]
    with pytest.raises(BeartypeCallHintViolation):
        joined(torch.zeros(2, 3), torch.zeros(2, 4), True)


def test_plain_annotations_count_too() -> None:
    Row("x", 5)  # a name that only mypy knows
    for call in (lambda: Row(5), lambda: Level("x", 1.0, 0.0)):  # type: ignore[arg-type]
        with pytest.raises(BeartypeCallHintViolation):
            call()
    with pytest.raises(TypeCheckError):  # before anything is asked of it
        counted("x")  # type: ignore[arg-type]


def test_the_package_is_checked() -> None:
    net, tiny = UNet(TINY.unet), TinyAutoencoder(TinyConfig(width=2))
    x, t, context = torch.zeros(2, 4, 8, 8), torch.zeros(2), torch.zeros(2, 3, 32)
    net(x, t, context)
    for bad in ((x, t[:1], context), (x, t, context[:1]), (x[0], t, context), (x, t, context.long())):
        with pytest.raises(BeartypeCallHintViolation):
            net(*bad)
    with pytest.raises(BeartypeCallHintViolation):
        tiny.decode(torch.zeros(4, 8, 8))
    with pytest.raises(BeartypeCallHintViolation):
        to_pictures(torch.zeros(2, 4, 8, 8))
