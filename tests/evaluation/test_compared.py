"""Changes of figures: published examples, and what is not to be seen in them."""

import pytest

from aquatint.evaluation.compared import apart, of_share_change
from aquatint.evaluation.intervals import of_share
from aquatint.evaluation.metrics import wilson
from aquatint.evaluation.results import Figure, figure, meaning, number, said


def share(hits: int, n: int) -> Figure:
    return figure("right", of_share(wilson(hits, n)), n)


@pytest.mark.parametrize(
    ("after", "before", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 20), 0.6791, 1.0)],
)
def test_shares_apart_have_newcombes_intervals(after, before, low, high):
    """Newcombe 1998, table II, method 10: examples a, b and g."""
    found = apart(share(*before), share(*after))
    assert found.value == pytest.approx(after[0] / after[1] - before[0] / before[1])
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def pairs(both: int, first: int, second: int, neither: int):
    """(before, after): pictures that are right in both, only after, only before, in neither."""
    after = [1.0] * (both + first) + [0.0] * (second + neither)
    return [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * neither, after


def test_shares_in_pairs_have_newcombes_interval():
    """Newcombe 1998 (paired data), table II, method 10: 36, 12, 2, 0."""
    found = of_share_change(*pairs(36, 12, 2, 0))
    assert found[:3] == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)


def test_pairs_that_are_all_alike_are_not_certain():
    found = of_share_change(*pairs(12, 0, 0, 0))
    assert found.value == 0
    assert found.low < -0.2 < 0.2 < found.high
    often = of_share_change(*pairs(50, 0, 0, 50))  # most pairs agree: that tells more than shares apart
    assert often.high < 0.1 < apart(share(50, 100), share(50, 100)).high


def test_what_has_no_interval_has_no_change_to_be_sure_of():
    none = Figure("kd_clip", 0.3, None, None, 5, "none")
    assert str(apart(none, none).low) == "nan"
    assert str(apart(Figure("x", None, None, None, 0, "none"), none).value) == "nan"


@pytest.mark.parametrize(
    ("name", "words", "better"),
    [
        ("fd_clip", "Fréchet distance, clip", -1),
        ("fd_clip_floor", "Fréchet distance, clip, true renders", 0),
        ("rfd_pixels", "autoencoder: Fréchet distance, pixels", -1),
        ("rfid", "autoencoder: rFID", -1),
        ("kid", "KID", -1),
        ("right/a_b", "all is there: a_b", 1),
        ("something", "something", 0),
    ],
)
def test_every_figure_has_its_meaning(name, words, better):
    assert meaning(name)[:2] == (words, better)


def test_numbers_keep_what_counts():
    shown = [number(x) for x in (0.0, 0.01234, -1.2345, 12.345, 123.45, 12345.6, 1e-9, 2e7)]
    assert shown == ["0.0000", "0.0123", "-1.234", "12.35", "123.5", "12346", "1.00e-09", "2.00e+07"]
    assert said(share(1, 3)) == "33.3 % (6.1 to 79.2)"
    assert said(Figure("psnr", None, None, None, 0, "none")) == "none"
