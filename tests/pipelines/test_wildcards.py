"""Chance in prompts: keyed by the seed, inside its folder, total over texts."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquatint.base.errors import UserError
from aquatint.pipelines.request import Request
from aquatint.pipelines.wildcards import spread


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "words"
    (folder / "deep").mkdir(parents=True)
    (folder / "colour.txt").write_text("# colours\nred\n\n green \nblue\n")
    (folder / "deep" / "thing.txt").write_text("a __colour__ {cat|dog}\n")
    (folder / "loop.txt").write_text("x __loop__\n")
    (folder / "twice.txt").write_text("__twice__ __twice__\n")
    (folder / "empty.txt").write_text("# nothing\n")
    (folder / "heavy.txt").write_text("9::often\n1::seldom\n0::never\n")
    (tmp_path / "secret.txt").write_text("secret\n")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


def prompts(text: str, folder: Path | None = None, *, count: int = 200) -> list[str]:
    requests, _ = spread(Request(text, seeds=tuple(range(count))), folder)
    assert [request.seeds for request in requests] == [(seed,) for seed in range(count)]
    return [request.prompt for request in requests]


def test_the_seed_chooses(folder: Path) -> None:
    text = "a {red|blue} __deep/thing__"
    assert prompts(text, folder) == prompts(text, folder)
    counts = Counter(prompts(text, folder))
    assert set(counts) <= {
        f"a {first} a {second} {third}"
        for first in ("red", "blue")
        for second in ("red", "green", "blue")
        for third in ("cat", "dog")
    }
    assert len(counts) == 12
    one = spread(Request(text, seeds=(77,)), folder)[0][0].prompt
    assert one == prompts(text, folder)[77]  # alone or in company


def test_all_choices_are_alike_but_for_their_weights(folder: Path) -> None:
    counts = Counter(prompts("{a|b|c}", count=900))
    assert all(240 <= counts[letter] <= 360 for letter in "abc"), counts
    counts = Counter(prompts("__heavy__", folder, count=500))
    assert set(counts) == {"often", "seldom"}
    assert 420 <= counts["often"] <= 480
    assert set(prompts("{0::a|0::b}")) == {"a", "b"}
    assert set(prompts("{3::a|0::b}")) == {"a"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{2$$a|b}", {"a, b", "b, a"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{0-1$$a|b}!", {"!", "a!", "b!"}),
        ("{9$$a|b}", {"a, b", "b, a"}),
        ("{a}", {"a"}),
        ("{a|{b|c}}", {"a", "b", "c"}),
        ("{[a|b]|c}", {"[a|b]", "c"}),
        (r"\{a|b\}", {r"\{a|b\}"}),
        ("{a|b", {"{a|b"}),
        ("a|b}", {"a|b}"}),
        ("x{|a}", {"x", "xa"}),
        ("__colour__", {"__colour__"}),
    ],
)
def test_braces(text: str, expected: set[str]) -> None:
    assert set(prompts(text)) == expected


def test_negatives_have_chances_of_their_own() -> None:
    requests, _ = spread(Request("{a|b}", "{a|b}", seeds=tuple(range(40))), None)
    assert len({(request.prompt, request.negative) for request in requests}) == 4


def test_what_is_not_there_stays_and_is_told(folder: Path) -> None:
    for name in ("nothing", "../secret", "deep/../../secret", "link", "deep", "/etc/hostname", "colour.txt"):
        (request,), missing = spread(Request(f"a __{name}__ b"), folder)
        assert request.prompt == f"a __{name}__ b"
        assert "secret" not in request.prompt.replace(name, "")
        assert missing == ((f"__{name}__",) if not name.startswith((".", "/")) else ())


def test_files_that_cannot_be_used(folder: Path) -> None:
    for text, match in (("__loop__", "on and on"), ("__twice__", "on and on"), ("__empty__", "no line")):
        with pytest.raises(UserError, match=match):
            spread(Request(text), folder)
    with pytest.raises(UserError, match="no folder"):
        spread(Request("a"), folder / "colour.txt")
    (folder / "long.txt").write_text("x" * 7000)
    with pytest.raises(UserError, match="7,000"):
        spread(Request("__long__"), folder)


@given(
    st.lists(
        st.sampled_from(["{", "}", "|", "$$", "2$$", "1-3$$", "::", "1::", "__colour__", "__", "[", "]", "\\", "a"]),
        max_size=30,
    )
)
@settings(max_examples=200)
def test_any_text_comes_out(parts: list[str]) -> None:
    text = "x" + "".join(parts)
    ((request,), _) = spread(Request(text), None)
    assert request.prompt == spread(Request(text), None)[0][0].prompt


def test_braces_may_be_deep() -> None:
    assert prompts("{" * 2900 + "a" + "}" * 2900, count=1) == ["a"]
