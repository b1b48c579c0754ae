"""The page of a training run tells what its folder does, and nothing of a folder's can run in it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from aquatint.base.errors import UserError
from aquatint.evaluation import course

HELD = {f"held, t {low}-{low + 99}": 0.1 + low / 2000 for low in range(0, 1000, 100)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "sheets").mkdir(parents=True)
    lines = [
        {
            "step": 10 * n,
            "progress": n / 50,
            "unet/loss": 1 / (n + 1),
            "minutes": n / 6,
            "memory": 1.5,
            "rate": 4.0 + n % 3,
        }
        for n in range(1, 51)
    ]
    lines.insert(25, {"step": 250, "progress": 0.5, "held": 0.4, **HELD})  # type: ignore[dict-item]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"words": "<script>alert(1)</script>", "optim": {"lr": 0.001}}
    (run / "run.json").write_text(json.dumps({"recipe": "lora", "batch_size": 4, "settings": settings}))
    Image.new("RGB", (300, 100), "teal").save(run / "sheets" / "00000250.jpg")
    Image.new("RGB", (300, 100), "teal").save(run / "sheet.jpg")
    return run


def test_it_tells_what_the_folder_does(folder: Path) -> None:
    said = course.write(folder).read_text()
    for word in ("500 steps, 100 % of the run", "2,000 samples", "8.3 minutes", "5 samples a second", "1.50 GiB"):
        assert word in said, word
    assert said.count('src="data:image/svg+xml') == 5  # loss, rate, memory, held, held by time
    assert said.count('src="data:image/jpeg') == 2
    assert "settings.optim.lr" in said
    assert "<script" not in said
    assert "&lt;script&gt;" in said


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("")
    assert "Nothing is logged yet" in course.write(tmp_path).read_text()


@pytest.mark.parametrize("line", ["{", "[]", '{"step": 1}', "\x00", '{"step": NaN, "progress": 0}'])
def test_what_is_no_log(line: str, folder: Path) -> None:
    with (folder / "log.jsonl").open("a") as log:
        log.write(line + "\n")
    with pytest.raises(UserError, match="line 52 is no line"):
        course.write(folder)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no log"):
        course.write(tmp_path)


def test_medians_are_those_of_the_neighbours() -> None:
    assert course._medians([5.0, 1.0, 9.0, 3.0], 1) == [5.0, 5.0, 3.0, 9.0]
