"""The training loop. It does not know what it trains: players, losses and data come from the recipe."""

import copy
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aquatint.base import runtime
from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.base.runtime import DTYPES
from aquatint.training import account, parallel
from aquatint.training.optim import Average, adamw, clip, rate
from aquatint.training.recipe import Loss, Moment, Recipe
from aquatint.training.state import load_state, locked, newest, parameters, save_state
from aquatint.training.stop import Stop

PATIENCE = 3  # steps in a row without a finite loss and gradient before a run gives up


class Run:
    """A recipe being carried out in a folder: the state between two steps, and one step."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder, self.share = recipe, folder, parallel.join()
        if recipe.batch_size % self.share.world:
            raise UserError(
                f"A batch of {recipe.batch_size} for {self.share.world} processes.", "A multiple of their number."
            )
        self.players = dict(recipe.objective.players)
        for player in self.players.values():
            parallel.from_first_(player.to(recipe.device))
        self.averages = {name: [Average(p, decay) for decay in recipe.averages] for name, p in self.players.items()}
        self.optimisers = {name: adamw(player, recipe.optim[name]) for name, player in self.players.items()}
        self.step, self.spent, self.stumbles, self.quiet = 0, 0.0, 0, False
        if saved := newest(folder, lambda text: say(self, text, trouble=True)):
            facts, tensors = saved
            check_same(recipe, folder, facts)
            load_state(tensors, self.players, self.averages, self.optimisers)
            self.step, self.spent = facts["step"], facts["spent"]

    @property
    def moment(self) -> Moment:
        """Steps done, and the share of the run's length behind us (0 to 1)."""
        length = self.recipe.length
        done = self.step / length.steps if length.steps else parallel.agreed(self.spent) / (60.0 * length.minutes)
        return Moment(self.step, min(1.0, done))

    def take_step(self, moment: Moment) -> dict[str, float]:
        """One batch: every player of the objective moves once, on its own gradient. Returns what there is to log."""
        recipe, share = self.recipe, self.share
        own = recipe.batch_size // share.world
        first = moment.step * recipe.batch_size + share.rank * own
        noise = Noise([recipe.seed] * own, range(first, first + own))
        given = recipe.batch(moment, share).items()
        batch = {key: value.to(recipe.device) if isinstance(value, Tensor) else value for key, value in given}
        losses = recipe.objective.losses(batch, moment, noise)
        logs: dict[str, float] = {}
        while loss := self.computed(losses):
            logs |= {f"{loss.player}/{key}": value for key, value in self.move(loss, moment).items()}
        self.step += 1
        return logs

    def computed(self, losses: Iterator[Loss]) -> Loss | None:
        """The next loss, its nets computing in the recipe's number format; None when all players have moved."""
        dtype = DTYPES[self.recipe.dtype]
        with torch.autocast(self.recipe.device.type, dtype, enabled=dtype != torch.float32):
            return next(losses, None)

    def move(self, loss: Loss, moment: Moment) -> dict[str, float]:
        """Step one player down its loss. The gradient is taken with respect to its weights alone, so nothing leaks."""
        optimiser, settings = self.optimisers[loss.player], self.recipe.optim[loss.player]
        weights = parameters(optimiser)
        found = torch.autograd.grad(loss.value, weights, allow_unused=True)
        gradients = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
        parallel.mean_(gradients)
        norm = clip(gradients, settings.clip).item()
        if not math.isfinite(norm):
            self.stumble(loss, moment)
            return {"skipped": 1.0}
        self.stumbles = 0
        speed = rate(settings, moment)
        for group in optimiser.param_groups:
            group["lr"] = speed
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        for average in self.averages[loss.player]:
            average.update(self.players[loss.player], moment.step)
        return {**loss.logs, "norm": norm, "lr": speed}

    def stumble(self, loss: Loss, moment: Moment) -> None:
        """A loss or gradient that is not finite: skip the step, name its samples, and give up at the third in a row."""
        self.stumbles += 1
        size = self.recipe.batch_size
        samples = f"samples {moment.step * size} to {(moment.step + 1) * size - 1}"
        what = f"{loss.player}'s loss {loss.value.item()} or gradient is not finite"
        say(self, f"step {moment.step}: {what}; {samples}", trouble=True)
        if self.stumbles >= PATIENCE:
            raise UserError(
                f"{self.recipe.name}: {PATIENCE} steps in a row without a finite gradient, the last at {samples}.",
                "A run needs finite losses.",
                "Lower the learning rate, or look at these samples; the last checkpoint is sound.",
            )

    def save(self) -> None:
        """Write the state (the first process does)."""
        if self.share.rank == 0:
            facts = {"recipe": self.recipe.name, "step": self.step, "spent": self.spent, **self.recipe.facts}
            save_state(self.folder, facts, self.players, self.averages, self.optimisers)

    def averaged(self) -> dict[str, nn.Module]:
        """Copies of the players that carry their longest averages: what one paints and judges with."""
        copies = {name: copy.deepcopy(player).eval() for name, player in self.players.items()}
        for name, module in copies.items():
            module.load_state_dict(max(self.averages[name], key=lambda average: average.decay).shadow)
        return copies


def check_same(recipe: Recipe, folder: Path, facts: Mapping[str, Any]) -> None:
    """UserError where a folder's checkpoint is another recipe's, or one with other settings."""
    ours = {"recipe": recipe.name, **json.loads(json.dumps(dict(recipe.facts)))}
    for key, value in ours.items():
        if facts.get(key) != value:
            raise UserError(
                f'"{folder}" holds a run of the recipe "{facts.get("recipe")}" with another {key}.',
                "A folder of the same run, which then goes on, or an empty one.",
                "Name another folder.",
            )


Tell = Callable[["Run", Mapping[str, float]], None]


def train(recipe: Recipe, folder: Path, tell: Tell | None = None) -> Mapping[str, nn.Module]:
    """Carry a recipe out in a folder, from its last checkpoint if it has one; returns the averaged players.

    Writes run.json (account.py), step-*.safetensors (state), log.jsonl (a line every `log_steps`) and whatever the
    recipe's `watch` writes.
    tell   is told of every step, in place of the lines that go to standard error otherwise

    SIGTERM and Ctrl-C let it finish its step and save; then it raises KeyboardInterrupt.
    """
    runtime.keep_pages()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) if parallel.join().rank == 0 else nullcontext(), Stop() as stop:
        run = Run(recipe, folder)
        if run.share.rank == 0:
            account.write(recipe, folder, run.share.world)
        return carried_out(run, tell, stop)


def carried_out(run: Run, tell: Tell | None, stop: Stop) -> Mapping[str, nn.Module]:
    """A run from where it stands to its end."""
    recipe, run.quiet = run.recipe, tell is not None
    saved = watched = run.spent
    say(run, f"{recipe.name}: starts at step {run.step}, {run.spent / 60:.1f} min")
    moment = run.moment
    while moment.progress < 1.0:
        began = time.monotonic()
        logs = run.take_step(moment)
        run.spent += time.monotonic() - began
        if tell is not None and run.share.rank == 0:
            tell(run, logs)
        if run.step % recipe.log_steps == 0:
            note(run, moment, logs)
        steps = recipe.watch_steps
        if recipe.watch and (not run.step % steps if steps else run.spent - watched >= 60.0 * recipe.watch_minutes):
            watched = run.spent
            look(run, run.moment)
        if run.spent - saved >= 60.0 * recipe.save_minutes:
            saved = run.spent
            run.save()
        if stop.now:
            run.save()
            say(run, f"stopped after step {run.step}; it goes on from there", trouble=True)
            raise KeyboardInterrupt
        moment = run.moment
    run.save()
    if recipe.watch and not (recipe.watch_steps and run.step % recipe.watch_steps == 0):
        look(run, moment)
    return run.averaged()


def look(run: Run, moment: Moment) -> None:
    """Let the recipe look at the averaged players (the first process does) and log what it finds."""
    if run.share.rank == 0 and run.recipe.watch:
        note(run, moment, run.recipe.watch(moment, run.averaged(), run.folder))


def note(run: Run, moment: Moment, logs: Mapping[str, float]) -> None:
    """A line of the log, on disk and on the terminal."""
    if run.share.rank:
        return
    line: dict[str, Any] = {"step": run.step, "minutes": round(run.spent / 60, 2), "progress": moment.progress, **logs}
    with (run.folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    rates = f"{run.step * run.recipe.batch_size / max(run.spent, 1e-9):.3g}/s"
    left = run.spent * (1 - moment.progress) / max(moment.progress, 1e-9) / 60 if moment.progress else 0.0
    say(
        run,
        f"{run.step:7d} {run.spent / 60:6.1f} min {rates} {left:.1f} min left  "
        + "  ".join(f"{k} {v:.4g}" for k, v in logs.items()),
    )


def say(run: Run, text: str, *, trouble: bool = False) -> None:
    """Progress goes to stderr, from the first process; trouble also where somebody else tells of the steps."""
    if run.share.rank == 0 and (trouble or not run.quiet):
        print(text, file=sys.stderr, flush=True)
