"""Scores with a detector that cannot err: true pictures get everything, others what chance gives."""

import re

import numpy as np
import pytest
import torch

from aquatint.base.errors import UserError
from aquatint.evaluation.detector import Classes, Detector, Found, Sight
from aquatint.evaluation.prompts import CATEGORIES, SINGLE, judge, prompts
from aquatint.evaluation.runs import Row, Table, controls, crossed, evaluate, gather, truth
from aquatint.training.data.captions import vocabulary
from aquatint.training.data.render import has_font
from aquatint.training.data.scenes import held_out
from aquatint.training.data.world import SMALL

needs_font = pytest.mark.skipif(
    not has_font(), reason="Noto Color Emoji is not installed (Debian: fonts-noto-color-emoji)"
)
ASKED = prompts(SMALL, each=28)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small shapes: more threads only wait for each other
    yield
    torch.set_num_threads(before)


def seen(scene) -> Sight:
    """What a faultless eye sees in a scene."""
    things = tuple(Found(t.word, t.colour, t.x, t.y, t.side, 0.9) for t in scene.things)
    return Sight(things, scene.background.kind, scene.background.words)


class Oracle(Detector):
    """Knows every true picture by heart, and sees nothing in any other."""

    def __init__(self) -> None:
        super().__init__(Classes.of(SMALL))
        self.known = {picture.tobytes(): p.scene for picture, p in zip(truth(ASKED), ASKED, strict=True)}

    def look(self, pictures, batch=64):
        scenes = [self.known.get(picture.tobytes()) for picture in pictures]
        return [Sight((), "plain", ("nothing",)) if scene is None else seen(scene) for scene in scenes]


def test_prompts_are_fixed_told_once_and_in_known_words():
    assert prompts(SMALL, each=28) == ASKED
    assert [p.category for p in ASKED] == [category for category in CATEGORIES for _ in range(28)]
    known = set(" ".join(entry for entries in vocabulary(SMALL).values() for entry in entries).split())
    for prompt in ASKED:
        assert set(re.findall("[a-z]+", prompt.text)) <= known
        assert held_out(prompt.scene) == (prompt.category == "held-out")
    canonical = [p.text for p in ASKED if p.category in ("subject", "shape", "held-out")]
    assert len(set(canonical)) == len(canonical)
    subjects = [p.scene.things[0].word for p in ASKED if p.category == "subject"]
    assert {subjects.count(word) for word in SMALL.subjects} == {2}
    many = prompts(SMALL, ["held-out"], each=64)  # more than there are: they come again, and controls still differ
    assert len({p.text for p in many}) > 40
    assert all(a.text != b.text for a, b in zip(many, crossed(many), strict=True))
    with pytest.raises(UserError, match="say the same"):
        crossed(many[:1])
    with pytest.raises(UserError, match="category"):
        prompts(SMALL, ["singel"])


def test_the_judge_grants_what_is_there_and_nothing_else():
    for prompt, other in zip(ASKED, crossed(ASKED), strict=True):
        assert all(judge(seen(prompt.scene), prompt.scene).values())
        assert prompt.category == other.category
        assert prompt is not other
    prompt = next(p for p in ASKED if p.category == "shape")
    whole = seen(prompt.scene)
    thing = whole.things[0]
    red = Found(thing.word, "no colour", thing.x, thing.y, thing.side, 0.9)
    assert judge(Sight((red,), whole.background, whole.words), prompt.scene) == {
        "object": True, "colour": False, "background": True, "number": True,
    }  # fmt: skip
    assert judge(Sight((*whole.things, red), whole.background, whole.words), prompt.scene)["number"] is False
    assert judge(Sight((), whole.background, ("other",)), prompt.scene) == dict.fromkeys(
        ("object", "colour", "background", "number"), False
    )


def test_the_judge_binds_colours_to_their_things():
    prompt = next(p for p in ASKED if p.category == "pair" and all(t.colour for t in p.scene.things))
    a, b = prompt.scene.things
    swapped = (Found(a.word, b.colour, a.x, a.y, a.side, 0.9), Found(b.word, a.colour, b.x, b.y, b.side, 0.9))
    verdict = judge(Sight(swapped, prompt.scene.background.kind, prompt.scene.background.words), prompt.scene)
    if a.colour != b.colour:
        assert verdict["colour"] is False
    turned = tuple(Found(t.word, t.colour, 1 - t.x, 1 - t.y, t.side, 0.9) for t in (a, b))
    verdict = judge(Sight(turned, prompt.scene.background.kind, prompt.scene.background.words), prompt.scene)
    assert verdict["position"] is (prompt.scene.relation == "next to")


@needs_font
def test_true_renders_score_everything_and_wrong_captions_nothing():
    table = controls(Oracle(), ASKED)
    for category in CATEGORIES:
        assert table.row("true renders", category).scores["all"] == (28, 28)
        assert table.row("true renders, wrong caption", category).scores["all"][0] == 0
    assert table.row("true renders, shuffled", "subject").scores["object"] == (0, 28)
    assert table.row("true renders, wrong caption", "shape").share("colour").value < 0.35


@needs_font
def test_evaluate_hands_every_prompt_its_own_seed_and_totals_add_up():
    asked: list[tuple[str, int]] = []
    scenes = {prompt.text: index for index, prompt in enumerate(ASKED)}
    pictures = truth(ASKED)

    def paint(texts, seeds):
        asked.extend(zip(texts, seeds, strict=True))
        return torch.from_numpy(pictures[[scenes[text] for text in texts]])

    table = evaluate(paint, Oracle(), ASKED, source="perfect", seed=100, batch=10)
    assert asked == [(prompt.text, 100 + index) for index, prompt in enumerate(ASKED)]
    assert table.row("perfect", "subject").share("all").value == 1.0
    assert table.row("perfect, wrong caption", "subject").share("all").value == 0.0
    singles = table.total(SINGLE, "single").row("perfect", "single")
    assert singles.scores["all"] == (28 * 4, 28 * 4)


def test_the_table_prints_as_markdown():
    row = Row("painted", "shape", {"object": (9, 10), "colour": (8, 10), "all": (8, 10)})
    text = (Table((row,)) + Table((Row("true", "shape", {"object": (10, 10), "all": (10, 10)}),))).markdown()
    lines = text.splitlines()
    assert lines[0] == "| pictures | category | n | object | colour | all of it (95 % interval) |"
    assert lines[2] == "| painted | shape | 10 | 90.0 | 80.0 | **80.0** (49.0-94.3) |"
    assert lines[3] == "| true | shape | 10 | 100.0 |  | **100.0** (72.2-100.0) |"


def test_gather_takes_arrays_and_tensors():
    asked = ASKED[:5]
    arrays = gather(lambda texts, seeds: np.zeros((len(texts), 8, 8, 3), np.uint8), asked, batch=2)
    assert arrays.shape == (5, 8, 8, 3)
