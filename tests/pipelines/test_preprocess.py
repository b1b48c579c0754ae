"""Preprocessors: hints of pictures whose edges are known."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from aquatint.base.errors import UserError
from aquatint.pipelines.preprocess import PREPROCESSORS, canny, clip_pixels, hint, scribble, tile


def square(side: int = 64, left: int = 20, right: int = 44, level: int = 255) -> Image.Image:
    made = Image.new("RGB", (side, side))
    made.paste((level,) * 3, (left, left, right, right))
    return made


def values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L")).astype(int)


class TestCanny:
    def test_the_edges_of_a_square(self) -> None:
        """One closed line, at most a pixel from the border, one pixel thick along the sides."""
        found = values(canny(square()))
        assert set(np.unique(found)) == {0, 255}
        rows, columns = np.nonzero(found)
        away = np.minimum.reduce([abs(rows - 19.5), abs(rows - 43.5), abs(columns - 19.5), abs(columns - 43.5)])
        assert away.max() <= 1.5
        for line in (*found[26:38], *found.T[26:38]):
            assert np.count_nonzero(line) == 2

    def test_a_circle_is_closed(self) -> None:
        """What is inside cannot be reached from outside."""
        made = Image.new("L", (96, 96))
        ImageDraw.Draw(made).ellipse((20, 24, 70, 74), fill=200)
        found = canny(made.convert("RGB")).convert("L")
        ImageDraw.floodfill(found, (0, 0), 100)
        assert values(found)[49, 45] == 0
        assert values(found)[2, 90] == 100

    def test_thresholds(self) -> None:
        """A weak edge shows where it hangs together with a strong one, or where it is over `high`."""
        made = Image.new("L", (64, 64))
        made.paste(40, (0, 32, 64, 64))
        weak = made.convert("RGB")
        assert not values(canny(weak, low=30, high=200)).any()
        assert values(canny(weak, low=30, high=60)).any()
        fading = np.zeros((64, 64), np.uint8)
        fading[32:] = np.linspace(255, 40, 64).astype(np.uint8)
        made = Image.fromarray(fading)
        assert values(canny(made.convert("RGB"), low=60, high=950))[:, 60:].any()
        assert not values(canny(made.convert("RGB"), low=900, high=950))[:, 40:].any()

    def test_flat_pictures_have_none(self) -> None:
        for level in (0, 77, 255):
            assert not values(canny(Image.new("RGB", (40, 30), (level,) * 3))).any()

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (64, 8)])
    def test_small_pictures(self, size: tuple[int, int]) -> None:
        for name, way in PREPROCESSORS.items():
            assert way(Image.new("RGB", size, "white")).size == size, name

    def test_turned_pictures_have_turned_edges(self) -> None:
        made = square(left=12, right=41)
        ImageDraw.Draw(made).line((3, 60, 60, 9), fill="white", width=5)
        turned = values(canny(made.transpose(Image.Transpose.TRANSPOSE))).T
        plain = values(canny(made))
        for one, other in ((plain, turned), (turned, plain)):  # a diagonal may be drawn on either of its sides
            near = values(Image.fromarray(other.astype(np.uint8)).filter(ImageFilter.MaxFilter(3)))
            assert near[one > 0].all()

    def test_noise_is_kept_by_sigma(self) -> None:
        pixels = np.random.default_rng(0).integers(110, 146, (64, 64, 3), dtype=np.uint8)
        noisy = Image.fromarray(pixels)
        counts = [np.count_nonzero(values(canny(noisy, 30, 60, sigma))) for sigma in (0, 1, 3)]
        assert counts[0] > counts[1] > counts[2] == 0


def test_scribbles_are_thick_edges() -> None:
    thin, thick = values(canny(square(), 60, 120, 3)), values(scribble(square()))
    assert thick[thin > 0].all()
    assert np.count_nonzero(thick) > 3 * np.count_nonzero(thin)


def test_tiles_keep_what_is_large() -> None:
    checks = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    assert np.abs(values(tile(checks)) - 127.5).max() <= 1
    assert values(tile(square()))[32, 32] == 255
    assert tile(square(), 1).tobytes() == square().tobytes()


def test_values() -> None:
    made = square(level=100)
    assert (values(PREPROCESSORS["invert"](made)) == 255 - values(made)).all()
    assert (values(PREPROCESSORS["threshold"](made, (("value", 100.0),))) == 255 * (values(made) >= 100)).all()
    assert PREPROCESSORS["none"](made).tobytes() == made.tobytes()


def test_hints() -> None:
    made, mask = square(level=51), Image.new("L", (64, 64))
    mask.paste(128, (0, 0, 8, 8))
    plain, masked = hint(made, "none"), hint(made, "inpaint", (), mask)
    assert plain.shape == (1, 3, 64, 64)
    assert float(plain[0, 0, 30, 30]) == pytest.approx(0.2)
    assert (masked[..., :8, :8] == -1).all()
    assert torch.equal(masked[..., 8:, :], plain[..., 8:, :])


def test_what_clip_sees_of_a_strip() -> None:
    """A strip far longer than wide does not become a picture of many gigabytes."""
    assert clip_pixels(Image.new("RGB", (8000, 2)), 224).shape == (1, 3, 224, 224)


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="no option"):
        PREPROCESSORS["tile"](square(), (("size", 3.0),))
    with pytest.raises(UserError, match="scale = 0"):
        PREPROCESSORS["tile"](square(), (("scale", 0.0),))
