"""The carried model, through the door that everybody takes: it paints what was asked for, and not something else."""

import numpy as np

import aquatint
from aquatint.evaluation.detector import Detector
from aquatint.evaluation.prompts import prompts
from aquatint.evaluation.runs import crossed, score
from aquatint.evaluation.spaces import DETECTOR
from aquatint.training.data.world import MEDIUM


def test_the_carried_model_paints_what_was_asked_for() -> None:
    bundle = aquatint.load()
    asked = prompts(MEDIUM, ("subject",), 10)
    pictures = np.stack([np.asarray(bundle.paint(p.text, seed=i).image) for i, p in enumerate(asked)])
    detector = Detector.open(DETECTOR)
    right = score(pictures, detector, asked, "painted").rows[0]
    wrong = score(pictures, detector, crossed(asked), "wrong caption").rows[0]
    assert right.scores["object"][0] >= 8, right
    assert right.scores["background"][0] >= 8, right
    assert wrong.scores["all"][0] <= 1, wrong


def test_it_says_what_it_has_not_learned() -> None:
    bundle = aquatint.load()
    assert bundle.note("a cat in a meadow") is None
    note = bundle.note("a samurai in a meadow")
    assert note is not None
    assert "samurai" in note
