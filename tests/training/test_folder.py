"""Folders of captioned pictures: where captions stand, and what is wrong with one is said before any work."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.training.sets import prepared

from aquatint.base.errors import UserError
from aquatint.training.data.folder import MASK, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.new("RGB", (64, 48), "red").save(tmp_path / name)
    return tmp_path


ROWS = [("a.png", "a  red\nsquare"), ("b.jpg", 'says "b", and a comma'), ("c.webp", "c")]
SAID = ["a red square", 'says "b", and a comma', "c"]


def captions(folder: Path, **more: list[str]) -> list[str]:
    return [example.caption for example in read(folder, **more)]


def test_captions_beside_the_pictures(folder: Path) -> None:
    for name, text in ROWS:
        (folder / name).with_suffix(".txt").write_text(text + "\n")
    assert captions(folder) == SAID
    assert [example.path.name for example in read(folder)] == ["a.png", "b.jpg", "c.webp"]


def test_captions_in_a_table(folder: Path) -> None:
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in ROWS]
    tables = {
        "metadata.jsonl": "\n\n".join(lines),
        "captions.json": json.dumps(dict(ROWS)),
        "captions.csv": 'text,file_name\na  red square,a.png\n"says ""b"", and a comma",b.jpg\nc,c.webp\n',
    }
    for name, text in tables.items():
        (folder / name).write_text(text)
        assert captions(folder) == SAID
        (folder / name).unlink()


def test_a_text_beside_a_picture_comes_first_and_words_last(folder: Path) -> None:
    (folder / "captions.json").write_text(json.dumps({"a.png": "of the table", "b.jpg": "of the table"}))
    (folder / "a.txt").write_text("of its own")
    assert captions(folder, words=["of all"]) == ["of its own", "of the table", "of all"]


def test_spare_captions_are_taken_in_turn(folder: Path) -> None:
    (folder / "b.txt").write_text("of its own")
    assert captions(folder, words=["one", "two"]) == ["one", "of its own", "one"]


def test_masks_lie_in_a_folder_of_their_own(folder: Path) -> None:
    (folder / MASK).mkdir()
    Image.new("L", (64, 48), 128).save(folder / MASK / "b.png")
    assert [example.mask is not None for example in read(folder, words=["x"])] == [False, True, False]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("captions.json", "[1]", "no object of captions"),
        ("captions.json", '{"a.png": 1}', "no object of captions"),
        ("captions.json", '{"gone.png": "x"}', 'words for "gone.png"'),
        ("captions.csv", "a,b\n1,2\n", "has the columns"),
        ("captions.csv", 'file_name,text\na.png,"' + "x" * 200_000, "not CSV"),
        ("metadata.jsonl", '{"file_name": "a.png"}', "line 1, is no row"),
        ("metadata.jsonl", "[" * 100_000, "line 1, is no row"),
        ("a.txt", "x" * 10_001, "10,001 letters"),
        ("none", "", "without a caption"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, name: str, text: str, told: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=told):
        read(folder)


def test_pictures_that_are_none(folder: Path, tmp_path: Path) -> None:
    (folder / "d.png").write_bytes(b"no picture")
    (*_, last) = read(folder, words=["x"])
    with pytest.raises(UserError, match=r"d\.png"):
        last.picture()
    with pytest.raises(UserError, match="holds no pictures"):
        read(Path(__file__).parent)
    with pytest.raises(UserError, match="is no folder"):
        read(folder / "a.png")


def test_a_prepared_folder_is_one_too(tmp_path: Path) -> None:
    made = prepared(tmp_path, 3)
    examples = read(made)
    assert [example.caption for example in examples] == [f"picture {number}, red, green" for number in range(3)]
    with Image.open(tmp_path / "pictures" / "001.jpg") as picture:
        assert examples[1].picture().tobytes() == picture.tobytes()
    shard = made / "train-00000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"picture 1", b"picture 7"))
    with pytest.raises(UserError, match='sample "000000001"'):
        read(made)
