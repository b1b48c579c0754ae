"""Edges against OpenCV's, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from aquatint.pipelines.preprocess import canny

cv2 = pytest.importorskip("cv2")


@pytest.mark.parametrize("thresholds", [(100, 200), (30, 60), (400, 700), (0, 0), (150, 100)])
@pytest.mark.parametrize("size", [(133, 97), (64, 64), (9, 200), (3, 3)])
def test_the_same_edges(size: tuple[int, int], thresholds: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    drawn = Image.new("RGB", size, (90, 130, 230))
    pen = ImageDraw.Draw(drawn)
    pen.ellipse((size[0] // 5, size[1] // 4, size[0] // 2, size[1] - 3), fill=(250, 220, 40))
    pen.line((0, 0, *size), fill="white", width=3)
    small = noise.resize((max(1, size[0] // 8), max(1, size[1] // 8))).resize(size, Image.Resampling.BICUBIC)
    low, high = sorted(thresholds)  # OpenCV takes them in either order
    for picture in (noise, drawn, small):
        assert np.array_equal(np.asarray(canny(picture, low, high)), cv2.Canny(np.asarray(picture), *thresholds))
