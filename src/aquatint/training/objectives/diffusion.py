"""The U-Net's task: name the noise (Ho et al. 2020, eq. 14), in whichever way the family puts it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aquatint.base.noise import EPS, Noise
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.schedule import Level, NoiseSchedule
from aquatint.nets.text import TextEncoder
from aquatint.nets.unet import UNet
from aquatint.training.recipe import Batch, Loss, Moment


@dataclass(frozen=True)
class Aim:
    """Which mistakes count how much.

    prediction   "epsilon", "v" or "sample"
    snr_cap      gamma of min-SNR (Hang et al. 2023): errors count by min(SNR, gamma), in x0's terms; 0: all alike
    late         share of the times that are drawn from late_from .. the end of the table only
    """

    prediction: str = "epsilon"
    snr_cap: float = 0.0
    late: float = 0.0
    late_from: int = 600


def min_snr(level: Level, prediction: str, cap: float) -> Float[Tensor, "b 1 1 1"]:
    """min(SNR, cap) / SNR for epsilon, / (SNR + 1) for v, / 1 for sample (Hang et al. 2023, section 3.4)."""
    alpha2, sigma2 = torch.as_tensor(level.alpha) ** 2, torch.as_tensor(level.sigma) ** 2
    capped = torch.minimum(alpha2, cap * sigma2)  # min(SNR, cap) * sigma^2: finite at both ends
    divisor = {"epsilon": alpha2, "v": alpha2 + sigma2, "sample": sigma2}[prediction]
    return capped / divisor.clamp(min=1e-8)


class Denoising:
    """Batches of {"latents": [b, c, h, w], "ids": [b, 77]} -> the U-Net's (and, if it learns on, the text's) loss.

    frozen   the text encoder stays as it is; otherwise it is part of the player
    """

    def __init__(
        self, unet: UNet, text: TextEncoder, schedule: NoiseSchedule, aim: Aim, *, frozen: bool = True
    ) -> None:
        self.unet, self.text, self.schedule, self.aim, self.frozen = unet, text, schedule, aim, frozen
        text.requires_grad_(not frozen)
        self.players: dict[str, nn.Module] = {"unet": unet} if frozen else {"unet": nn.ModuleList([unet, text])}

    def losses(self, batch: Batch, moment: Moment, noise: Noise) -> Iterator[Loss]:
        """One loss: the weighted mean squared error of the prediction."""
        latents: Tensor = batch["latents"]
        level = self.schedule.draw(noise, above=self.aim.late_from, share=self.aim.late, device=latents.device)
        eps = noise.normal(tuple(latents.shape[1:]), draw=EPS, device=latents.device)
        errors = self.errors(latents, eps, level, batch["ids"])
        weights = min_snr(level, self.aim.prediction, self.aim.snr_cap).flatten() if self.aim.snr_cap else 1.0
        loss = (weights * errors).mean()
        yield Loss("unet", loss, {"loss": loss.item(), "error": errors.mean().item()})

    def errors(
        self, latents: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"], level: Level, ids: Int[Tensor, "b n"]
    ) -> Float[Tensor, " b"]:
        """Mean squared error of each sample's prediction at its level, under these captions."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            said = self.text(ids)
        prediction = PREDICTIONS[self.aim.prediction]
        vector = said.pooled if self.unet.config.vector else None
        out = self.unet(level.mix(latents, eps), torch.as_tensor(level.t).flatten(), said.tokens, vector)
        return (out - prediction.target(latents, eps, level)).square().mean(dim=(1, 2, 3))
