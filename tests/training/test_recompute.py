"""Blocks that are computed twice give the same gradients to the bit, and remember far less."""

import torch
from tests.fixtures import tiny_bundle
from torch import Tensor, nn

from aquatint.families import TINY_XL
from aquatint.training.recompute import BLOCKS, recomputing

torch.set_num_threads(1)


def asked(net: nn.Module, text: nn.Module, again: bool) -> tuple[list[Tensor], int]:
    """Gradients of a U-Net over a text encoder, and how many bytes were remembered."""
    kept = dict[int, int]()

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = [*net.parameters(), *text.parameters()]
    for weight in weights:
        weight.requires_grad_(True)
    torch.manual_seed(0)
    x, vector = torch.randn(4, 4, 16, 16), torch.randn(4, net.config.vector)  # type: ignore[union-attr]
    ids = torch.arange(77).repeat(4, 1)
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if again:
            with recomputing(net, text):
                out = net(x, torch.full((4,), 5.0), _context(text, ids), vector)
        else:
            out = net(x, torch.full((4,), 5.0), _context(text, ids), vector)
    found = torch.autograd.grad(out.square().sum(), weights, allow_unused=True)
    return [gradient for gradient in found if gradient is not None], sum(
        size for place, size in kept.items() if place not in own
    )


def _context(text: nn.Module, ids: Tensor) -> Tensor:
    tokens: Tensor = text(ids).tokens
    return torch.cat([tokens, tokens[..., :24]], dim=-1)


def test_gradients_are_equal_and_memory_is_saved() -> None:
    bundle = tiny_bundle(TINY_XL)
    plain, much = asked(bundle.unet, bundle.text, False)
    again, little = asked(bundle.unet, bundle.text, True)
    assert len(plain) == len(again)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert little < 0.5 * much, (little, much)


def test_the_net_is_left_as_it_was() -> None:
    net = tiny_bundle().unet
    with recomputing(net):
        assert any("forward" in vars(part) for part in net.modules())
    assert not any("forward" in vars(part) for part in net.modules())
    assert sum(isinstance(part, BLOCKS) for part in net.modules()) > 5
