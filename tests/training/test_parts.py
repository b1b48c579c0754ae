"""A batch in parts: the same gradient, and the same bits whatever the number of processes."""

from pathlib import Path

import pytest
import torch
from tests.training.company import digest, recipe, stint, together
from torch import Tensor, nn

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.training.loop import Run
from aquatint.training.optim import clip
from aquatint.training.parts import Parts, Sum, own_parts
from aquatint.training.recipe import Batch, Length, Loss, Losses, Moment, Optim, Recipe, Share
from aquatint.training.state import checkpoints, read

NAMES = ("latents", "pairs", "pictures")


def run_all(folder: Path, until: int, **changes: object) -> None:
    for name in NAMES:
        stint(name, folder / name, until, steps=4, **changes)


def digests(folder: Path) -> dict[str, str]:
    """All numbers of each run's last state, and all that it has logged."""
    return {name: digest(folder / name) + (folder / name / "losses.txt").read_text() for name in NAMES}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of four parts, computed after another."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("one")
    run_all(folder, 4, parts=4)
    return folder


def both_ways(folder: Path) -> None:
    run_all(folder / "fixed", 4, parts=4)
    run_all(folder / "plain", 4)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes make of it, each of half the batch."""
    folder = tmp_path_factory.mktemp("two")
    together(2, both_ways, folder)
    return folder


def same(one: Path, other: Path) -> None:
    """Weights, averages and optimisers of all players agree but for rounding."""
    (_, ours), (_, theirs) = (read(checkpoints(folder)[-1]) for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=2e-6, msg=lambda why, key=key: f"{key}: {why}")


def test_two_processes_do_not_change_the_bits(one: Path, two: Path) -> None:
    assert digests(two / "fixed") == digests(one)


def test_nor_do_four(one: Path, tmp_path: Path) -> None:
    together(4, run_all, tmp_path, 4, parts=4)
    assert digests(tmp_path) == digests(one)


def test_nor_when_their_number_changes_on_the_way(one: Path, tmp_path: Path) -> None:
    for until, world in ((1, 1), (2, 4), (3, 2), (4, 1)):
        together(world, stint, "pictures", tmp_path, until, steps=4, parts=4)
    assert digest(tmp_path) == digest(one / "pictures")


@pytest.mark.slow
@pytest.mark.parametrize("worlds", [(2, 1, 4), (4, 1, 2), (1, 2, 4)])
def test_nor_at_any_change_of_any_objective(worlds: tuple[int, ...], one: Path, tmp_path: Path) -> None:
    for until, world in zip((1, 3, 4), worlds, strict=True):
        together(world, run_all, tmp_path, until, parts=4)
    assert digests(tmp_path) == digests(one)


def test_other_parts_and_other_seeds_have_other_bits(one: Path, tmp_path: Path) -> None:
    run_all(tmp_path / "halves", 4, parts=2)
    run_all(tmp_path / "seed", 4, parts=4, seed=77)
    halves, seed, ours = (digests(folder) for folder in (tmp_path / "halves", tmp_path / "seed", one))
    assert {name for name in NAMES if halves[name] != ours[name]} == set(NAMES)
    assert {name for name in NAMES if seed[name] != ours[name]} == {"latents", "pictures"}  # pairs draw no noise


@pytest.mark.parametrize("name", NAMES)
def test_halves_and_parts_learn_what_the_whole_does(name: str, one: Path, two: Path, tmp_path: Path) -> None:
    """Both players, the adaptive weight, and the contrast with every other pair; in two processes, or in four parts."""
    stint(name, tmp_path, 4, steps=4)
    same(one / name, tmp_path)
    same(two / "plain" / name, tmp_path)
    assert digest(two / "plain" / name) != digest(tmp_path), "sums in another order, or no company"


class Kept:
    """A tensor that a backward pass waits for, counted while it is kept."""

    bytes, peak = 0, 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # with its own history it would wait for itself
        Kept.bytes += tensor.nbytes
        Kept.peak = max(Kept.peak, Kept.bytes)

    def __del__(self) -> None:
        Kept.bytes -= self.tensor.nbytes


def kept(name: str, parts: int, folder: Path) -> int:
    """The most bytes that one step keeps for its backward passes, weights aside."""
    run = Run(recipe(name, 1, parts=parts), folder)
    weights = {weight.data_ptr() for player in run.players.values() for weight in player.parameters()}
    Kept.bytes = Kept.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: tensor if tensor.data_ptr() in weights else Kept(tensor),
        lambda tensor: tensor.tensor if isinstance(tensor, Kept) else tensor,
    ):
        run.take_step(Moment(0, 0.9))
    return Kept.peak


@pytest.mark.parametrize("name", NAMES)
def test_parts_keep_what_one_of_them_needs(name: str, tmp_path: Path) -> None:
    whole = kept(name, 1, tmp_path)
    assert whole > 100_000
    assert kept(name, 4, tmp_path) < 0.35 * whole


def test_logs_are_the_mean_over_all_parts(tmp_path: Path) -> None:
    whole, parted = (Run(recipe("latents", 1, parts=parts), tmp_path) for parts in (1, 4))
    one, other = (run.take_step(Moment(0, 0.0)) for run in (whole, parted))
    assert one.keys() == other.keys()
    assert other == pytest.approx(one, rel=1e-5)


class Twins:
    """Two weights whose gradient is one and the same number, which autograd may hand out as one tensor."""

    def __init__(self) -> None:
        self.players = {"twins": nn.ParameterList([torch.zeros(3), torch.zeros(3)])}

    def losses(self, batch: Batch, moment: Moment, noise: Noise) -> Losses:
        a, b = self.players["twins"]
        yield Loss("twins", (len(noise) * (a + b)).sum(), {})


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_weights_may_share_a_gradient(parts: int, tmp_path: Path) -> None:
    twins = Twins()
    optim = {"twins": Optim(lr=0.5, warmup=1, clip=1.0, decay=0.0)}
    length = Length(steps=1)
    run = Run(Recipe("twins", 0, twins, lambda m, s: {}, length, optim, batch_size=4, parts=parts), tmp_path)
    found = next(iter(Parts([run.begun(p, run.moment) for p in run.parts], run.ways, run.share, fixed=parts > 1)))
    for gradient in found.gradients:
        assert torch.equal(gradient, torch.full((3,), 4.0 / parts))
    assert clip(found.gradients, 6**0.5 / 8).item() == pytest.approx(4 / parts * 6**0.5)
    for gradient in found.gradients:
        torch.testing.assert_close(gradient, torch.full((3,), 0.125))


def test_a_sum_is_a_tree_that_processes_may_divide() -> None:
    leaves = [[row] for row in Noise([3] * 8, range(8)).normal((50,)) * torch.logspace(-3, 3, 8)[:, None]]

    def total(some: list[list[Tensor]]) -> Tensor:
        tree = Sum()
        for (leaf,) in some:
            tree.add([leaf.clone()])
        return tree.total()[0]

    halves = total(leaves[:4]) + total(leaves[4:])
    assert torch.equal(total(leaves), halves)
    assert not torch.equal(torch.stack([leaf for (leaf,) in leaves]).sum(0), halves)
    for count in range(1, 8):
        torch.testing.assert_close(total(leaves[:count]), sum(leaf for (leaf,) in leaves[:count]))


def test_parts_are_shared_evenly_or_refused() -> None:
    four = recipe("latents", 1, parts=4)
    assert own_parts(four, Share(1, 2)) == [Share(2, 4), Share(3, 4)]
    assert own_parts(recipe("latents", 1), Share(1, 2)) == [Share(1, 2)]
    with pytest.raises(UserError, match="4 parts for 3 processes"):
        own_parts(four, Share(0, 3))
    with pytest.raises(UserError, match="A batch of 4 for 8 parts"):
        own_parts(recipe("latents", 1, parts=8), Share())
    with pytest.raises(UserError, match="parts = 0"):
        recipe("latents", 1, parts=0)


def test_a_run_keeps_its_number_of_threads(tmp_path: Path) -> None:
    stint("latents", tmp_path, 1, parts=2)
    torch.set_num_threads(2)
    Run(recipe("latents", 6, parts=2), tmp_path)
    assert torch.get_num_threads() == 1


def test_a_folder_of_other_parts_is_another_run(tmp_path: Path) -> None:
    stint("latents", tmp_path, 1, parts=4)
    with pytest.raises(UserError, match="another parts"):
        Run(recipe("latents", 6, parts=2), tmp_path)
    with pytest.raises(UserError, match="another parts"):
        Run(recipe("latents", 6), tmp_path)
