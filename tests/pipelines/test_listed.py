"""Lists of prompts: plain lines, kohya's options, JSON; each checked, and named by its number where it is wrong."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquatint.base.errors import UserError
from aquatint.pipelines.listed import read_list
from aquatint.pipelines.request import Request

USUAL = Request("any", "blurry", seeds=(1, 2), steps=9)


def test_every_kind_of_line() -> None:
    text = """# a comment

a red apple
a cat, asleep --n ugly, dim --w 512 --h 768 --d 7 --l 6.5 --s 30 --ss euler_a
{"prompt": "two cats -- one asleep", "seed": 5, "size": "64x72", "sampler": "heun", "loras": [{"name": "ink"}]}
snow -- and ice
"""
    plain, kohya, fields, dashes = read_list(text, USUAL)
    assert plain == Request("a red apple", "blurry", seeds=(1, 2), steps=9)
    assert kohya == Request(
        "a cat, asleep", "ugly, dim", width=512, height=768, seeds=(7,), steps=30, guidance=6.5, sampler="euler_a"
    )
    assert (fields.prompt, fields.negative, fields.seeds, fields.steps) == ("two cats -- one asleep", "blurry", (5,), 9)
    assert (fields.width, fields.height, fields.sampler, fields.loras[0].name) == (64, 72, "heun", "ink")
    assert dashes.prompt == "snow -- and ice"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a --w 7", "width = 7|The width is 7"),
        ("a --w x", '--w "x"'),
        ("a --q 1", '"--q" is no option'),
        ("a --s 3 --s 4", "twice"),
        ("--s 3", "prompt is empty"),
        ('{"prompt": "a", "lights": 1}', "lights"),
        ('{"steps": 3}', "without a prompt"),
        ("{", "not JSON"),
        ('{"prompt": "a", "size": "64"}', "size"),
        ('{"prompt": "a", "size": 64}', "size"),
        ('{"prompt": "a", "seed": -1}', "seed"),
    ],
)
def test_a_line_that_is_wrong_is_named(line: str, says: str) -> None:
    with pytest.raises(UserError, match=f"Line 2: .*({says})"):
        read_list(f"fine\n{line}", USUAL)


def test_lists_without_an_end() -> None:
    with pytest.raises(UserError, match="no prompt"):
        read_list("# nothing\n\n", USUAL)
    with pytest.raises(UserError, match="More than 10,000"):
        read_list("a\n" * 10_001, USUAL)


@given(st.text(st.sampled_from('a -nwhdls01{}":,\n'), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(UserError):
        assert all(isinstance(one, Request) for one in read_list(text, USUAL))
