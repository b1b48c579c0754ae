"""Sets of prompts: what is asked, what it is held against, and one clear error for each way to spoil them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aquatint.base.errors import UserError
from aquatint.evaluation import sets
from aquatint.evaluation.prompts import prompts
from aquatint.training.data.render import FONT_VARIABLE, has_font, render
from aquatint.training.data.world import MEDIUM, SMALL

needs_font = pytest.mark.skipif(
    not has_font(), reason="Noto Color Emoji is not installed (Debian: fonts-noto-color-emoji)"
)


def save(path: Path, grey: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return path


@needs_font
def test_pockets_references_are_other_scenes_of_the_same_sort():
    asked = sets.pocket(2, ("subject", "pair"), SMALL)
    assert asked.categories == ("subject", "subject", "pair", "pair")
    assert [prompt.text for prompt in asked.scenes] == list(asked.prompts)
    assert asked.scenes == tuple(prompts(SMALL, ("subject", "pair"), 2))
    assert asked.truths is not None
    assert asked.references is not None
    assert (len(asked.truths), len(asked.references)) == (4, 8)
    assert np.array_equal(np.asarray(asked.truths[3]), render(asked.scenes[3].scene))
    assert not set(asked.prompts) & set(asked.references.captions)
    again = sets.pocket(2, ("subject", "pair"), SMALL)
    assert (again.facts, again.references.facts) == (asked.facts, asked.references.facts)
    assert sets.pocket(2, ("pair", "subject"), SMALL).facts.digest != asked.facts.digest


def test_pocket_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for each in (0, 1, 1001):
        with pytest.raises(UserError, match="2 to 1,000"):
            sets.pocket(each)
    monkeypatch.setenv(FONT_VARIABLE, str(tmp_path / "no.ttf"))
    with pytest.raises(UserError, match="fonts-noto-color-emoji"):
        sets.pocket(2)


@needs_font
def test_the_carried_models_training_scenes_are_those_of_its_recipe():
    from recipes.shown import described

    assert [sets.TRAINED.scene(index) for index in range(3)] == described(range(3))
    assert sets.TRAINED.world is MEDIUM
    assert len(sets.taught(3)) == 3


def test_a_prompt_a_line(tmp_path: Path):
    path = tmp_path / "words.txt"
    path.write_text("a cat\n\n  two dogs  \n")
    asked = sets.read(path)
    assert asked.prompts == ("a cat", "two dogs")
    assert (asked.references, asked.facts.name, asked.facts.count) == (None, "words.txt", 2)
    assert sets.read(path, 1).prompts == ("a cat",)
    path.write_text("a cat\ntwo dogs")
    assert sets.read(path).facts == asked.facts  # what counts is what is asked


def test_json_lines_with_pictures_and_categories(tmp_path: Path):
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.png", 10)
    rows = [
        {"prompt": "a cat", "category": "animals", "image": "in/a.png"},
        {"prompt": "a car", "category": "things"},
        {"prompt": "a cow", "category": "animals"},
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    asked = sets.read(path)
    assert asked.categories == ("animals", "things", "animals")
    assert asked.references is not None
    assert asked.references.captions == ("a cat",)
    assert asked.references[0].getpixel((0, 0)) == (10, 10, 10)
    assert sets.read(path, 1).prompts == ("a cat", "a car")
    assert sets.read(path, None, ["things"]).prompts == ("a car",)
    with pytest.raises(UserError, match='category "thing"'):
        sets.read(path, None, ["thing"])


def test_a_folder_of_captioned_pictures_is_prompts_and_references(tmp_path: Path):
    for name in "ab":
        save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"picture {name}")
    asked = sets.read(tmp_path)
    assert asked.prompts == ("picture a", "picture b")
    assert asked.references is not None
    assert asked.references.captions == asked.prompts


def test_reference_pictures_need_no_captions(tmp_path: Path):
    save(tmp_path / "a.png", 1)
    assert sets.pictures(tmp_path).captions == ()
    (tmp_path / "a.txt").write_text("one")
    found = sets.pictures(tmp_path)
    assert found.captions == ("one",)
    save(tmp_path / "b.png", 2)
    both = sets.pictures(tmp_path)
    assert both.captions == ()
    assert both.facts.digest != found.facts.digest
    assert both.spread(9) == [0, 1]
    assert len(both.spread(1)) == 1


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.txt", b"", "holds no prompt"),
        ("x.txt", b"a cat\n\xff\xfe", "not UTF-8"),
        ("x.txt", b"a cat\na\x00b", "line 2.*U.0000"),
        ("x.txt", b"a " * 4000, "line 1.*8,000|line 1.*7,999"),
        ("x.jsonl", b"a cat", "line 1: this is no prompt"),
        ("x.jsonl", b'["a cat"]', "no prompt"),
        ("x.jsonl", b'{"image": "a.png"}', "no prompt"),
        ("x.jsonl", b'{"prompt": 3}', "no prompt"),
        ("x.jsonl", b'{"prompt": "  "}', "empty"),
        ("x.jsonl", b'{"prompt": "a", "size": "1x1"}', 'field "size"'),
        ("x.jsonl", b'{"prompt": "a"}\n{"prompt": "a", "image": "no.png"}', "line 2.*not there"),
        ("x.jsonl", b'{"prompt": "a", "image": "/etc/passwd"}', "leads out"),
        ("x.jsonl", b'{"prompt": "a", "image": "../out.png"}', "leads out"),
        ("x.jsonl", b'{"prompt": "a", "image": "link.png"}', "leads out"),
        ("x.jsonl", b'{"prompt": "a", "image": "."}', "not there"),
        ("x.jsonl", b'{"prompt": "a", "image": "a\\u0000"}', "null character"),
        ("x.jsonl", b'{"prompt": "a", "image": "text.png"}', "not a picture"),
        ("x.jsonl", b'{"prompt": "a", "image": "half.png"}', "damaged"),
        ("x.jsonl", b"[" * 100_000, "no prompt"),
    ],
)
def test_spoilt_sets_are_told_by_their_line(tmp_path: Path, name: str, content: bytes, told: str):
    home = tmp_path / "home"
    home.mkdir()
    save(tmp_path / "out.png")
    (home / "link.png").symlink_to(tmp_path / "out.png")
    (home / "text.png").write_bytes(b"words")
    (home / "half.png").write_bytes(save(home / "whole.png").read_bytes()[:40])
    (home / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        sets.read(home / name)


def test_places_that_are_no_sets(tmp_path: Path):
    with pytest.raises(UserError, match="There is no set"):
        sets.read(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no pictures"):
        sets.read(tmp_path)
    save(tmp_path / "a.png")
    with pytest.raises(UserError, match="without a caption"):
        sets.read(tmp_path)
    (tmp_path / "a.txt").write_text("words " * 1200)
    with pytest.raises(UserError, match=r"a\.png.*6,000"):
        sets.read(tmp_path)
    (tmp_path / "w.txt").write_text("a\nb")
    with pytest.raises(UserError, match="1 or more"):
        sets.read(tmp_path / "w.txt", 0)
