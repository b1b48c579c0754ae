"""A run's folder that somebody else has had in hand: what is in it is refused or passed over, in no time, and nothing
outside of it is written or believed."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.crash.course import carry_out, recipe, results

from aquatint.base.errors import UserError
from aquatint.training import spread, state
from aquatint.training.loop import Run
from aquatint.training.recipe import Share
from aquatint.training.state import Damaged, Unfitting, checkpoints, digest_of, read

NAME = "step-00000009.safetensors"  # newer than any that the run makes


@contextmanager
def quickly() -> Iterator[None]:
    """Within two seconds of this process's own time, for others share the machine; and without waiting for anything."""
    began, clock = time.process_time(), time.monotonic()
    yield
    assert time.process_time() - began < 2.0
    assert time.monotonic() - clock < 20.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    carry_out(folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def write(path: Path, facts: object, tensors: dict[str, torch.Tensor]) -> None:
    """A checkpoint whose sums are right, whatever it says."""
    text = facts if isinstance(facts, str) else json.dumps(facts)
    save_file(tensors, path, {"state": text, "digest": digest_of(text, tensors)})


def headed(path: Path, head: bytes, length: int | None = None) -> None:
    path.write_bytes((len(head) if length is None else length).to_bytes(8, "little") + head)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def last(folder: Path) -> Path:
    return checkpoints(folder)[-1]


ODD: dict[str, Callable[[Path, Path], object]] = {
    "a link": lambda path, whole: path.symlink_to(whole),
    "a link to nothing": lambda path, whole: path.symlink_to("/nowhere"),
    "a loop": lambda path, whole: path.symlink_to(path),
    "a pipe": lambda path, whole: os.mkfifo(path),
    "a device": lambda path, whole: path.symlink_to("/dev/zero"),
    "a folder": lambda path, whole: path.mkdir(),
    "nothing": lambda path, whole: path.touch(),
    "a head of 2^63 bytes": lambda path, whole: headed(path, b"{}", 2**63),
    "a head of 90 million bytes": lambda path, whole: headed(path, b"{" + b" " * 90_000_000),
    "a head of 60 million signs": lambda path, whole: headed(path, b"{" + b'"":[],' * 10_000_000),
    "a deep head": lambda path, whole: headed(path, b"[" * 1_000_000),
    "an endless tensor": lambda path, whole: headed(
        path, b'{"net/weights/weight":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    ),
    "a sparse terabyte": lambda path, whole: sparse(path),
    "no state": lambda path, whole: save_file({"x": torch.zeros(1)}, path),
    "facts that are no object": lambda path, whole: write(path, [1], read(whole)[1]),
    "facts that are no JSON": lambda path, whole: write(path, "{" * 50_000, read(whole)[1]),
    "facts without a step": lambda path, whole: write(path, {"recipe": "line"}, read(whole)[1]),
    "a step that is a text": lambda path, whole: write(path, read(whole)[0] | {"step": "9"}, read(whole)[1]),
    "a step below 0": lambda path, whole: write(path, read(whole)[0] | {"step": -9}, read(whole)[1]),
    "a log below 0": lambda path, whole: write(path, read(whole)[0] | {"step": 9, "log": -1}, read(whole)[1]),
    "a million threads": lambda path, whole: write(
        path, read(whole)[0] | {"step": 9, "threads": 10**6}, read(whole)[1]
    ),
    "another step's": lambda path, whole: shutil.copy(whole, path),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_checkpoint_is_told_of_and_passed_over(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ODD[kind](folder / NAME, last(folder))
    with quickly():
        run = Run(recipe(), folder)
    assert run.step == 7
    assert NAME in capsys.readouterr().err
    for path in checkpoints(folder):
        if path.name != NAME:
            path.unlink()
    with quickly(), pytest.raises(Damaged):
        Run(recipe(), folder)


def changed(folder: Path, name: str, make: Callable[[torch.Tensor], torch.Tensor] | None, where: str = "") -> None:
    """Have the last checkpoint hold another tensor of a name (or none), with sums that are right."""
    path = last(folder)
    facts, tensors = read(path)
    tensor = tensors.pop(name)
    if make is not None:
        tensors[where or name] = make(tensor)
    write(path, facts, tensors)


@pytest.mark.parametrize("name", ["net/weights/weight", "net/average/0.9/bias", "net/optimiser/1/exp_avg_sq"])
def test_tensors_of_other_nets_are_refused(name: str, finished: Path, tmp_path: Path) -> None:
    makers: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor] | None, str]] = {
        "shape": (lambda tensor: tensor[:2].clone(), ""),
        "rank": (lambda tensor: tensor[None].clone(), ""),
        "format": (lambda tensor: tensor.half(), ""),
        "gone": (None, ""),
        "renamed": (lambda tensor: tensor, name + "x"),
    }
    for kind, (make, where) in makers.items():
        folder = tmp_path / kind
        shutil.copytree(finished, folder)
        changed(folder, name, make, where)
        with quickly(), pytest.raises(Unfitting, match="of another run"):
            Run(recipe(), folder)
    folder = tmp_path / "more"
    shutil.copytree(finished, folder)
    facts, tensors = read(last(folder))
    write(last(folder), facts, tensors | {"net/weights/more": torch.zeros(3)})
    with pytest.raises(Unfitting, match="has no place"):
        Run(recipe(), folder)


def test_checkpoints_of_another_run_are_refused(finished: Path, tmp_path: Path) -> None:
    for name, changes in {"seed": {"seed": 4}, "kind": {"facts": {"kind": "curve"}}}.items():
        carry_out(tmp_path / name, **changes)  # type: ignore[arg-type]
        folder = tmp_path / f"{name} swapped"
        shutil.copytree(finished, folder)
        shutil.copy(last(tmp_path / name), last(folder))
        with quickly(), pytest.raises(UserError, match=f"with another {name}"):
            Run(recipe(), folder)
    shutil.copytree(finished, tmp_path / "same")
    assert Run(recipe(), tmp_path / "same").step == 7  # the control


@pytest.mark.parametrize("name", ["run.lock", "log.jsonl", "run.json"])
@pytest.mark.parametrize("kind", ["link", "link to nothing", "folder", "pipe", "link to a device"])
def test_what_leads_out_is_not_followed(name: str, kind: str, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    path = folder / name
    path.unlink(missing_ok=True)
    makers: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to(outside),
        "link to nothing": lambda: path.symlink_to(tmp_path / "new"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "link to a device": lambda: path.symlink_to("/dev/full"),
    }
    makers[kind]()
    for old in checkpoints(folder):
        old.unlink()
    if name == "run.json" and kind != "folder":  # which is put in the place of a link, not written through it
        with quickly():
            carry_out(folder)
        assert path.is_file()
        assert not path.is_symlink()
    else:
        with quickly(), pytest.raises(UserError, match=name):
            carry_out(folder)
        assert not list(folder.glob("step-*"))  # before any work
    assert outside.read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_pieces_are_not_followed_out(tmp_path: Path) -> None:
    weight = torch.ones(4)
    facts = {"recipe": "pieces", "step": 1, "spent": 0.0}
    path = spread.save_pieces(tmp_path / "run", facts, [("weight", weight, weight)], Share())
    piece = path / "piece-00000-of-00001.safetensors"
    piece.rename(tmp_path / "elsewhere")
    piece.symlink_to(tmp_path / "elsewhere")
    with quickly(), pytest.raises(Damaged):
        spread.newest_pieces(tmp_path / "run", lambda word: None, Share())
    piece.unlink()
    os.mkfifo(piece)
    with quickly(), pytest.raises(Damaged):
        spread.newest_pieces(tmp_path / "run", lambda word: None, Share())
    piece.unlink()
    (tmp_path / "elsewhere").rename(piece)
    (path / "piece-00001-of-00002.safetensors").write_bytes(piece.read_bytes())  # which the manifest does not name
    found = spread.newest_pieces(tmp_path / "run", lambda word: None, Share())
    assert found is not None
    assert torch.equal(found["weight"], weight)


def test_the_folder_as_it_was_goes_on(folder: Path, finished: Path) -> None:
    carry_out(folder)
    assert results(folder) == results(finished)
    assert state.read(last(folder))[0]["seed"] == 3
