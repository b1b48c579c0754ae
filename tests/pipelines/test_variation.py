"""Variations: A1111's noise to the number, the picture's own bits at strength 0, and what is refused."""

import numpy as np
import pytest
import torch
from tests.fixtures import tiny_bundle

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.base.noise import PRIOR, Noise
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.generate import generate
from aquatint.pipelines.infotext import infotext, parse_infotext, request_from
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.request import Request
from aquatint.pipelines.variation import Variation, first_noise, slerp

SHAPE = (4, 24, 16)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def painted(bundle: Bundle, **wishes: object) -> Picture:
    *_, last = generate(bundle, Request("a cat", **({"seeds": (7,), "steps": 3} | wishes)))  # type: ignore[arg-type]
    assert last.picture is not None
    return last.picture


def drawn(seed: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    """What torch's own CPU generator gives first."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def turned(share: float, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The web UI's arithmetic on one picture [c, h, w], written out column by column in float64."""
    low, high = low.double().numpy(), high.double().numpy()
    made = np.empty_like(low)
    for c in range(low.shape[0]):
        for w in range(low.shape[2]):
            a, b = low[c, :, w], high[c, :, w]
            angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            made[c, :, w] = (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)
    return torch.from_numpy(made)


class TestNoise:
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.93, 1.0])
    def test_it_is_that_of_the_web_ui(self, share: float) -> None:
        ours = first_noise("cpu", 11, SHAPE, Variation(12, share))[0]
        torch.testing.assert_close(ours.double(), turned(share, drawn(11), drawn(12)), rtol=0, atol=5e-6)

    @pytest.mark.parametrize("source", ["aquatint", "cpu", "nv"])
    def test_the_ends_are_the_two_seeds_own(self, source: str) -> None:
        own, other = (first_noise(source, seed, SHAPE) for seed in (1, 2))
        assert torch.equal(first_noise(source, 1, SHAPE, Variation(2, 0.0)), own)
        torch.testing.assert_close(first_noise(source, 1, SHAPE, Variation(2, 1.0)), other, rtol=0, atol=2e-6)
        middle = first_noise(source, 1, SHAPE, Variation(2, 0.5))
        assert 0.9 < middle.std() < 1.1  # a straight line would lead through 0.7
        assert ((middle - own).norm() / (middle - other).norm() - 1).abs() < 0.05

    @pytest.mark.parametrize(("width", "height"), [(64, 64), (256, 96), (96, 256), (256, 256), (72, 200)])
    def test_resized_seeds_lie_in_the_middle(self, width: int, height: int) -> None:
        """The web UI's placing, rounding included, on torch's own numbers."""
        ours = first_noise("cpu", 5, SHAPE, Variation(width=width, height=height))[0]
        small, theirs = drawn(5, (4, height // 8, width // 8)), drawn(5)
        down, across = (SHAPE[1] - height // 8) // 2, (SHAPE[2] - width // 8) // 2
        for y in range(SHAPE[1]):
            for x in range(SHAPE[2]):
                ty, tx = y - down, x - across
                high = height // 8 if down >= 0 else height // 8 + 2 * down
                wide = width // 8 if across >= 0 else width // 8 + 2 * across
                if 0 <= y - max(down, 0) < high and 0 <= x - max(across, 0) < wide:
                    theirs[:, y, x] = small[:, ty, tx]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)

    def test_alike_and_opposite_columns_have_no_angle(self) -> None:
        x = Noise([3]).normal((4, 1, 8), draw=PRIOR)  # one row: every column is a single number
        y = Noise([4]).normal((4, 1, 8), draw=PRIOR)
        assert torch.isfinite(slerp(0.3, x, y)).all()
        torch.testing.assert_close(slerp(0.3, x, x), x)


class TestPictures:
    def test_no_strength_is_no_variation(self, bundle: Bundle) -> None:
        assert painted(bundle, variation=Variation(99)).image.tobytes() == painted(bundle).image.tobytes()

    def test_it_leads_to_the_other_seed(self, bundle: Bundle) -> None:
        own, other = painted(bundle), painted(bundle, seeds=(99,))
        far = [
            np.abs(np.asarray(painted(bundle, variation=Variation(99, s)).image).astype(int) - np.asarray(own.image))
            for s in (0.2, 0.6, 1.0)
        ]
        assert far[0].mean() < far[1].mean() < far[2].mean()
        end = np.asarray(painted(bundle, variation=Variation(99, 1.0)).image).astype(int)
        assert np.abs(end - np.asarray(other.image)).max() <= 1

    def test_a_picture_does_not_depend_on_its_company(self, bundle: Bundle) -> None:
        request = Request("a cat", seeds=(5, 7, 9), steps=3, variation=Variation(99, 0.4))
        together = [step.picture for step in generate(bundle, request) if step.picture]
        alone = painted(bundle, variation=Variation(99, 0.4))
        assert together[1].image.tobytes() == alone.image.tobytes()

    def test_the_record_and_the_infotext_keep_it(self, bundle: Bundle) -> None:
        variation = Variation(2**64 - 1, 0.25, 64, 32)
        picture = painted(bundle, variation=variation, noise="cpu")
        assert config.from_json(Request, config.to_json(picture.request)) == picture.request
        text = infotext(picture.record)
        keys = list(parse_infotext(text).settings)
        order = ["Model", "Variation seed", "Variation seed strength", "Seed resize from", "RNG"]
        assert [key for key in keys if key in order] == order
        assert request_from(parse_infotext(text)).variation == variation
        plain = infotext(painted(bundle).record)
        assert "ariation" not in plain
        assert request_from(parse_infotext(plain)).variation is None


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"seed": -1}, "variation seed"),
        ({"seed": 2**64}, "variation seed"),
        ({"strength": 1.5}, "variation strength"),
        ({"strength": float("nan")}, "variation strength"),
        ({"width": 64}, "width and height"),
        ({"width": 60, "height": 64}, "multiple of 8"),
        ({"width": 64, "height": 1 << 20}, "variation height"),
    ],
)
def test_what_is_out_of_range_is_refused(wishes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Variation(**wishes)  # type: ignore[arg-type]
