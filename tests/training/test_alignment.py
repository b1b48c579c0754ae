"""CLIP alignment: the symmetric contrastive loss."""

import math
from pathlib import Path

import torch
from torch.nn import functional as F

from aquatint.base.noise import Noise
from aquatint.families import TINY
from aquatint.nets.text import ImageConfig, ImageTower, TextConfig, TextEncoder
from aquatint.training.loop import Run
from aquatint.training.objectives.text import Alignment, Towers, contrast
from aquatint.training.recipe import Batch, Length, Moment, Optim, Recipe, Share
from aquatint.training.start import start

TEXT = TextConfig(width=16, layers=1, heads=2, vocabulary=64, projection=8)
IMAGE = ImageConfig(size=16, patch=8, width=16, layers=1, heads=2, projection=8)


def recipe(steps: int = 4) -> Recipe:
    """Eight fixed pairs, learnt by heart."""
    towers = Towers(TextEncoder(TEXT), ImageTower(IMAGE))
    start(towers, 5)
    noise = Noise([5] * 8, range(8))
    pixels, ids = noise.normal((3, 16, 16)), noise.integers((77,), 63, draw=1)
    ids[:, -1] = 63

    def batch(moment: Moment, share: Share) -> Batch:
        own = slice(share.rank * 8 // share.world, (share.rank + 1) * 8 // share.world)
        return {"pixels": pixels[own], "ids": ids[own]}

    optim = {"towers": Optim(lr=3e-3, warmup=1, eps=1e-4)}
    return Recipe("pairs", 5, Alignment(towers), batch, Length(steps=steps), optim, (0.9,), batch_size=8, log_steps=1)


def test_contrast_is_the_mean_of_both_cross_entropies() -> None:
    texts, images = (F.normalize(Noise(seeds).normal((8,)), dim=1) for seeds in ([1, 2, 3], [4, 5, 6]))
    loss, _ = contrast(texts, images, torch.tensor(math.log(10.0)))
    similar = 10.0 * images @ texts.T
    by_hand = 0.0
    for i in range(3):
        by_hand -= (similar[i, i] - torch.logsumexp(similar[i], 0)).item() / 6
        by_hand -= (similar[i, i] - torch.logsumexp(similar[:, i], 0)).item() / 6
    assert abs(loss.item() - by_hand) < 1e-5


def test_the_temperature_stops_at_100() -> None:
    texts, images = Noise([1, 2, 3]).normal((8,)), Noise([4, 5, 6]).normal((8,))
    a, b = (contrast(texts, images, torch.tensor(math.log(value)))[0] for value in (100.0, 1000.0))
    assert torch.equal(a, b)


def test_equal_pairs_rank_first() -> None:
    rows = Noise([1, 2, 3]).normal((8,))
    assert contrast(rows, rows.clone(), torch.tensor(3.0))[1].item() == 1.0


def test_pairs_are_learnt(tmp_path: Path) -> None:
    run = Run(recipe(steps=60), tmp_path)
    logs = [run.take_step(run.moment) for _ in range(60)]
    assert logs[0]["towers/loss"] > 1.5
    assert logs[-1]["towers/loss"] < 0.3
    assert logs[-1]["towers/right"] == 1.0
    assert TINY.text.projection == 0, "TINY has no projection; alignment needs one and says so"


def test_a_temperature_beyond_its_end_comes_back(tmp_path: Path) -> None:
    run = Run(recipe(), tmp_path)
    temperature = run.players["towers"].temperature
    assert isinstance(temperature, torch.Tensor)
    with torch.no_grad():
        temperature.fill_(9.0)
    run.take_step(run.moment)
    assert temperature.item() < math.log(100.0) < 9.0, "rows at random are no reason to be so sure"


def test_the_loss_of_a_part_is_that_of_its_rows() -> None:
    """The mean over parts is the whole's, and so are the gradients."""
    texts, images = (F.normalize(Noise(range(first, first + 6)).normal((8,)), dim=1) for first in (0, 6))
    whole, parts = ([rows.clone().requires_grad_() for rows in (texts, images)] for _ in range(2))
    temperature = torch.tensor(2.0)
    contrast(*whole, temperature)[0].backward()
    torch.stack([contrast(*parts, temperature, slice(i, i + 2))[0] for i in (0, 2, 4)]).mean().backward()
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
