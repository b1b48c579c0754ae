"""A Request is checked when it is made, survives JSON, and leaves to the family what it does not say."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from tests.pipelines.wishes import requests

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.families import FAMILIES, POCKET, SD15, TINY
from aquatint.pipelines.request import Request, Resolved, from_words

# beartype picks at random which item of a container it looks at, also while hypothesis builds a value


@given(requests)
def test_json_round_trip(request: Request) -> None:
    assert config.from_json(Request, config.to_json(request)) == request


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt is empty"),
    ({"prompt": " \n"}, "prompt is empty"),
    ({"prompt": "x" * 1_000_000}, "1,000,000 characters"),
    ({"prompt": 3}, "Text"),
    ({"prompt": "a\0b"}, "U\\+0000 at place 2"),
    ({"prompt": "a\ud800"}, "U\\+D800"),
    ({"negative": "x" * 7000}, "negative prompt has 7,000"),
    ({"width": 0}, "width = 0"),
    ({"width": 7}, "from 8 to"),
    ({"height": 10**9}, "height = 1000000000"),
    ({"width": -64}, "width = -64"),
    ({"width": 100}, "multiple of 8. The nearest is 104"),
    ({"height": 99}, "The nearest is 96"),
    ({"width": 64.0}, "A whole number"),
    ({"width": "64"}, "A whole number"),
    ({"steps": 0}, "steps = 0"),
    ({"steps": 1001}, "from 1 to 1000"),
    ({"steps": True}, "steps = True"),
    ({"seeds": ()}, "no seed"),
    ({"seeds": (-1,)}, "seed = -1"),
    ({"seeds": (2**64,)}, "18446744073709551615"),
    ({"seeds": ("7",)}, "seed = '7'"),
    ({"seeds": 7}, "A list"),
    ({"seeds": "7"}, "A list"),
    ({"seeds": range(10**12)}, "At most 10,000"),
    ({"sampler": "dpmpp2m"}, 'Did you mean "dpmpp_2m"'),
    ({"sampler": ""}, "is not known"),
    ({"sampler": ["ddim"]}, "is not known"),
    ({"grid": "karas"}, 'Did you mean "karras"'),
    ({"guidance": float("nan")}, "guidance = nan"),
    ({"guidance": float("inf")}, "guidance = inf"),
    ({"guidance": -1}, "from 0 to 100"),
    ({"guidance": "7.5"}, "guidance = '7.5'"),
    ({"guidance": True}, "guidance = True"),
    ({"guidance": 10**400}, "from 0 to 100"),
    ({"rescale": 1.5}, "rescale = 1.5"),
    ({"eta": 2}, "eta = 2"),
]


def make(**wishes: Any) -> Request:
    """Request(**wishes) as in production, where no type checker stands before it."""
    request = object.__new__(Request)
    for field in dataclasses.fields(Request):
        object.__setattr__(request, field.name, wishes.get(field.name, field.default))
    request.__post_init__()
    return request


@pytest.mark.parametrize(("wishes", "says"), BAD)
def test_out_of_range(wishes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make(**({"prompt": "a cat"} | wishes))


def test_values_are_made_plain() -> None:
    request = make(prompt="a cat", seeds=range(3), width=np.int64(64), guidance=7, rescale=-0.0)
    assert request.seeds == (0, 1, 2)
    assert type(request.width) is int
    assert type(request.guidance) is float
    assert str(request.rescale) == "0.0"
    assert request == Request("a cat", seeds=(0, 1, 2), width=64, guidance=7.0, rescale=0.0)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_family_fills_what_is_open(family: Any) -> None:
    resolved = Request("a cat").resolved(family)
    for field in dataclasses.fields(family.defaults):
        assert getattr(resolved, field.name) == getattr(family.defaults, field.name), field.name
    assert resolved.resolved(family) == resolved
    assert resolved.prompt == "a cat"


@given(requests)
def test_what_was_said_stays(request: Request) -> None:
    try:
        resolved = request.resolved(TINY)
    except UserError as error:
        assert any(word in str(error) for word in ("eta", "option", "micro"))  # noqa: PT017
        return
    assert isinstance(resolved, Resolved)
    for field in dataclasses.fields(Request):
        said = getattr(request, field.name)
        assert said is None or getattr(resolved, field.name) == said


def test_a_sampler_brings_its_own_grid() -> None:
    assert Request("a cat", sampler="dpmpp_2m").resolved(SD15).grid == "karras"
    assert Request("a cat", sampler="plms").resolved(SD15).grid == "leading"
    assert Request("a cat", sampler="euler").resolved(POCKET).grid == "trailing"  # it must start in pure noise
    assert Request("a cat", sampler="euler", grid="linspace").resolved(POCKET).grid == "linspace"


def test_others_names_become_ours() -> None:
    request = Request("a cat", sampler="DPM++ 2M SDE Karras", grid=None)
    assert (request.sampler, request.grid) == ("dpmpp_2m_sde", "karras")
    assert Request("a cat", sampler="LMS Karras", grid="SGM Uniform").grid == "sgm_uniform"
    assert Request("a cat", sampler="DDIMScheduler").sampler == "ddim"


def test_options_of_samplers() -> None:
    request = Request("a cat", sampler="unipc", options=(("order", 2.0), ("bh", 1.0)))
    assert request.options == (("bh", 1.0), ("order", 2.0))
    assert request.resolved(TINY).options == request.options
    for options in ("order", [["order"]], [["order", "2"]], [["order", True]], [[1, 2.0]], 5, [["a", 1], ["a", 2]]):
        with pytest.raises(UserError, match="option"):
            from_words({"prompt": "a cat", "options": options})
    with pytest.raises(UserError, match="finite"):
        Request("a cat", options=(("order", math.nan),))
    for sampler, name in (("unipc", "orde"), ("heun", "order"), ("ddim", "eta"), (None, "order")):
        with pytest.raises(UserError, match="no option"):
            Request("a cat", sampler=sampler, options=((name, 1.0),)).resolved(TINY)


def test_eta_is_for_those_who_take_it() -> None:
    assert Request("a cat", sampler="ddim").resolved(TINY).eta == 0.0
    assert Request("a cat", sampler="euler_a").resolved(TINY).eta == 1.0
    assert Request("a cat", sampler="heun").resolved(TINY).eta is None
    with pytest.raises(UserError, match="ddim"):
        Request("a cat", sampler="heun", eta=0.5).resolved(TINY)


def test_words() -> None:
    assert from_words({"prompt": "a cat", "steps": 3, "seeds": [1]}) == Request("a cat", steps=3, seeds=(1,))
    for words, says in (({"prompt": "a", "step": 3}, "steps"), ({"steps": 3}, "prompt"), ({"prompt": None}, "text")):
        with pytest.raises(UserError, match=says):
            from_words(words)  # type: ignore[arg-type]
