"""How weights move: AdamW over sensible groups, the learning rate's curve, and running averages of the weights."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from aquatint.base.errors import UserError
from aquatint.training import parallel
from aquatint.training.recipe import Moment, Optim
from aquatint.training.sharding import like, own


def adamw(module: nn.Module, settings: Optim) -> torch.optim.AdamW:
    """AdamW over the module's trainable weights; weight decay on those with two dimensions or more only.

    Of sharded weights it moves the rows that are here.
    """
    groups = [
        {"params": [own(weight) for weight in weights], "weight_decay": decay}
        for weights, decay in zip(trained(module), (settings.decay, 0.0), strict=True)
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=settings.lr, betas=settings.betas, eps=settings.eps
    )


def trained(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The module's trainable weights: those with two dimensions or more, then the others. An optimiser's order."""
    found = [weight for weight in module.parameters() if weight.requires_grad]
    return [weight for weight in found if weight.ndim >= 2], [weight for weight in found if weight.ndim < 2]


def rate(settings: Optim, moment: Moment) -> float:
    """The learning rate: linear warm-up by steps, flat until `hold`, then a cosine to lr * final at the end."""
    warm = min(1.0, (moment.step + 1) / max(1, settings.warmup))
    past = max(0.0, moment.progress - settings.hold) / max(1e-9, 1.0 - settings.hold)
    fall = settings.final + (1.0 - settings.final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, past)))
    return settings.lr * warm * fall


def clip(gradients: Iterable[Tensor], limit: float, sharded: Sequence[bool] = ()) -> Tensor:
    """Scale gradients in place to a global norm of at most `limit` (0: leave them); gives the norm before.

    sharded   which of them are our rows only, of what has others elsewhere
    """
    gradients = list(gradients)
    lengths = torch.stack(torch._foreach_norm(gradients))
    if any(sharded):
        squares, here = lengths.square(), torch.tensor(sharded, device=lengths.device)
        rows = squares[here].sum()
        parallel.add_([rows])
        norm = (rows + squares[~here].sum()).sqrt()
    else:
        norm = torch.linalg.vector_norm(lengths)
    if limit:
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


class Average:
    """Running average of a module's weights: shadow <- d shadow + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)).

    The shorter memory at the start (n steps so far) keeps the random first weights out.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @property
    def name(self) -> str:
        """What tells it from the others of a run."""
        return str(self.decay)

    def kept(self, step: int) -> float:
        """How much of the average stays at step number `step`."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take the module's weights after its step number `step` in."""
        decay = self.kept(step)
        current = module.state_dict()
        floats = [name for name, value in self.shadow.items() if value.is_floating_point()]
        shadows, weights = ([own(tensors[name]) for name in floats] for tensors in (self.shadow, current))
        torch._foreach_lerp_(shadows, weights, 1.0 - decay)

    def load(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Go on from saved averages, which are of the same names."""
        left = set(self.shadow)
        for name, value in tensors:
            self.shadow[name].copy_(like(value, self.shadow[name]))
            left.discard(name)
        if left:
            raise UserError(f'The checkpoint holds no average "{self.name}".', "One of a run with the same.")
