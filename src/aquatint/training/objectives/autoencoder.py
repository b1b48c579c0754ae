"""The autoencoder against its critic (Esser et al. 2021, section 3; Rombach et al. 2022, appendix G)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aquatint.base.noise import POSTERIOR, Noise
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.blocks import Grow, ResBlock, Shrink
from aquatint.nets.critics import PatchCritic, edges, hinge
from aquatint.training.recipe import Batch, Every, Loss, Losses, Moment


@dataclass(frozen=True)
class Weights:
    """How much each wish counts. `start` is the share of the run after which the critic plays."""

    pixels: float = 1.0
    edges: float = 0.5
    perception: float = 0.2
    kl: float = 1e-6
    critic: float = 0.5
    start: float = 0.6


class Reconstruction:
    """Batches of {"pixels": [b, 3, h, w] in [-1, 1]} -> the autoencoder's loss and, after `start`, the critic's.

    perception   a distance between pictures of full size (nets.critics.Perception), or None; it is left out on crops
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        critic: PatchCritic,
        weights: Weights,
        perception: Callable[[Tensor, Tensor], Tensor] | None = None,
        perceived: int = 0,
    ) -> None:
        self.autoencoder, self.critic, self.weights = autoencoder, critic, weights
        self.perception, self.perceived = perception, perceived
        self.players: dict[str, nn.Module] = {"autoencoder": autoencoder, "critic": critic}

    def losses(self, batch: Batch, moment: Moment, noise: Noise) -> Losses:
        """Pixels |x - y|, edges, perception, KL (nats a picture), and the critic's opinion at an adaptive weight."""
        pixels: Tensor = batch["pixels"]
        posterior = self.autoencoder.posterior(pixels)
        shape = tuple(posterior.mean.shape[1:])
        z = posterior.sample(noise[: len(pixels)].normal(shape, draw=POSTERIOR, device=pixels.device))
        painted = self.autoencoder.decoder(self.autoencoder.post_quant(z))

        wishes = {"pixels": (pixels - painted).abs().mean(), "edges": edges(painted, pixels)}
        if self.perception is not None and pixels.shape[-1] == self.perceived:
            wishes["perception"] = self.perception(painted, pixels)
        likeness = torch.stack([getattr(self.weights, name) * value for name, value in wishes.items()]).sum()
        kl = posterior.kl().mean()
        value = likeness + self.weights.kl * kl
        logs = {name: value.item() for name, value in wishes.items()} | {"kl": kl.item()}

        playing = moment.progress >= self.weights.start
        if playing:
            opinion = -self.critic(painted).mean()
            answer = yield Every(pulls(likeness, opinion, self.autoencoder.decoder.leave.weight))
            assert answer is not None, "Every is answered"
            balance = adaptive(*answer.rows)
            value = value + self.weights.critic * balance * opinion
            logs |= {"opinion": opinion.item(), "balance": balance.item()}
        yield Loss("autoencoder", value, logs)
        if playing:
            real, fake = self.critic(pixels), self.critic(painted.detach())
            loss = hinge(real, fake)
            yield Loss("critic", loss, {"hinge": loss.item(), "real": real.mean().item(), "fake": fake.mean().item()})


def pulls(
    likeness: Float[Tensor, ""], opinion: Float[Tensor, ""], last: Float[Tensor, "o i y x"]
) -> tuple[Float[Tensor, "1 o i y x"], Float[Tensor, "1 o i y x"]]:
    """How likeness and opinion pull the last layer, as a row for each part of the batch."""
    found = (torch.autograd.grad(value, last, retain_graph=True)[0] for value in (likeness, opinion))
    pull, push = (gradient[None] for gradient in found)
    return pull, push


def adaptive(pull: Float[Tensor, "n o i y x"], push: Float[Tensor, "n o i y x"]) -> Float[Tensor, ""]:
    """|d likeness / d last| / |d opinion / d last|: both then pull the last layer equally hard (Esser, eq. 7).

    Of the whole batch: the mean over the parts comes before the length. (In Esser's code each process balances by the
    pictures that it has, so that another number of processes is another loss.)
    """
    return (pull.mean(dim=0).norm() / (push.mean(dim=0).norm() + 1e-4)).clamp(0.0, 1e4)


@torch.no_grad()
def calm(autoencoder: Autoencoder) -> None:
    """Start an autoencoder without norm layers: residual branches near zero, resizes near plain averages and copies.

    Without norms, a default start multiplies the signal at every block.
    """
    for module in autoencoder.modules():
        if isinstance(module, ResBlock):
            module.conv2.weight.mul_(0.1)
            _no_bias(module.conv2)
        elif isinstance(module, Shrink | Grow):
            weight = module.conv.weight
            weight.mul_(0.1)
            channels = torch.arange(len(weight))
            if isinstance(module, Shrink):
                weight[channels, channels, :2, :2] += 0.25
            else:
                weight[channels, channels, 1, 1] += 1.0
            _no_bias(module.conv)


@torch.no_grad()
def settle(autoencoder: Autoencoder, mean: Float[Tensor, " c"], deviation: Float[Tensor, " c"]) -> None:
    """Give every latent channel zero mean and unit deviation, by folding both into the 1x1 convolutions on either side.

    mean and deviation are those of the latents as they are now. Pictures go through as before: decode(encode(x)) is
    the same function, and scale and shift are no longer needed (1 and 0).
    """
    count = autoencoder.config.latents
    inward, outward = autoencoder.quant, autoencoder.post_quant
    assert inward.bias is not None
    assert outward.bias is not None
    outward.bias += outward.weight[:, :, 0, 0] @ mean
    outward.weight *= deviation[None, :, None, None]
    inward.weight[:count] /= deviation[:, None, None, None]
    inward.bias[:count] = (inward.bias[:count] - mean) / deviation
    inward.bias[count:] -= 2.0 * deviation.log()


def _no_bias(layer: nn.Conv2d) -> None:
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
