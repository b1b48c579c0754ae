"""The training loop. It does not know what it trains: players, losses and data come from the recipe."""

import copy
import functools
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aquatint.base import files, runtime
from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.base.runtime import DTYPES
from aquatint.training import account, averages, parallel
from aquatint.training.journal import Journal
from aquatint.training.optim import Average, adamw, clip, rate, trained
from aquatint.training.parts import Found, Parts, Ways, own_parts
from aquatint.training.recipe import Answer, Batch, Every, Loss, Losses, Moment, Recipe, Share
from aquatint.training.saving import Saver
from aquatint.training.sharding import own, shard, split, whole
from aquatint.training.spread import in_step, newest_pieces, save_pieces
from aquatint.training.state import NotFinite, collected, held, load_state, locked, newest, parameters, write_state
from aquatint.training.stop import Stop

PATIENCE = 3  # steps in a row without a finite loss and gradient before a run gives up


class Run:
    """A recipe being carried out in a folder: the state between two steps, and one step."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder, self.share = recipe, folder, parallel.join()
        self.parts = own_parts(recipe, self.share)
        self.players = dict(recipe.objective.players)
        for player in self.players.values():
            parallel.from_first_(player.to(recipe.device))
        self.sharded = recipe.sharding == "full" and self.share.world > 1
        self.whole = {name: copy.deepcopy(p).to("meta") for name, p in self.players.items()} if self.sharded else {}
        if self.sharded:
            for player in self.players.values():
                shard(player, recipe.device)
        self.averages = {name: averages_of(recipe, player) for name, player in self.players.items()}
        self.optimisers = {name: adamw(player, recipe.optim[name]) for name, player in self.players.items()}
        self.weights = {name: list(itertools.chain(*trained(player))) for name, player in self.players.items()}
        self.ways = Ways(self.advance, self.weights.__getitem__, self.differentiate, self.split)
        self.step, self.spent, self.quiet = 0, 0.0, False
        self.stumbles = dict.fromkeys(self.players, 0)
        self.saver, logged = Saver(), 0
        if saved := self.found():
            facts, tensors = saved
            check_same(recipe, folder, facts)
            load_state(tensors, self.players, self.averages, self.optimisers)
            self.step, self.spent, logged = facts["step"], facts["spent"], facts.get("log", 2**62)
            self.stumbles |= facts.get("stumbles", {})
            if recipe.parts > 1:  # partial sums are added in an order that depends on the threads
                torch.set_num_threads(facts["threads"])
        if len(set(parallel.told(f"{recipe.name} {self.step}"))) > 1:
            raise UserError(
                f'The processes of this run find different checkpoints in "{folder}".',
                "One folder that all machines share.",
            )
        self.journal = Journal(folder, recipe, self.step, logged) if self.share.rank == 0 else None

    def found(self) -> tuple[Mapping[str, Any], Mapping[str, Tensor]] | None:
        """The newest checkpoint of the folder, be it one file or in pieces; damaged ones are told of."""
        tell = functools.partial(say, self, trouble=True)
        one, several = newest(self.folder, tell), newest_pieces(self.folder, tell, self.share)
        if several is None or (one is not None and one[0]["step"] > several.facts["step"]):
            return one
        return several.facts, several

    @property
    def moment(self) -> Moment:
        """Steps done, and the share of the run's length behind us (0 to 1)."""
        length = self.recipe.length
        done = self.step / length.steps if length.steps else parallel.agreed(self.spent) / (60.0 * length.minutes)
        return Moment(self.step, min(1.0, done))

    def take_step(self, moment: Moment) -> dict[str, float]:
        """One batch: every player of the objective moves once, on its own gradient. Returns what there is to log."""
        begin = [self.begun(part, moment) for part in self.parts]
        logs: dict[str, float] = {}
        for found in Parts(begin, self.ways, self.share, fixed=self.recipe.parts > 1):
            logs |= {f"{found.player}/{key}": value for key, value in self.move(found, moment).items()}
        self.step += 1
        return logs

    def begun(self, part: Share, moment: Moment) -> Callable[[], Losses]:
        """What starts the losses of a part of this step's batch, as often as it is called."""
        recipe, own = self.recipe, self.recipe.batch_size // part.world
        first = moment.step * recipe.batch_size + part.rank * own
        noise = Noise([recipe.seed] * own, range(first, first + own))

        @functools.cache
        def batch() -> Batch:
            given = recipe.batch(moment, part).items()
            return {key: value.to(recipe.device) if isinstance(value, Tensor) else value for key, value in given}

        return lambda: recipe.objective.losses(batch(), moment, noise)

    def advance(self, losses: Losses, answer: Answer | None) -> Loss | Every | None:
        """What an objective says next, its nets computing in the recipe's number format; None at its end."""
        dtype = DTYPES[self.recipe.dtype]
        with torch.autocast(self.recipe.device.type, dtype, enabled=dtype != torch.float32), suppress(StopIteration):
            return losses.send(answer)
        return None

    def differentiate(self, value: Tensor, by: Sequence[Tensor]) -> list[Tensor]:
        """The gradient with respect to some tensors and to nothing else, so that no player leaks into another.

        Sharded weights are handed over only in `backward` (docs/decisions/008); of each we get the rows that are here.
        """
        if not self.sharded:
            found = torch.autograd.grad(value, by, allow_unused=True)
            return apart([torch.zeros_like(t) if g is None else g for t, g in zip(by, found, strict=True)])
        value.backward()
        gradients = [torch.zeros_like(own(t)) if t.grad is None else own(t.grad) for t in by]
        for tensor in by:
            tensor.grad = None
        return gradients

    def split(self, player: str) -> list[bool]:
        """For each weight of a player, whether its rows are spread over the processes."""
        return [split(weight) for weight in self.weights[player]]

    def move(self, found: Found, moment: Moment) -> dict[str, float]:
        """Step one player along its gradient."""
        optimiser, settings = self.optimisers[found.player], self.recipe.optim[found.player]
        norm = clip(found.gradients, settings.clip, self.split(found.player)).item()
        if not math.isfinite(norm):
            self.stumble(found, moment)
            return {"skipped": 1.0}
        self.stumbles[found.player] = 0
        speed = rate(settings, moment)
        for group in optimiser.param_groups:
            group["lr"] = speed
        for weight, gradient in zip(parameters(optimiser), found.gradients, strict=True):
            weight.grad = gradient
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        for average in self.averages[found.player]:
            average.update(self.players[found.player], moment.step)
        return {**found.logs, "norm": norm, "lr": speed}

    def stumble(self, found: Found, moment: Moment) -> None:
        """A loss or gradient that is not finite: skip the step, name its samples; a third in a row ends the run."""
        self.stumbles[found.player] += 1
        first, last = moment.step * self.recipe.batch_size, (moment.step + 1) * self.recipe.batch_size - 1
        samples = f"samples {first} to {last}"
        what = f"{found.player}'s loss or gradient is not finite ({dict(found.logs)})"
        say(self, f"step {moment.step}: {what}; {samples}", trouble=True)
        if self.journal is not None:
            self.journal.skip(moment.step, found.player, first, last)
        if self.stumbles[found.player] >= PATIENCE:
            raise UserError(
                f"{self.recipe.name}: {PATIENCE} steps in a row without a finite gradient, the last at {samples}.",
                "A run needs finite losses.",
                "Lower the learning rate, or look at these samples; the last checkpoint is sound.",
            )

    def save(self, *, wait: bool = True) -> None:
        """Write the state: the first process does, with what it gathers from the others; or each its piece.

        wait=False   only copy it, and write while steps go on (pieces are waited for all the same). What goes wrong
                     with the disk is then told of, for the next save may succeed; else it is a UserError
        """
        self.hear()
        written = self.saver.step == self.step
        if parallel.agreed(written) if self.sharded else written:
            return
        try:
            self._begin_save(behind=not wait)
            if wait and (error := self.saver.outcome(wait=True)):
                raise error
        except NotFinite:
            raise
        except UserError as error:
            if wait:
                raise
            self.tell_unsaved(error)

    def _begin_save(self, *, behind: bool) -> None:
        fixed = {"parts": self.recipe.parts, "threads": torch.get_num_threads()}
        parts = fixed if self.recipe.parts > 1 else {}
        logged = in_step(self._logged) if self.sharded else self._logged()
        facts = {"recipe": self.recipe.name, "seed": self.recipe.seed, "step": self.step, "spent": self.spent, **logged}
        facts |= {"stumbles": dict(self.stumbles)} | parts | dict(self.recipe.facts)
        keep = self.recipe.keep
        if self.sharded and self.recipe.spread:
            save_pieces(self.folder, facts, held(self.players, self.averages, self.optimisers), self.share, keep)
            self.saver.step = self.step
        elif self.journal:
            tensors, journal = collected(self.players, self.averages, self.optimisers), self.journal

            def write() -> None:
                journal.sync()  # first, for the state says how long the log is
                write_state(self.folder, facts, tensors, keep)

            self.saver.begin(self.step, write, behind=behind)
        elif self.sharded:
            collected(self.players, self.averages, self.optimisers, kept=False)

    def _logged(self) -> dict[str, int]:
        """How long the log is, all of it being in the file."""
        if self.journal is None:
            return {}
        length = self.journal.flush()
        if self.recipe.spread:
            self.journal.sync()
        return {"log": length}

    def hear(self, *, wait: bool = True) -> None:
        """What became of the state that was being written: trouble with the disk is told of, another error raised."""
        error = self.saver.outcome(wait=wait)
        if isinstance(error, UserError) and not isinstance(error, NotFinite):
            self.tell_unsaved(error)
        elif error is not None:
            raise error

    def tell_unsaved(self, error: UserError) -> None:
        """A state was not saved, and the run goes on."""
        say(self, f"a checkpoint was not saved, the next may be: {error}", trouble=True)

    def averaged(self) -> dict[str, nn.Module]:
        """Copies of the players that carry their longest averages: what one paints and judges with.

        Where weights are sharded, all processes ask for them at once.
        """
        copies = {}
        for name, player in self.players.items():
            average = max(self.averages[name], key=lambda average: average.decay)
            copies[name] = copy.deepcopy(self.whole.get(name, player)).eval()
            if self.sharded:
                copies[name].to_empty(device=self.recipe.device)
            copies[name].load_state_dict({key: whole(value, value) for key, value in average.shadow.items()})
        return copies


def apart(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Gradients that each have memory of their own: autograd may give one for two weights, and sums are in place."""
    taken, found = set[int](), list[Tensor]()
    for gradient in gradients:
        shared = gradient.data_ptr() in taken or (0 in gradient.stride() and gradient.numel() > 1)
        found.append(gradient.clone(memory_format=torch.contiguous_format) if shared else gradient)
        taken.add(found[-1].data_ptr())
    return found


def averages_of(recipe: Recipe, player: nn.Module) -> list[Average]:
    """All that is kept of a player's weights: averages of fixed decay, and those whose length is chosen later."""
    later = averages.WIDTHS if recipe.snapshot_steps else ()
    return [Average(player, decay) for decay in recipe.averages] + [averages.Profile(player, w) for w in later]


def check_same(recipe: Recipe, folder: Path, facts: Mapping[str, Any]) -> None:
    """UserError where a folder's checkpoint is another recipe's, or one with other settings."""
    ours = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "parts": recipe.parts,
        **json.loads(json.dumps(dict(recipe.facts))),
    }
    for key, value in ours.items():
        if ({"parts": 1, "seed": recipe.seed} | dict(facts)).get(key) != value:
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
    files.make_folder(folder)
    with locked(folder) if parallel.join().rank == 0 else nullcontext(), Stop() as stop:
        if parallel.share().rank == 0:
            files.sweep(folder)
        run = Run(recipe, folder)
        if run.share.rank == 0:
            account.write(recipe, folder, run.share.world)
        try:
            return carried_out(run, tell, stop)
        finally:
            if error := run.saver.outcome(wait=True):
                say(run, f"the last checkpoint was not saved: {error}", trouble=True)


def carried_out(run: Run, tell: Tell | None, stop: Stop) -> Mapping[str, nn.Module]:
    """A run from where it stands to its end."""
    recipe, run.quiet = run.recipe, tell is not None
    saved = watched = run.spent
    say(run, f"{recipe.name}: starts at step {run.step}, {run.spent / 60:.1f} min")
    moment = run.moment
    while moment.progress < 1.0:
        began = time.monotonic()
        logs = run.take_step(moment)
        run.hear(wait=False)
        run.spent += time.monotonic() - began
        run.spent = parallel.agreed(run.spent) if run.sharded else run.spent  # when to save and look, all must agree
        if tell is not None and run.share.rank == 0:
            tell(run, logs)
        if run.step % recipe.log_steps == 0:
            note(run, moment, logs)
        if recipe.snapshot_steps and run.step % recipe.snapshot_steps == 0 and run.share.rank == 0:
            averages.write(run.folder, run.step, run.averages)
        steps = recipe.watch_steps
        if recipe.watch and (not run.step % steps if steps else run.spent - watched >= 60.0 * recipe.watch_minutes):
            watched = run.spent
            look(run, run.moment)
        every = recipe.save_steps
        if not run.step % every if every else run.spent - saved >= 60.0 * recipe.save_minutes:
            saved = run.spent
            run.save(wait=False)
        if stop.now:
            run.save()
            say(run, f"stopped after step {run.step}; it goes on from there", trouble=True)
            raise KeyboardInterrupt
        moment = run.moment
    run.save()
    if recipe.watch and not (recipe.watch_steps and run.step % recipe.watch_steps == 0):
        look(run, moment)
    if run.journal:
        run.journal.flush()
        run.journal.sync()
    return run.averaged()


def look(run: Run, moment: Moment) -> None:
    """Let the recipe look at the averaged players (the first process does) and log what it finds."""
    if run.recipe.watch and (run.sharded or run.share.rank == 0):
        players = run.averaged()
        if run.share.rank == 0:
            note(run, moment, run.recipe.watch(moment, players, run.folder))


def note(run: Run, moment: Moment, logs: Mapping[str, float]) -> None:
    """A line of the log, on disk and on the terminal."""
    if run.journal is None:
        return
    try:
        say(run, run.journal.note(run.step, run.spent, moment.progress, logs))
    except UserError as error:
        say(run, f"the log was not written, its lines are kept for later: {error}", trouble=True)


def say(run: Run, text: str, *, trouble: bool = False) -> None:
    """Progress goes to stderr, from the first process; trouble also where somebody else tells of the steps."""
    if run.share.rank == 0 and (trouble or not run.quiet):
        print(text, file=sys.stderr, flush=True)
