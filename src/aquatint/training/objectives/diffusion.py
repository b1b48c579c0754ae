"""The U-Net's task: name the noise (Ho et al. 2020, eq. 14), in whichever way the family puts it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aquatint.base.errors import UserError, unknown
from aquatint.base.noise import EPS, INPUT, OFFSET, Noise
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.schedule import Level, NoiseSchedule
from aquatint.nets.text import EncodedText, TextEncoder
from aquatint.nets.unet import UNet
from aquatint.training.recipe import Batch, Loss, Losses, Moment
from aquatint.training.recompute import recomputing


@dataclass(frozen=True)
class Aim:
    """Which mistakes count how much, and what noise is.

    prediction   "epsilon", "v" or "sample"
    snr_cap      gamma of min-SNR (Hang et al. 2023): errors count by min(SNR, gamma), in x0's terms; 0: all alike
    late         share of the times that are drawn from late_from .. the end only
    until        the end: times are drawn below it; 0: below the table's
    offset       a normal deviate a channel, times this, is added to the noise (0.1; Guttenberg 2023), so that pictures
                 may be dark or bright as a whole
    pyramid      noise of half, a quarter ... of the size is added, by this factor a halving (0.9), and all brought back
                 to unit deviation (multi-resolution noise, Whitaker 2023); 0: none
    perturb      the net is shown noise that is off by this share (0.1; input perturbation, Ning et al. 2023), and is
                 asked for the true one
    huber        errors beyond this count by their size, not their square (Huber 1964, over its half, so that small
                 errors count as they did); 0: all by their square
    """

    prediction: str = "epsilon"
    snr_cap: float = 0.0
    late: float = 0.0
    late_from: int = 600
    until: int = 0
    offset: float = 0.0
    pyramid: float = 0.0
    perturb: float = 0.0
    huber: float = 0.0

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise unknown("prediction", self.prediction, PREDICTIONS)
        for name, high in (("snr_cap", 1e6), ("late", 1.0), ("offset", 1.0), ("pyramid", 1.0), ("perturb", 1.0)):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise UserError(f"aim.{name} = {value:g}.", f"0 to {high:g}.")
        if (self.until and not 0 < self.until <= 1000) or (self.until and self.late and self.until <= self.late_from):
            raise UserError(
                f"aim.until = {self.until}.", "1 to 1000, and above late_from where that counts; 0: all times."
            )
        if not 0 <= self.huber <= 1e3:
            raise UserError(f"aim.huber = {self.huber:g}.", "0 to 1000.")


def min_snr(level: Level, prediction: str, cap: float) -> Float[Tensor, "b 1 1 1"]:
    """min(SNR, cap) / SNR for epsilon, / (SNR + 1) for v, / 1 for sample (Hang et al. 2023, section 3.4)."""
    alpha2, sigma2 = torch.as_tensor(level.alpha) ** 2, torch.as_tensor(level.sigma) ** 2
    capped = torch.minimum(alpha2, cap * sigma2)  # min(SNR, cap) * sigma^2: finite at both ends
    divisor = {"epsilon": alpha2, "v": alpha2 + sigma2, "sample": sigma2}[prediction]
    return capped / divisor.clamp(min=1e-8)


def blurred(noise: Noise, shape: tuple[int, int, int], factor: float, device: torch.device) -> Float[Tensor, "b c h w"]:
    """Noise of every size from the latents' own down to one number a channel, each `factor` times the one before.

    Its deviation is brought back to 1 by the sum of squares that nearest-neighbour enlargement leaves.
    """
    channels, height, width = shape
    total, weight, size = noise.normal(shape, draw=EPS, device=device), 1.0, 0
    power = 1.0
    while height > 1 or width > 1:
        height, width, size, weight = max(1, height // 2), max(1, width // 2), size + 1, weight * factor
        small = noise.normal((channels, height, width), step=size, draw=OFFSET, device=device)
        total = total + weight * nn.functional.interpolate(small, shape[1:], mode="nearest")
        power += weight**2
    return total / power**0.5


Tell = Callable[[Batch], EncodedText]
Ask = Callable[[Batch, Tensor, Tensor, Tensor, Tensor | None], Tensor]  # (batch, x, t, context, vector) -> prediction


class Denoising:
    """Batches of {"latents": [b, c, h, w], "ids": [b, 77]} -> the U-Net's (and, if it learns on, the text's) loss.

    frozen   the text encoder stays as it is; otherwise it is part of the player
    player   what moves instead, where it is only a part of the nets (adapters, word vectors); both nets stay then
    tell     how a batch is put into words for the net, if not by the text encoder from "ids" alone
    ask      how the net is asked, if not by itself (with a ControlNet beside it)
    again    nets whose blocks are computed again on the way back, to save memory (training/recompute.py)

    A batch may also hold "beside" [b, k, h, w], what the net is shown behind the noisy latents (an inpainting net);
    "counts" [b], by which its samples count (prior preservation, Ruiz et al. 2023, eq. 2); and "mask" [b, 1, h, w], how
    much each place counts. The last two are 1 where they are missing.
    """

    def __init__(
        self,
        unet: UNet,
        text: TextEncoder,
        schedule: NoiseSchedule,
        aim: Aim,
        *,
        frozen: bool = True,
        player: nn.Module | None = None,
        tell: Tell | None = None,
        ask: Ask | None = None,
        again: Sequence[nn.Module] = (),
    ) -> None:
        self.unet, self.text, self.schedule, self.aim = unet, text, schedule, aim
        self.tell, self.ask, self.again = tell or self._tell, ask or self._ask, tuple(again)
        self.learning = not frozen or player is not None
        if player is None:
            text.requires_grad_(not frozen)
            player = unet if frozen else nn.ModuleList([unet, text])
        self.players: dict[str, nn.Module] = {"unet": player}

    def losses(self, batch: Batch, moment: Moment, noise: Noise) -> Losses:
        """One loss: the weighted mean squared error of the prediction."""
        latents: Tensor = batch["latents"]
        level = self.schedule.draw(
            noise, above=self.aim.late_from, share=self.aim.late, below=self.aim.until, device=latents.device
        )
        shape = (latents.shape[1], latents.shape[2], latents.shape[3])
        eps, shown = self.noises(noise, shape, latents.device)
        errors = self.errors(latents, eps, level, batch, shown)
        weights = min_snr(level, self.aim.prediction, self.aim.snr_cap).flatten() if self.aim.snr_cap else 1.0
        loss = (weights * batch.get("counts", 1.0) * errors).mean()
        yield Loss("unet", loss, {"loss": loss.item(), "error": errors.mean().item()})

    def noises(
        self, noise: Noise, shape: tuple[int, int, int], device: torch.device
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """(the noise that is asked for, the noise that is shown): the same, unless the aim perturbs."""
        aim = self.aim
        if aim.pyramid:
            eps = blurred(noise, shape, aim.pyramid, device)
        else:
            eps = noise.normal(shape, draw=EPS, device=device)
        if aim.offset:
            eps = eps + aim.offset * noise.normal((shape[0], 1, 1), draw=OFFSET, device=device)
        if not aim.perturb:
            return eps, eps
        return eps, eps + aim.perturb * noise.normal(shape, draw=INPUT, device=device)

    def errors(
        self,
        latents: Float[Tensor, "b c h w"],
        eps: Float[Tensor, "b c h w"],
        level: Level,
        batch: Batch,
        shown: Float[Tensor, "b c h w"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Mean error of each sample's prediction at its level, under its captions."""
        prediction = PREDICTIONS[self.aim.prediction]
        noisy = level.mix(latents, eps if shown is None else shown)
        seen = torch.cat([noisy, batch["beside"]], dim=1) if "beside" in batch else noisy
        with recomputing(*self.again):
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.learning):
                said = self.tell(batch)
            vector = said.pooled if self.unet.config.vector else None
            out = self.ask(batch, seen, torch.as_tensor(level.t).flatten(), said.tokens, vector)
        apart = out - prediction.target(latents, eps, level)
        if self.aim.huber:
            errors = 2.0 * nn.functional.huber_loss(
                apart, torch.zeros_like(apart), reduction="none", delta=self.aim.huber
            )
        else:
            errors = apart.square()
        if "mask" in batch:
            mask = batch["mask"]
            return (mask * errors).mean(dim=(1, 2, 3)) / mask.mean(dim=(1, 2, 3)).clamp(min=1e-6)
        return errors.mean(dim=(1, 2, 3))

    def _tell(self, batch: Batch) -> EncodedText:
        said: EncodedText = self.text(batch["ids"])
        return said

    def _ask(self, batch: Batch, x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
        out: Tensor = self.unet(x, t, context, vector)
        return out
