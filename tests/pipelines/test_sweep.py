"""Sweeps: what an axis is, that every combination is made and checked, and how the sheet is laid out."""

import pytest
from PIL import Image

from aquatint.base.errors import UserError
from aquatint.pipelines.request import Request
from aquatint.pipelines.sweep import Axis, axis, cells, labelled, matrix


def test_an_axis_is_a_field_and_its_values() -> None:
    assert axis("steps=10, 20,30") == Axis("steps", ("10", "20", "30"))
    assert axis('prompt=cat,"a cat, asleep"') == Axis("prompt", ("cat", "a cat, asleep"))
    assert axis("guidance=1..9:2").values == ("1", "3", "5", "7", "9")
    assert axis("rescale=0..0.3:0.1").values == ("0", "0.1", "0.2", "0.3")
    assert axis("seed=3..5,9").values == ("3", "4", "5", "9")


@pytest.mark.parametrize(
    "text", ["", "steps", "=1,2", "steps=", "steps=1,,2", "steps=1,1", "steps=5..1", "steps=1..9:0"]
)
def test_what_is_no_axis(text: str) -> None:
    with pytest.raises(UserError):
        axis(text)


def test_every_combination_is_there_and_the_first_axis_changes_fastest() -> None:
    made = cells(Request("a cat", seeds=(7,)), [axis("steps=1,2,3"), axis("guidance=1,4")])
    assert [(cell.steps, cell.guidance) for cell in made] == [(1, 1), (2, 1), (3, 1), (1, 4), (2, 4), (3, 4)]
    assert {cell.seeds for cell in made} == {(7,)}


def test_seed_size_and_prompt_are_axes_too() -> None:
    request = Request("a cat on a mat")
    assert [cell.seeds for cell in cells(request, [axis("seed=1,2")])] == [(1,), (2,)]
    assert [(cell.width, cell.height) for cell in cells(request, [axis("size=64x128,8x8")])] == [(64, 128), (8, 8)]
    prompts = [cell.prompt for cell in cells(request, [axis("prompt=cat,dog")])]
    assert prompts == ["a cat on a mat", "a dog on a mat"]


@pytest.mark.parametrize(
    "axes",
    [
        ["stepz=1,2"],
        ["steps=1,x"],
        ["steps=0,1"],
        ["steps=1,2", "steps=3,4"],
        ["prompt=dog,cat"],
        ["size=64,128"],
        ["seed=1..100", "steps=1..100"],
    ],
)
def test_what_cannot_be_painted_is_refused_before_anything_is(axes: list[str]) -> None:
    with pytest.raises(UserError):
        cells(Request("a cat"), [axis(text) for text in axes])


def test_a_matrix_has_every_choice_once() -> None:
    prompts, across, down = matrix("a | b|c |d")
    assert prompts == ["a", "a, b", "a, c", "a, b, c", "a, d", "a, b, d", "a, c, d", "a, b, c, d"]
    assert across == ["-", "b", "c", "b + c"]
    assert down == ["-", "d"]
    assert matrix("a|b") == (["a", "a, b"], ["-", "b"], [""])
    for bad in ("a", "|b", "a||b", "|".join("abcdefghijklm")):
        with pytest.raises(UserError):
            matrix(bad)


def test_a_sheet_holds_every_picture_where_its_labels_say() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200), (200, 0, 200)]
    pictures = [Image.new("RGB", (40, 30), colour) for colour in colours]
    sheet = labelled(pictures, ["one", "two", "a label far too long for its column"], ["up", "down"], "title")
    left, top = sheet.width - 120, sheet.height - 60
    assert left > 0 < top
    for index, colour in enumerate(colours):
        row, column = divmod(index, 3)
        assert sheet.getpixel((left + column * 40 + 20, top + row * 30 + 15)) == colour
    bare = labelled(pictures, [""] * 3, [""] * 2)
    assert bare.size == (120, 60)
