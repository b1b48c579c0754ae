"""Names of pictures: readable, never above their folder, never taken."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquatint.apps.cli.output import Output, slug


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Three red apples, on a BLUE background!", "three-red-apples-on-a-blue-background"),
        ("../../etc/passwd", "etc-passwd"),
        ("日本の城", "日本の城"),
        ("🏰", "picture"),
        ("con", "con"),
        ("a" * 500, "a" * 48),
    ],
)
def test_slug(prompt: str, name: str) -> None:
    assert slug(prompt) == name


@given(st.text(max_size=200))
def test_any_prompt_makes_a_plain_name(prompt: str) -> None:
    name = slug(prompt)
    assert name
    assert len(name.encode()) <= 96
    assert not set(name) & set('/\\:*?"<>|. \n\t\0')
    assert not name.startswith("-")


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").mkdir()  # a folder with the name of a file is a folder
    for out, count, expected in (
        ("new", 1, "new/a-cat-7.png"),
        ("new/deep/", 2, "new/deep/a-cat-7.png"),
        ("v1.5", 1, "v1.5/a-cat-7.png"),
        ("there.png", 1, "there.png/a-cat-7.png"),
        ("x.JPG", 1, "x.JPG"),
        ("x.webp", 2, "x-7.webp"),
        (".", 1, "a-cat-7.png"),
    ):
        assert str(next(Output(out, None, count).paths("a cat", 7))) == expected


def test_a_folder_that_came_to_nothing_is_taken_away(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "new"), None, 1)
    assert (tmp_path / "new").is_dir()
    output.abandon()
    assert not (tmp_path / "new").exists()
    Output(str(tmp_path), None, 1).abandon()
    assert tmp_path.is_dir()
