"""Windows: one window is no window, every latent is covered, and a denoiser that works point by point sees none."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.diffusion.denoisers import alike, first
from aquatint.diffusion.schedule import Latents, Level
from aquatint.diffusion.windows import WEIGHTS, windowed, windows

LEVEL = Level(0.6, 0.8, 500.0)
X = Noise([1]).normal((4, 40, 56))


def pointwise(x: Latents, level: Level) -> Latents:
    return torch.tanh(1.5 * x) * level.sigma


@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40), st.integers(0, 39), st.booleans()
)
def test_they_cover_everything(height: int, width: int, tall: int, wide: int, overlap: int, flat: bool) -> None:
    overlap = min(overlap, tall - 1, wide - 1) if not flat else 0
    found = windows(height, width, tall, wide, overlap)
    seen = torch.zeros(height, width)
    for rows, columns in found:
        assert rows.stop - rows.start == min(tall, height)
        assert columns.stop - columns.start == min(wide, width)
        seen[rows, columns] += 1
    assert seen.min() >= 1
    rows = sorted({(rows.start, rows.stop) for rows, _ in found})
    assert all(above[1] - below[0] >= overlap for above, below in pairwise(rows))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_one_window_is_the_denoiser_itself(weights: str) -> None:
    whole = windowed(alike(pointwise), windows(40, 56, 64, 56, 8), weights)
    assert torch.equal(first(whole)(X, LEVEL), pointwise(X, LEVEL))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("overlap", [0, 4, 15])
def test_a_pointwise_denoiser_does_not_notice(weights: str, overlap: int) -> None:
    joined = windowed(alike(pointwise), windows(40, 56, 16, 24, overlap), weights)
    torch.testing.assert_close(first(joined)(X, LEVEL), pointwise(X, LEVEL), rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_answers_are_joined_by_their_weights(weights: str) -> None:
    """Two windows of one row each say 0 and 1: what stands between them is the share of their weights."""
    asked: list[int] = []

    def denoise(x: Latents, level: Level) -> Latents:
        asked.append(len(asked))
        return torch.full_like(x, float(len(asked) - 1))

    joined = first(windowed(alike(denoise), windows(8, 12, 8, 8, 4), weights))(X[:, :, :8, :12], LEVEL)
    share = WEIGHTS[weights](8, 8)
    expected = share[:, :4] / (share[:, 4:] + share[:, :4])
    assert (joined[..., :4] == 0).all()
    assert (joined[..., 8:] == 1).all()
    torch.testing.assert_close(joined[0, 0, :, 4:8], expected)
    assert asked == [0, 1]


def test_the_negatives_own_answer_is_joined_too() -> None:
    def pair(x: Latents, level: Level) -> tuple[Latents, Latents]:
        return pointwise(x, level), -x

    toward, away = windowed(pair, windows(40, 56, 16, 16, 8))(X, LEVEL)
    torch.testing.assert_close(toward, pointwise(X, LEVEL), rtol=0, atol=1e-6)
    torch.testing.assert_close(away, -X, rtol=0, atol=1e-6)


def test_gaussian_weights_fall_off_and_never_vanish() -> None:
    share = WEIGHTS["gaussian"](16, 32)
    assert share.argmax() in (7 * 32 + 15, 7 * 32 + 16, 8 * 32 + 15, 8 * 32 + 16)
    assert share.min() >= 1e-3
    assert torch.equal(share, share.flip(0).flip(1))


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(UserError, match="evn"):
        windowed(alike(pointwise), windows(8, 8, 4, 4, 0), "evn")
