"""What is said of a picture: drawn by number, the same for everybody."""

import pytest

from aquatint.base.errors import UserError
from aquatint.training.data.wording import Wording

TAGS = "one, two, three,four , five"


def test_without_settings_nothing_changes() -> None:
    assert Wording().say(TAGS, 1, 2) == TAGS


def test_tags_are_shuffled_and_the_first_stay() -> None:
    said = [Wording(shuffle=True, keep=2).say(TAGS, 1, sample) for sample in range(60)]
    assert all(text.startswith("one, two, ") for text in said)
    assert len(set(said)) == 6
    assert {tuple(sorted(text.split(", "))) for text in said} == {("five", "four", "one", "three", "two")}
    assert said == [Wording(shuffle=True, keep=2).say(TAGS, 1, sample) for sample in range(60)]
    assert said != [Wording(shuffle=True, keep=2).say(TAGS, 2, sample) for sample in range(60)]


def test_shares_are_kept() -> None:
    said = [Wording(silent=0.25).say("x", 3, sample) for sample in range(300)]
    assert abs(said.count("") - 75) < 30
    left = [len(Wording(drop=0.5, keep=1).say(TAGS, 3, sample).split(", ")) for sample in range(100)]
    assert abs(sum(left) / 100 - 3) < 0.4
    assert min(left) == 1
    framed = {Wording(templates=("a {}", "the {}")).say("x", 3, sample) for sample in range(20)}
    assert framed == {"a x", "the x"}
    assert Wording(shuffle=True, keep=3).say("a", 0, 0) == "a"
    assert Wording(shuffle=True).say("", 0, 0) == ""


def test_what_is_impossible_is_said() -> None:
    for bad in ({"silent": 2}, {"drop": -1}, {"templates": ()}, {"templates": ("x",)}, {"separator": ""}, {"keep": -1}):
        with pytest.raises(UserError):
            Wording(**bad)  # type: ignore[arg-type]
