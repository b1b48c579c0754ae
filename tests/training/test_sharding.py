"""Weights spread over two processes: they learn what one does, and checkpoints are the same files at any number."""

import shutil
from pathlib import Path

import pytest
import torch
from tests.training.company import digest, recipe, stint, together
from torch import nn

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.training.loop import Run
from aquatint.training.recipe import Share
from aquatint.training.sharding import nets, own, shard, split
from aquatint.training.spread import divided, joined, newest_pieces, pieces
from aquatint.training.state import Damaged, checkpoints, read

NAMES = ("latents", "pairs")  # what may be sharded


def sharded(folder: Path) -> None:
    """Three steps, also in parts; what each process holds; checkpoints read and written again, in both forms."""
    for name in NAMES:
        stint(name, folder / name, 3, sharding="full")
        written_again(name, folder / name, folder / f"{name} by two", spread=False)
        written_again(name, folder / f"{name} by two", folder / f"{name} in pieces", spread=True)
        written_again(name, folder / f"{name} in pieces", folder / f"{name} in pieces again", spread=True)
    stint("pairs", folder / "pairs in parts", 3, parts=4, sharding="full")
    held_and_painted(folder / "latents")


def written_again(name: str, source: Path, folder: Path, *, spread: bool) -> None:
    run = Run(recipe(name, 6, sharding="full", spread=spread), source)
    run.folder = folder
    folder.mkdir(exist_ok=True)
    run.save()


def held_and_painted(folder: Path) -> None:
    run = Run(recipe("latents", 6, sharding="full"), folder)
    held = sum(own(weight).numel() for weight in run.players["unet"].parameters())
    total = sum(weight.numel() for weight in run.whole["unet"].parameters())
    assert all(split(weight) for weight in run.weights["unet"])
    assert abs(held / total - 0.5) < 0.05, "each process holds its half"
    _, tensors = read(checkpoints(folder)[-1])
    for key, value in run.averaged()["unet"].state_dict().items():
        assert torch.equal(value, tensors[f"unet/average/0.99/{key}"])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave that have half of the weights each."""
    folder = tmp_path_factory.mktemp("two")
    together(2, sharded, folder)
    return folder


@pytest.mark.parametrize("name", [*NAMES, "pairs in parts"])
def test_two_that_share_the_weights_learn_what_one_does(name: str, two: Path, tmp_path: Path) -> None:
    stint(name.split()[0], tmp_path, 3)
    (facts, ours), (_, one) = (read(checkpoints(folder)[-1]) for folder in (two / name, tmp_path))
    assert facts["step"] == 3
    assert ours.keys() == one.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, one[key], rtol=1e-4, atol=2e-6, msg=lambda why, key=key: f"{key}: {why}")
    assert digest(two / name) != digest(tmp_path), "sums in another order, or nothing was sharded"


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_has_the_same_bits_in_any_form_and_at_any_number_of_processes(
    name: str, two: Path, tmp_path: Path
) -> None:
    saved = digest(two / name)
    assert digest(two / f"{name} by two") == saved
    for source in (two / f"{name} by two", two / f"{name} in pieces"):  # one process reads what two wrote
        written_again(name, source, tmp_path, spread=False)
        assert digest(tmp_path) == saved
        checkpoints(tmp_path)[-1].unlink()
    (folder,) = pieces(two / f"{name} in pieces")
    (again,) = pieces(two / f"{name} in pieces again")
    assert files.verify(folder) == files.verify(again)
    divided(joined(folder, tmp_path), tmp_path, 2)
    assert digest(tmp_path) == saved
    (cut,) = pieces(tmp_path)
    assert files.verify(cut) == files.verify(folder), "what two processes write, without them"
    for path in folder.glob("piece-*"):
        assert path.stat().st_size < 0.6 * checkpoints(tmp_path)[-1].stat().st_size


@pytest.mark.parametrize("count", [1, 3, 40])
def test_any_number_of_pieces_is_the_same_state(count: int, two: Path, tmp_path: Path) -> None:
    (source,) = checkpoints(two / "pairs")
    joined(divided(source, tmp_path, count), tmp_path)
    assert digest(tmp_path) == digest(two / "pairs")


def test_damaged_pieces_are_noticed_and_give_way(two: Path, tmp_path: Path) -> None:
    (source,) = checkpoints(two / "pairs")
    folder = divided(source, tmp_path, 2)
    shutil.copytree(folder, tmp_path / "step-00000009.pieces")
    for name in ("piece-00001-of-00002.safetensors", "state.json"):
        path = tmp_path / "step-00000009.pieces" / name
        data = path.read_bytes()
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        told: list[str] = []
        found = newest_pieces(tmp_path, told.append, Share())
        assert found is not None
        assert found.facts["step"] == 3
        assert name in told[0]
        with pytest.raises(Damaged):
            joined(tmp_path / "step-00000009.pieces", tmp_path)
        path.write_bytes(data)
    (tmp_path / "step-00000009.pieces" / "manifest.json").unlink()
    assert pieces(tmp_path) == [folder], "without its manifest it was never finished"
    (folder / "piece-00000-of-00002.safetensors").unlink()
    with pytest.raises(Damaged):
        newest_pieces(tmp_path, print, Share())


def test_what_cannot_be_sharded_is_refused() -> None:
    with pytest.raises(UserError, match="2 players"):
        recipe("pictures", 1, sharding="full")
    with pytest.raises(UserError, match='sharding "some" is not known'):
        recipe("latents", 1, sharding="some")
    with pytest.raises(UserError, match="without sharding"):
        recipe("latents", 1, spread=True)
    with pytest.raises(UserError, match="no whole net"):
        shard(nn.ParameterList([torch.zeros(2)]), torch.device("cpu"))
    assert nets(nn.ParameterList([torch.zeros(2)])) == [], "word vectors are no net"
    both = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.ModuleList([nn.Linear(1, 1)])})
    assert nets(both) == [both["a"], both["b"][0]]  # type: ignore[index]
