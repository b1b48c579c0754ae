"""What a net is trained to say, and how that becomes the clean picture."""

from collections.abc import Callable
from dataclasses import dataclass

from aquatint.base.errors import UserError
from aquatint.diffusion.schedule import Latents, Level


@dataclass(frozen=True)
class Prediction:
    """A pair of inverses: to_x0(level.mix(x0, eps), target(x0, eps, level), level) = x0.

    to_x0(x, out, level)      the clean picture, from the noisy one and what the net says of it
    target(x0, eps, level)    what the net should have said
    """

    name: str
    to_x0: Callable[[Latents, Latents, Level], Latents]
    target: Callable[[Latents, Latents, Level], Latents]


def _x0_from_epsilon(x: Latents, out: Latents, level: Level) -> Latents:
    if isinstance(level.alpha, float) and level.alpha == 0:
        raise UserError(
            "a net that predicts the noise was asked about pure noise (alpha = 0), which tells nothing of a picture.",
            "A zero-terminal schedule takes a net that predicts v or the sample.",
            "Give the model's own prediction, or a schedule that is not zero-terminal.",
        )
    return (x - level.sigma * out) / level.alpha


# Ho et al. 2020, equation 15: out = eps.
EPSILON = Prediction("epsilon", to_x0=_x0_from_epsilon, target=lambda x0, eps, level: eps)
# Salimans and Ho 2022, appendix D: out = v = alpha * eps - sigma * x0, so that x0 = alpha * x - sigma * v.
VELOCITY = Prediction(
    "v",
    to_x0=lambda x, out, level: level.alpha * x - level.sigma * out,
    target=lambda x0, eps, level: level.alpha * eps - level.sigma * x0,
)
# The clean picture itself: out = x0.
SAMPLE = Prediction("sample", to_x0=lambda x, out, level: out, target=lambda x0, eps, level: x0)

PREDICTIONS = {prediction.name: prediction for prediction in (EPSILON, VELOCITY, SAMPLE)}
