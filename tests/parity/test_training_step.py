"""One training step against diffusers' net, scheduler and weights of the loss: the weights that come out of it."""

import copy

import pytest
import torch
from tests.parity.peers import unet_twins

diffusers = pytest.importorskip("diffusers")

from diffusers.training_utils import compute_snr  # noqa: E402

from aquatint.base.noise import EPS, Noise  # noqa: E402
from aquatint.diffusion.schedule import NoiseSchedule  # noqa: E402
from aquatint.families import SD15, TINY  # noqa: E402
from aquatint.nets.text import TextEncoder  # noqa: E402
from aquatint.training.loop import Run  # noqa: E402
from aquatint.training.objectives.diffusion import Aim, Denoising  # noqa: E402
from aquatint.training.recipe import Batch, Length, Moment, Optim, Recipe, Share  # noqa: E402
from aquatint.training.start import start  # noqa: E402
from aquatint.weights.diffusers import pairs  # noqa: E402
from aquatint.weights.keymap import to_theirs  # noqa: E402


def relative(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The root of the squared differences' sum over that of the reference's squares, over all tensors."""
    pairs = [(ours[name].view_as(tensor).double(), tensor.double()) for name, tensor in theirs.items()]
    apart = sum(float((one - other).square().sum()) for one, other in pairs)
    whole = sum(float(other.square().sum()) for _, other in pairs)
    assert whole > 0
    found: float = (apart / whole) ** 0.5
    return found


NAMES = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}


@pytest.mark.parametrize("cap", [0.0, 0.5])
@pytest.mark.parametrize("prediction", list(NAMES))
def test_the_same_weights_come_out(prediction: str, cap: float, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Gradients of a batch of six to 1e-5, and weights after two steps of AdamW to 3e-4 of how far they went.

    AdamW's first steps have the size of the rate whatever the gradient's, so that rounding in small ones is enlarged.
    """
    ours, shared = unet_twins(TINY.unet)
    theirs = copy.deepcopy(shared).train().requires_grad_(True)
    before = {name: weight.clone() for name, weight in theirs.state_dict().items()}
    ours.requires_grad_(True)
    text = TextEncoder(TINY.text)
    start(text, 2)
    schedule, seed, size = NoiseSchedule(SD15.schedule), 5, 6
    latents = Noise([1] * size, range(size)).normal((4, 8, 8))
    ids = Noise([1] * size, range(size)).integers((77,), 1000, draw=1)
    optim = Optim(lr=1e-3, betas=(0.9, 0.999), decay=0.01, warmup=1, hold=1.0, clip=1.0)

    def batch(moment: Moment, share: Share) -> Batch:
        return {"latents": latents, "ids": ids}

    objective = Denoising(ours, text, schedule, Aim(prediction, snr_cap=cap))
    run = Run(Recipe("step", seed, objective, batch, Length(steps=2), {"unet": optim}, (), batch_size=size), tmp_path)

    config = SD15.schedule
    scheduler = diffusers.DDPMScheduler(
        beta_start=config.start, beta_end=config.end, beta_schedule="scaled_linear", prediction_type=NAMES[prediction]
    )
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    for step in range(2):
        first = next(objective.losses(batch(run.moment, Share()), run.moment, Noise([seed] * size, range(size))))
        gradients = torch.autograd.grad(first.value, list(ours.parameters())) if step == 0 else ()
        run.take_step(run.moment)
        noise = Noise([seed] * size, range(step * size, step * size + size))
        t = torch.as_tensor(schedule.draw(noise).t).flatten().long()
        eps = noise.normal((4, 8, 8), draw=EPS)
        out = theirs(scheduler.add_noise(latents, eps, t), t, text(ids).tokens.detach()).sample
        target = {"epsilon": eps, "sample": latents, "v": scheduler.get_velocity(latents, eps, t)}[prediction]
        errors = (out - target).square().mean(dim=(1, 2, 3))
        if cap:
            snr = compute_snr(scheduler, t)
            errors = errors * snr.clamp(max=cap) / {"epsilon": snr, "sample": 1.0, "v": snr + 1}[prediction]
        adamw.zero_grad()
        errors.mean().backward()
        if step == 0:
            named = dict(zip((name for name, _ in ours.named_parameters()), gradients, strict=True))
            mine = to_theirs(pairs(TINY.unet), named)
            pulls = {name: weight.grad for name, weight in theirs.named_parameters()}
            assert relative(mine, pulls) < 1e-5
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adamw.step()

    found, wanted = to_theirs(pairs(TINY.unet), ours.state_dict()), theirs.state_dict()
    moved = {name: weight - before[name] for name, weight in wanted.items()}
    assert relative({name: found[name].view_as(weight) - before[name] for name, weight in wanted.items()}, moved) < 3e-4
