"""CLIP alignment: the symmetric contrastive loss."""

import math

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


def test_pairs_are_learnt(tmp_path) -> None:  # type: ignore[no-untyped-def]
    run = Run(recipe(steps=60), tmp_path)
    logs = [run.take_step(run.moment) for _ in range(60)]
    assert logs[0]["towers/loss"] > 1.5
    assert logs[-1]["towers/loss"] < 0.3
    assert logs[-1]["towers/right"] == 1.0
    assert TINY.text.projection == 0, "TINY has no projection; alignment needs one and says so"
