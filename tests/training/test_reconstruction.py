"""The autoencoder and its critic: gradients against ones written out by hand, and nothing leaks between the players."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from aquatint.base.noise import POSTERIOR, Noise
from aquatint.families import TINY
from aquatint.nets.autoencoder import Autoencoder, Posterior
from aquatint.nets.critics import CriticConfig, PatchCritic, Perception, edges, hinge
from aquatint.nets.text import ImageConfig, ImageTower
from aquatint.training.loop import Run
from aquatint.training.objectives.autoencoder import Reconstruction, Weights, adaptive, calm, pulls, settle
from aquatint.training.recipe import Batch, Length, Moment, Optim, Recipe, Share, alone
from aquatint.training.start import start

LATE, EARLY = Moment(100, 1.0), Moment(0, 0.0)


def parts(weights: Weights) -> tuple[Reconstruction, torch.Tensor, Noise]:
    net, critic = Autoencoder(TINY.autoencoder), PatchCritic(CriticConfig(widths=(8, 16), groups=4))
    tower = ImageTower(ImageConfig(size=32, patch=8, width=16, layers=2, heads=2, projection=8))
    for index, module in enumerate((net, critic, tower)):
        start(module, index)
    noise = Noise([7, 7], [0, 1])
    perception = Perception(tower, layers=(0, 1))
    return Reconstruction(net, critic, weights, perception, 32), noise.normal((3, 32, 32)).clamp(-1, 1), noise


def pictures(steps: int) -> Recipe:
    """Four fixed pictures; the critic plays in the second half."""
    objective, _, _ = parts(Weights(perception=0.3, kl=1e-3, critic=0.7, start=0.5))
    shown = Noise([8] * 4, range(4)).normal((3, 32, 32)).clamp(-1, 1)

    def batch(moment: Moment, share: Share) -> Batch:
        return {"pixels": shown[share.rank * 4 // share.world : (share.rank + 1) * 4 // share.world]}

    optim = {name: Optim(lr=1e-3, warmup=1, eps=1e-4) for name in objective.players}
    return Recipe("pictures", 5, objective, batch, Length(steps=steps), optim, (0.9,), batch_size=4, log_steps=1)


def test_both_players_gradients_are_those_written_by_hand() -> None:
    weights = Weights(pixels=1.0, edges=0.5, perception=0.3, kl=1e-3, critic=0.7, start=0.5)
    objective, pixels, noise = parts(weights)
    net, critic = objective.autoencoder, objective.critic
    generator = alone(objective.losses({"pixels": pixels}, LATE, noise))
    ours = torch.autograd.grad(next(generator).value, list(net.parameters()))
    critics = torch.autograd.grad(next(generator).value, list(critic.parameters()))

    mean, log_variance = net.quant(net.encoder(pixels)).chunk(2, dim=1)
    z = mean + (log_variance / 2).exp() * noise.normal(tuple(mean.shape[1:]), draw=POSTERIOR)
    painted = net.decoder(net.post_quant(z))
    assert objective.perception is not None
    likeness = (
        (painted - pixels).abs().mean() + 0.5 * edges(painted, pixels) + 0.3 * objective.perception(painted, pixels)
    )
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum() / len(pixels)
    opinion = -critic(painted).mean()
    last = net.decoder.leave.weight
    pull = torch.autograd.grad(likeness, last, retain_graph=True)[0].norm()
    push = torch.autograd.grad(opinion, last, retain_graph=True)[0].norm()
    total = likeness + 1e-3 * kl + 0.7 * (pull / (push + 1e-4)).detach() * opinion
    for got, expected in zip(ours, torch.autograd.grad(total, list(net.parameters())), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)

    verdict = 0.5 * (F.relu(1 - critic(pixels)).mean() + F.relu(1 + critic(painted.detach())).mean())
    for got, expected in zip(critics, torch.autograd.grad(verdict, list(critic.parameters())), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)


def test_perception_reaches_the_pictures_and_never_the_tower() -> None:
    objective, pixels, _ = parts(Weights())
    assert objective.perception is not None
    painted = (0.5 * pixels).requires_grad_()
    objective.perception(painted, pixels).backward()
    assert painted.grad is not None
    assert painted.grad.abs().sum() > 0
    assert all(p.grad is None for p in objective.perception.tower.parameters())  # type: ignore[union-attr]
    assert objective.perception(pixels, pixels).item() == 0.0


def test_perception_alone_teaches_the_autoencoder() -> None:
    """Of a perceptual loss under no_grad nothing would be left."""
    objective, pixels, noise = parts(Weights(pixels=0.0, edges=0.0, perception=1.0, kl=0.0, start=1.1))
    (loss,) = alone(objective.losses({"pixels": pixels}, LATE, noise))
    gradients = torch.autograd.grad(loss.value, list(objective.autoencoder.parameters()))
    assert sum(bool(gradient.abs().sum() > 0) for gradient in gradients) > 0.9 * len(gradients)


@pytest.mark.parametrize("still", ["autoencoder", "critic"])
def test_a_players_step_leaves_the_other_alone(still: str, tmp_path: Path) -> None:
    """A player whose rate is 0 does not move, though the other does, and nobody is left with a gradient."""
    recipe = pictures(4)
    optim = dict(recipe.optim) | {still: Optim(lr=0.0)}
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in recipe.objective.players.items()}
    run = Run(replace(recipe, optim=optim), tmp_path)
    run.take_step(LATE)
    for name, net in run.players.items():
        moved = [not torch.equal(now, then) for now, then in zip(net.parameters(), before[name], strict=True)]
        assert any(moved) is (name != still)
        assert all(p.grad is None for p in net.parameters())


def test_both_players_judge_the_same_pictures(tmp_path: Path) -> None:
    """The critic's loss is of the pictures that the autoencoder's was of."""
    recipe = pictures(4)
    run, seen = Run(recipe, tmp_path), []
    recipe.objective.players["critic"].register_forward_hook(lambda net, given, made: seen.append(made.mean().item()))
    logs = run.take_step(LATE)
    assert logs["critic/real"] == pytest.approx(seen[1])
    assert logs["critic/fake"] == pytest.approx(seen[2])
    assert logs["autoencoder/opinion"] == pytest.approx(-seen[0])
    assert seen[0] == pytest.approx(seen[2]), "the same pictures, detached; the critic had not moved in between"


def test_the_critic_waits_for_its_start() -> None:
    objective, pixels, noise = parts(Weights(start=0.5))
    assert [loss.player for loss in alone(objective.losses({"pixels": pixels}, EARLY, noise))] == ["autoencoder"]
    assert [loss.player for loss in alone(objective.losses({"pixels": pixels}, LATE, noise))] == [
        "autoencoder",
        "critic",
    ]


def test_hinge_is_zero_for_a_sure_and_right_critic() -> None:
    sure = torch.full((1, 1, 2, 2), 1.5)
    assert hinge(sure, -sure).item() == 0.0
    assert hinge(-sure, sure).item() == 2.5


def test_kl_is_zero_only_for_the_standard_normal() -> None:
    zero = torch.zeros(2, 4, 2, 2)
    assert Posterior(zero, zero).kl().abs().max() == 0
    expected = 16 * 0.5 * (1.0 + torch.e - 1.0 - 1.0)
    torch.testing.assert_close(Posterior(zero + 1.0, zero + 1.0).kl(), torch.full((2,), expected))


def test_adaptive_weight_balances_the_pulls() -> None:
    last = torch.ones(1, 1, 1, 1, requires_grad=True)
    assert abs(adaptive(*pulls((6.0 * last).sum(), (2.0 * last).sum(), last)).item() - 3.0) < 1e-3


def test_a_calm_start_passes_a_picture_through_the_resizes() -> None:
    net = Autoencoder(TINY.autoencoder)
    start(net, 1)
    calm(net)
    x = Noise([3]).normal((8, 16, 16))
    grown = net.decoder.levels[-2].resize(x)
    assert torch.corrcoef(torch.stack([grown.flatten(), F.interpolate(x, scale_factor=2).flatten()]))[0, 1] > 0.9


@torch.no_grad()
def test_settled_latents_are_even_and_pictures_are_as_before() -> None:
    net = Autoencoder(replace(TINY.autoencoder, scale=1.0))
    start(net, 4)
    pixels = Noise([1, 2, 3, 4]).normal((3, 32, 32))
    before = net.decode(net.encode(pixels))
    latents = net.posterior(pixels)
    mean, deviation = latents.mean.mean(dim=(0, 2, 3)), latents.mean.std(dim=(0, 2, 3))
    settle(net, mean, deviation)
    after = net.posterior(pixels)
    torch.testing.assert_close(after.mean.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(after.mean.std(dim=(0, 2, 3)), torch.ones(4))
    widths = (0.5 * latents.log_variance).exp() / deviation.view(1, -1, 1, 1)
    torch.testing.assert_close((0.5 * after.log_variance).exp(), widths, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(net.decode(net.encode(pixels)), before, rtol=1e-4, atol=1e-5)
