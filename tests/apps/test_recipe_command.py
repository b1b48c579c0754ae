"""`aquatint train FILE.py`: a recipe of one's own, from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.apps.command import run

RECIPE = """
from dataclasses import dataclass, field

import torch
from torch import nn

from aquatint.training.recipe import Length, Loss, Optim, Recipe


class Line:
    def __init__(self):
        self.players = {"line": nn.Linear(2, 1)}
        for weight in self.players["line"].parameters():
            nn.init.zeros_(weight)

    def losses(self, batch, moment, noise):
        x = noise.normal((2,), draw=4)
        loss = (self.players["line"](x) - x.sum(1, keepdim=True)).square().mean()
        yield Loss("line", loss, {"loss": loss.item()})


@dataclass(frozen=True)
class Settings:
    steps: int = 20
    size: int = 8
    optim: Optim = field(default_factory=lambda: Optim(lr=0.05, warmup=1))


def recipe(settings: Settings):
    return Recipe("line", 0, Line(), lambda moment, share: {}, Length(steps=settings.steps),
                  {"line": settings.optim}, batch_size=settings.size, log_steps=5)


def other(settings: Settings):
    return 5
"""


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("line.py").write_text(RECIPE)


def test_a_recipe_is_printed_resolved(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "train", "line.py", "--set", "optim.lr=1e-3", "--set", "steps=7", "--dry-run")
    assert code == 0, err
    said = json.loads(out)
    assert said["settings"]["optim"]["lr"] == said["optim"]["line"]["lr"] == 1e-3
    assert said["length"]["steps"] == 7
    assert said["numbers that learn"] == {"line": 3}
    assert not Path("runs").exists()


def test_a_recipe_is_carried_out_and_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "train", "line.py", "--set", "steps=10")
    assert code == 0, err
    assert out.strip() == "runs/line/report.html"
    code, _, err = run(capfd, "train", "line.py", "--out", "runs/line")
    assert code == 0, err
    assert "starts at step 10" in err
    lines = [json.loads(line) for line in Path("runs/line/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert lines[-1]["line/loss"] < lines[0]["line/loss"]
    said = json.loads(Path("runs/line/run.json").read_text())
    assert said["length"]["steps"] == 20
    assert said["made with"]["torch"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("none.py",), 'There is no file "none.py"'),
        (("line.py:absent",), "no function absent"),
        (("line.py:other",), "gave int"),
        (("line.py", "--set", "speed=1"), "speed"),
        (("line.py", "--set", "steps=many"), "steps"),
        (("line.py", "--words", "x"), "--words for the recipe line.py"),
        (("bare.py",), "says no dataclass"),
    ],
)
def test_what_is_no_recipe(arguments: tuple[str, ...], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("bare.py").write_text("def recipe(settings): ...\n")
    code, _, err = run(capfd, "train", *arguments)
    assert code == 2
    assert told in err


@pytest.mark.slow
def test_two_processes_carry_a_recipe_out(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "aquatint", "train", "line.py", "--out", "two"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "two/report.html"
    assert json.loads(Path("two/run.json").read_text())["processes"] == 2


def test_tensorboard_is_told_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for steps in (10, 20):
        code, _, err = run(capfd, "train", "line.py", "--set", f"steps={steps}", "--tensorboard", "--out", "run")
        assert code == 0, err
    lines = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    events = event_accumulator.EventAccumulator("run/tensorboard")
    events.Reload()
    said = [(event.step, pytest.approx(event.value)) for event in events.Scalars("line/loss")]
    assert said == [(line["step"], line["line/loss"]) for line in lines]
    assert {"rate", "memory", "line/norm"} <= set(events.Tags()["scalars"])
