"""Dataclass <-> JSON: a round trip is the identity, and what does not fit is refused with its place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquatint.base import config
from aquatint.base.errors import UserError


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    kind: Literal["adamw", "sgd"] = "adamw"
    clip: float | None = None


@dataclass(frozen=True)
class Run:
    name: str
    steps: int = 100
    fast: bool = False
    sizes: tuple[int, ...] = (1, 2)
    optim: Optim = field(default_factory=Optim)
    stages: tuple[Optim, ...] = ()
    other: int | str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)


finite = st.floats(allow_nan=False, allow_infinity=False)
optims = st.builds(Optim, lr=finite, betas=st.tuples(finite, finite), clip=st.none() | finite)
runs = st.builds(
    Run,
    name=st.text(),
    steps=st.integers(),
    fast=st.booleans(),
    sizes=st.lists(st.integers()).map(tuple),
    optim=optims,
    stages=st.lists(optims, max_size=3).map(tuple),
    other=st.none() | st.integers() | st.text(),
    weights=st.dictionaries(st.text(), finite, max_size=3),
)


@given(runs)
def test_round_trip(run: Run) -> None:
    assert config.from_data(Run, config.to_data(run)) == run


@given(runs)
def test_round_trip_through_text(run: Run) -> None:
    assert config.from_json(Run, config.to_json(run, indent=1)) == run


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"name": "a", "step": 3}', 'Did you mean "steps"'),
        ('{"name": "a", "optim": {"ltr": 1}}', "optim.ltr"),
        ('{"steps": 3}', "lacks name"),
        ('{"name": "a", "steps": 3.0}', "steps: 3.0 does not fit"),
        ('{"name": "a", "steps": true}', "a whole number"),
        ('{"name": 3}', "text"),
        ('{"name": "a", "fast": 1}', "true or false"),
        ('{"name": "a", "optim": {"lr": NaN}}', "NaN"),
        ('{"name": "a", "optim": {"lr": 1e999}}', "inf"),
        ('{"name": "a", "optim": {"kind": "adam"}}', "one of: adamw, sgd"),
        ('{"name": "a", "optim": {"betas": [1]}}', "a list of 2"),
        ('{"name": "a", "sizes": [1, "2"]}', "sizes[1]"),
        ('{"name": "a", "name": "b"}', "stands twice"),
        ('{"name": "a", "other": [1]}', "a whole number or text or none"),
        ("[" * 100_000, "JSON"),
        ("{", "not JSON"),
        ("[]", "an object with the fields"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        config.from_json(Run, text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("optim.lr", "1e-4", 1e-4),
        ("optim.lr", "1", 1.0),
        ("optim.clip", "none", None),
        ("optim.clip", "2.5", 2.5),
        ("optim.betas", "0.5,0.9", (0.5, 0.9)),
        ("optim.kind", "sgd", "sgd"),
        ("sizes", "[1, 2, 3]", (1, 2, 3)),
        ("sizes", "", ()),
        ("fast", "yes", True),
        ("name", "none", "none"),
        ("other", "7", 7),
        ("other", "seven", "seven"),
        ("other", "none", None),
        ("optim", '{"lr": 0.5}', Optim(lr=0.5)),
        ("weights", '{"a": 1}', {"a": 1.0}),
    ],
)
def test_override_reads_a_word_as_the_fields_type(path: str, text: str, value: object) -> None:
    found = config.override(Run("r"), {path: text})
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("optim.lrr", "1", 'Did you mean "lr"'),
        ("optim.lr", "fast", "a finite number"),
        ("optim.lr", "nan", "a finite number"),
        ("steps", "1.5", "a whole number"),
        ("steps", 1.5, "a whole number"),
        ("name.length", "1", "leads nowhere"),
        ("", "1", "no field"),
    ],
)
def test_override_refuses(path: str, value: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        config.override(Run("r"), {path: value})


def test_override_leaves_the_original_alone() -> None:
    run = Run("r")
    assert config.override(run, {"steps": 5, "optim.lr": 0.5}) == Run("r", steps=5, optim=Optim(lr=0.5))
    assert run == Run("r")


@dataclass(frozen=True)
class Named:
    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Shelf:
    items: tuple[Named, ...] = (Named("ink"), Named("oil.v2"))


def test_override_finds_an_item_by_its_name_or_number() -> None:
    changed = config.override(Shelf(), {"items.ink.weight": "0.5", "items.1.weight": 2.0})
    assert changed == Shelf((Named("ink", 0.5), Named("oil.v2", 2.0)))
    for path in ("items.2.weight", "items.oil.weight"):
        with pytest.raises(UserError, match=r"ink, oil\.v2; or a number"):
            config.override(Shelf(), {path: "1"})
    with pytest.raises(UserError, match="leads nowhere"):
        config.override(Shelf(()), {"items.0.weight": "1"})


def test_not_finite_is_never_written() -> None:
    with pytest.raises(UserError, match="finite"):
        config.to_json(Optim(lr=float("nan")))
