"""The prompt language: published examples, any text whatever, time in proportion to length."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquatint.base.errors import UserError
from aquatint.pipelines.prompt import GRAMMARS, Prompt, Tag, parse, tags_of, written

# Signs are common, so that they meet; NUL, halves of surrogate pairs and the rest of Unicode may come, too.
PIECES = (
    "(",
    ")",
    "[",
    "]",
    ":",
    "|",
    "\\",
    "<",
    ">",
    " AND ",
    " BREAK ",
    ":1.3)",
    ":0.5]",
    "<lora:a:1>",
    "a",
    " ",
    "\n",
)
texts = st.lists(st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=()), max_size=4), max_size=40).map(
    "".join
)


def runs(text: str, grammar: str = "a1111") -> list[tuple[str, float]]:
    """The runs of a prompt that says one thing; ("BREAK", -1) between stretches, as A1111 writes it."""
    ((scene,),) = [part.scenes for part in parse(text, grammar).parts]
    told = []
    for number, stretch in enumerate(scene.stretches):
        told += [("BREAK", -1.0)] * (number > 0) + [(run.text, run.weight) for run in stretch]
    return told


def scenes(text: str, steps: int = 10) -> list[tuple[int, str]]:
    (part,) = parse(text, steps=steps).parts
    return [(scene.until, "".join(run.text for run in scene.stretches[0])) for scene in part.scenes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # the examples of A1111's own documentation, weights to the last bit
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.5730000000000004),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641000000000006),
                (".", 1.1),
            ],
        ),
        (  # and the rest by hand
            r"a (b) ((c)) [d] (e:1.5) \(f\)",
            [
                ("a ", 1.0),
                ("b", 1.1),
                (" ", 1.0),
                ("c", 1.1 * 1.1),
                (" ", 1.0),
                ("d", 1 / 1.1),
                (" ", 1.0),
                ("e", 1.5),
                (" (f)", 1.0),
            ],
        ),
        ("a BREAK b", [("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
        ("BREAKfast", [("BREAKfast", 1.0)]),
        ("(a BREAK b:1.2)", [("a", 1.2), ("BREAK", -1.0), ("b", 1.2)]),
        ("12:30", [("12:30", 1.0)]),
        ("(a: 1.2 )", [("a", 1.2)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:-.5)", [("a", -0.5)]),
        ("([a)]", [("a", 1.1 * (1 / 1.1))]),  # brackets of two kinds do not see each other
        ("a:1.3)", [("a:1.3)", 1.0)]),
        ("]a)", [("]a)", 1.0)]),
        (r"a\b\\c\:", [("ab\\c:", 1.0)]),
        ("a (b:0)", [("a ", 1.0), ("b", 0.0)]),
        ("", []),
    ],
)
def test_emphasis(text: str, expected: list[tuple[str, float]]) -> None:
    assert runs(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # A1111's own examples, for ten steps
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("[(a:2):3]", [(3, ""), (10, "a")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [b::.5] c", [(5, "a b c"), (10, "a  c")]),
        ("[fe|]male", [(step, "female" if step % 2 else "male") for step in range(1, 11)]),
        ("[fe|||]male", [(1, "female"), (4, "male"), (5, "female"), (8, "male"), (9, "female"), (10, "male")]),
        ("[a:b:0]", [(10, "b")]),  # and by hand
        ("[a:b:10]", [(10, "a")]),
        ("[a:b:1.5]", [(10, "a")]),
        ("[a:b:99999]", [(10, "a")]),
        ("[a:b]", [(10, "a:b")]),
        ("[a:b:c:0.5]", [(10, "a:b:c:0.5")]),
        ("[a|b:0.5]", [(10, "a|b:0.5")]),
        ("[a:a:5]", [(10, "a")]),
        (r"[a\:b:5]", [(5, ""), (10, "a:b")]),
        ("[[a|b]:c:2]", [(1, "a"), (2, "b"), (10, "c")]),
        ("([a:b:5]", [(5, "a"), (10, "b")]),
        ("[a (b:c:5]", [(10, "a (b:c:5")]),  # an odd bracket within: no turn, as in A1111, but emphasis
    ],
)
def test_what_changes_while_the_picture_grows(text: str, expected: list[tuple[int, str]]) -> None:
    found = scenes(text)
    assert [(until, said.replace("(", "")) for until, said in found] == [
        (u, said.replace("(", "")) for u, said in expected
    ]


def test_a_weight_may_change_too() -> None:
    first, second = parse("(a:[1.5:0.5:3])", steps=10).parts[0].scenes
    assert (first.until, first.stretches[0][0].weight, second.stretches[0][0].weight) == (3, 1.5, 0.5)


def test_parts_and_their_weights() -> None:
    prompt = parse("a cat :1.2 AND a dog:-.5<lora:x:1> AND the time 12:30h AND SAND")
    assert [(part.weight, part.scenes[0].stretches[0][0].text) for part in prompt.parts] == [
        (1.2, "a cat "),
        (-0.5, " a dog"),
        (1.0, " the time 12:30h "),
        (1.0, " SAND"),
    ]
    assert runs("a clock, 12:30") == [("a clock, 12:30", 1.0)]  # A1111 would read a weight of 30
    negative = parse("a AND b", negative=True)
    assert [note.start for note in negative.notes] == [2]
    assert negative.parts[0].scenes[0].stretches[0][0].text == "a AND b"


def test_tags() -> None:
    prompt = parse("a <lora:detail:0.8:0.5> cat <lyco:b> <hypernet:c:2> <lora:d:x> <what:1> <lora> a < b")
    assert prompt.tags == (
        Tag("lora", "detail", 0.8, 0.5, 2, 23),
        Tag("lyco", "b", 1.0, 1.0, 28, 36),
        Tag("hypernet", "c", 2.0, 2.0, 37, 51),
    )
    assert [tag.name for tag in prompt.loras] == ["detail", "b"]
    assert [prompt.text[note.start : note.end] for note in prompt.notes] == ["<lora:d:x>", "<what:1>"]
    assert " ".join(prompt.words().split()) == "a cat <lora> a < b"
    assert tags_of(prompt.text) == prompt.tags
    assert tags_of(prompt.text, "comfy") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a (b) c", [("a ", 1.0), ("b", 1.1), (" c", 1.0)]),
        ("((a))", [("a", 1.1 * 1.1)]),
        ("(a:1.2)", [("a", 1.2)]),
        ("(a (b:1.5) c:1.2)", [("a ", 1.2), ("b", 1.5), (" c", 1.2)]),  # the number replaces, it does not multiply
        ("(a (b) c:1.2)", [("a ", 1.2), ("b", 1.2 * 1.1), (" c", 1.2)]),
        (r"a \(b\) [c]", [("a (b) [c]", 1.0)]),
        ("(a", [("(a", 1.0)]),
        ("a) (b)", [("a) (b)", 1.0)]),
        ("a) ((b) c)", [("a) (", 1.0), ("b", 1.1), (" c)", 1.0)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(:1.2)", [(":1.2", 1.1)]),
        ("(a:1e-1)", [("a", 0.1)]),
        ("(a:nan)", [("a:nan", 1.1)]),
        ("(embedding:x:0.5)", [("embedding:x", 0.5)]),
        ("a\\b", [("a\\b", 1.0)]),
        ("()", []),
    ],
)
def test_comfy(text: str, expected: list[tuple[str, float]]) -> None:
    assert runs(text, "comfy") == expected


def test_plain() -> None:
    text = r"(a:1.2) [b|c] \( BREAK <lora:x:1> AND"
    assert runs(text, "plain") == [(text, 1.0)]


def test_an_unknown_grammar() -> None:
    with pytest.raises(UserError, match="a1111"):
        parse("a", "a111")


def checked(prompt: Prompt) -> None:
    """What must hold for any prompt: each run stands where it says, notes and tags lie in the text, scenes go on."""
    for part in prompt.parts:
        assert [scene.until for scene in part.scenes] == sorted({scene.until for scene in part.scenes})
        for scene in part.scenes:
            for run in (run for stretch in scene.stretches for run in stretch):
                ends = [offset for offset, _ in run.places[1:]] + [len(run.text)]
                for (offset, place), end in zip(run.places, ends, strict=True):
                    assert run.text[offset:end] == prompt.text[place : place + end - offset]
                assert abs(run.weight) <= 1000
    for start, end in [tag[4:] if isinstance(tag, tuple) else (tag.start, tag.end) for tag in prompt.tags]:
        assert 0 <= start < end <= len(prompt.text)
    for note in prompt.notes:
        assert 0 <= note.start <= note.end <= len(prompt.text)


@given(texts, st.sampled_from(sorted(GRAMMARS)), st.booleans())
@settings(max_examples=400)
def test_any_text_has_a_reading(text: str, grammar: str, negative: bool) -> None:
    prompt = parse(text, grammar, steps=7, negative=negative)
    assert all(part.scenes[-1].until == 7 for part in prompt.parts)
    checked(prompt)
    for part in prompt.parts:
        for scene in part.scenes:
            (again,) = parse(written(scene, grammar), grammar).parts
            found = [[run[:2] for run in stretch] for stretch in again.scenes[0].stretches]
            assert found == [[run[:2] for run in stretch] for stretch in scene.stretches]


# Texts of a given size that a careless reader takes forever for, or too deep a stack.
HARD = {
    "round": lambda n: "(" * n + "a" + ")" * n,
    "square": lambda n: "[" * n + "a" + "]" * n,
    "open": lambda n: "([" * n,
    "closed": lambda n: "])" * n,
    "turns": lambda n: "[a:" * n + "b" + ":0.5]" * n,
    "bars": lambda n: "[" + "|" * n + "]",
    "tags": lambda n: "<a:" * n,
    "digits": lambda n: "(a:" + "1" * n + "x)",
    "spaces": lambda n: " " * n + "BREAK" + " " * n,
    "points": lambda n: "(a:" + "." * n + ")",
    "backslashes": lambda n: "\\" * n,
    "names": lambda n: "AND " * n,
    "numbers": lambda n: ":1.1)" * n,
    "words": lambda n: "a cat, " * n,
}
CLOCK = """
import gc, json, sys, time
from aquatint.pipelines.prompt import parse
gc.disable()  # its passes cost what is alive, whoever made it
times = []
for text in json.load(sys.stdin):
    began = time.process_time()
    parse(text, sys.argv[1], steps=3)
    times.append(time.process_time() - began)
print(json.dumps(times))
"""


def seconds(made: list[str], grammar: str) -> list[float]:
    """What it takes to read each text, in a process of its own: without the tests' checks of every call."""
    command = [sys.executable, "-c", CLOCK, grammar]
    done = subprocess.run(command, input=json.dumps(made), capture_output=True, text=True, timeout=300, check=True)
    return list(json.loads(done.stdout))


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_depth_and_length_do_no_harm(grammar: str) -> None:
    deep = [HARD[kind](100_000) for kind in ("round", "square", "turns")]
    long = [make(10_000) for make in HARD.values()]
    assert sum(seconds(deep + long, grammar)) < 60  # 4 s; a quadratic reader takes hours


@pytest.mark.full
@pytest.mark.parametrize("kind", HARD)
def test_time_is_linear(kind: str) -> None:
    """The exponent of time in length, from 1 kB to 1 MB."""
    unit = len(HARD[kind](1000)) / 1000
    lengths = [1_000, 10_000, 100_000, 1_000_000]
    best = np.min([seconds([HARD[kind](int(n / unit)) for n in lengths], "a1111") for _ in range(3)], axis=0)
    assert np.polyfit(np.log(lengths), np.log(best), 1)[0] < 1.1


def test_the_heaviest_and_the_deepest_are_told() -> None:
    deep = parse("(" * 100 + "a" + ")" * 100)
    assert deep.parts[0].scenes[0].stretches[0][0].weight == pytest.approx(1.1**64)
    assert any("64 brackets" in note.why for note in deep.notes)
    heavy = parse("(a:9999)")
    assert heavy.parts[0].scenes[0].stretches[0][0].weight == 1000
    assert any("1000" in note.why for note in heavy.notes)
