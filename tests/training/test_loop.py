"""The loop on small things: it learns, it goes on to the bit, it stops on nonsense, it works with company."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.families import TINY
from aquatint.nets.text import TextEncoder
from aquatint.nets.unet import UNet
from aquatint.training import parallel
from aquatint.training.loop import Run, train
from aquatint.training.objectives.diffusion import Aim, Denoising
from aquatint.training.recipe import Batch, Length, Loss, Moment, Optim, Recipe, Share
from aquatint.training.start import start
from aquatint.training.state import checkpoints, read


def tiny(steps: int, seed: int = 3, **changes: object) -> Recipe:
    """TINY's U-Net learning four fixed latents by heart."""
    unet, text = UNet(TINY.unet), TextEncoder(TINY.text)
    start(unet, seed)
    start(text, seed)
    latents = Noise([seed] * 4, range(4)).normal((4, 8, 8))
    ids = Noise([seed] * 4, range(4)).integers((77,), 1000, draw=1)

    def batch(moment: Moment, share: Share) -> Batch:
        own = slice(share.rank * 4 // share.world, (share.rank + 1) * 4 // share.world)
        return {"latents": latents[own], "ids": ids[own]}

    objective = Denoising(unet, text, NoiseSchedule(TINY.schedule), Aim("epsilon"))
    settings: dict[str, object] = {"averages": (0.9, 0.99), "batch_size": 4, "log_steps": 5}
    return Recipe(
        "tiny", seed, objective, batch, Length(steps=steps), {"unet": Optim(lr=3e-3, warmup=5)}, **(settings | changes)
    )  # fmt: skip


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_loss_falls(tmp_path: Path) -> None:
    train(tiny(60), tmp_path)
    lines = logged(tmp_path)
    early, late = (sum(line["unet/loss"] for line in part) / 4 for part in (lines[:4], lines[-4:]))
    assert late < 0.8 * early
    assert checkpoints(tmp_path)[-1].name == "step-00000060.safetensors"


def test_nets_compute_in_the_format_that_was_asked_for_and_keep_their_weights(tmp_path: Path) -> None:
    recipe = tiny(1, dtype="bfloat16")
    unet, seen = recipe.objective.players["unet"], set()
    kernel = next(module for module in unet.modules() if isinstance(module, nn.Conv2d))
    kernel.register_forward_hook(lambda module, given, made: seen.add(made.dtype))
    train(recipe, tmp_path)
    assert seen == {torch.bfloat16}
    _, state = read(checkpoints(tmp_path)[-1])
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path: Path) -> None:
    train(tiny(12), tmp_path / "whole")
    cut = Run(tiny(12), tmp_path / "cut")
    (tmp_path / "cut").mkdir()
    for _ in range(5):
        cut.take_step(cut.moment)
    cut.save()
    train(tiny(12), tmp_path / "cut")
    (_, whole), (_, resumed) = (read(checkpoints(tmp_path / name)[-1]) for name in ("whole", "cut"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    train(tiny(12, seed=4), tmp_path / "other")  # the control: another seed must differ, or the test is blind
    (_, other) = read(checkpoints(tmp_path / "other")[-1])
    assert not all(torch.equal(whole[key], other[key]) for key in whole)


def test_old_checkpoints_go_and_two_stay(tmp_path: Path) -> None:
    run = Run(tiny(9), tmp_path)
    for _ in range(4):
        run.take_step(run.moment)
        run.save()
    assert [path.stem for path in checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]


def test_a_batch_is_shared_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "join", lambda: Share(0, 3))
    with pytest.raises(UserError, match="A batch of 4 for 3 processes"):
        Run(tiny(1), tmp_path)


class TwoPlayers:
    """a wants to meet b, b wants to flee: each loss has a gradient for both players."""

    def __init__(self) -> None:
        self.players = {"a": nn.Linear(1, 1, bias=False), "b": nn.Linear(1, 1, bias=False)}

    def losses(self, batch: Batch, moment: Moment, noise: Noise) -> Iterator[Loss]:
        a, b = (player.weight for player in self.players.values())
        yield Loss("a", (a - b).square().sum(), {})
        self.seen = a.item()
        yield Loss("b", -(a - b).square().sum(), {})


def test_a_loss_moves_its_player_and_no_other(tmp_path: Path) -> None:
    objective = TwoPlayers()
    with torch.no_grad():
        objective.players["a"].weight.fill_(1.0)
        objective.players["b"].weight.fill_(0.0)
    optim = {"a": Optim(lr=0.1, warmup=1, decay=0.0), "b": Optim(lr=1e-12, warmup=1, decay=0.0)}
    run = Run(Recipe("two", 0, objective, lambda m, s: {}, Length(steps=9), optim, batch_size=1), tmp_path)
    run.take_step(run.moment)
    assert objective.players["a"].weight.item() == pytest.approx(0.9, abs=1e-6)
    assert objective.seen == pytest.approx(0.9, abs=1e-6), "a had moved before b's loss was asked for"
    assert objective.players["b"].weight.item() == pytest.approx(0.0, abs=1e-9)
    assert all(p.weight.grad is None for p in objective.players.values())


def test_three_steps_without_a_finite_gradient_end_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny(20)
    weights = {key: value.clone() for key, value in recipe.objective.players["unet"].state_dict().items()}
    latents = recipe.batch(Moment(0, 0.0), Share())["latents"]
    latents[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="3 steps in a row"):
        train(recipe, tmp_path)
    assert "samples 0 to 3" in capsys.readouterr().err
    after = recipe.objective.players["unet"].state_dict()
    assert all(torch.equal(weights[key], after[key]) for key in weights)
    assert not checkpoints(tmp_path)


class Half(TwoPlayers):
    """a's loss is never a number, b's always."""

    def losses(self, batch: Batch, moment: Moment, noise: Noise) -> Iterator[Loss]:
        for loss in super().losses(batch, moment, noise):
            yield loss._replace(value=loss.value * float("nan")) if loss.player == "a" else loss


def test_a_players_stumbles_are_its_own_and_outlast_a_stop(tmp_path: Path) -> None:
    """Another player's step does not forgive them, nor does going on from a checkpoint; the log names the samples."""

    def run() -> Run:
        optim = {name: Optim(lr=0.01, warmup=1) for name in "ab"}
        return Run(Recipe("half", 0, Half(), lambda m, s: {}, Length(steps=9), optim, batch_size=2), tmp_path)

    first = run()
    for _ in range(2):
        first.take_step(first.moment)
    first.save()
    second = run()
    assert second.stumbles == {"a": 2, "b": 0}
    with pytest.raises(UserError, match="3 steps in a row"):
        second.take_step(second.moment)
    assert logged(tmp_path) == [
        {"step": step, "a/skipped": 1.0, "first sample": 2 * step, "last sample": 2 * step + 1} for step in (0, 1)
    ]
