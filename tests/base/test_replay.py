"""Other programs' random numbers: equal to torch's own generators', each draw a function of seed and number."""

import pytest
import torch

from aquatint.base.errors import UserError
from aquatint.base.noise import OFFSET, PRIOR, STEP, Noise
from aquatint.base.replay import Replay, noise_from, torch_cpu, torch_cuda


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**40 + 5])
@pytest.mark.parametrize("shape", [(4, 64, 64), (4, 9, 7), (16,), (17,)])
def test_the_cpu_source_is_torchs_cpu_generator(seed: int, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(seed)
    noise = noise_from("cpu", [seed])
    for step in range(-1, 3):
        expected = torch.randn(shape, generator=generator)
        drawn = noise.normal(shape, draw=PRIOR) if step < 0 else noise.normal(shape, draw=STEP, step=step)
        torch.testing.assert_close(drawn[0], expected, rtol=0, atol=2e-6)


def test_the_nv_source_is_torchs_cuda_generator() -> None:
    # torch.manual_seed(0); torch.randn(12, device="cuda"), as many have printed it
    expected = [
        -0.9247,
        -0.4253,
        -2.6438,
        0.1452,
        -0.1209,
        -0.5797,
        -0.6229,
        -0.3284,
        -1.0745,
        -0.3631,
        -1.6711,
        2.2655,
    ]
    torch.testing.assert_close(torch_cuda(0, 12, 0), torch.tensor(expected), rtol=0, atol=6e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_nv_source_on_a_card() -> None:
    generator = torch.Generator("cuda").manual_seed(2**40 + 3)
    for number in range(3):
        expected = torch.randn((4, 64, 64), generator=generator, device="cuda").flatten().cpu()
        torch.testing.assert_close(torch_cuda(2**40 + 3, 4 * 64 * 64, number), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("draw", [torch_cpu, torch_cuda])
def test_they_are_normal_and_all_bits_that_count_do(draw) -> None:
    sample = draw(1, 400_000, 0)
    assert abs(sample.mean().item()) < 4 / 400_000**0.5
    assert abs(sample.std().item() - 1) < 4 / 800_000**0.5
    assert not torch.equal(draw(1, 64, 0), draw(2, 64, 0))
    assert not torch.equal(draw(1, 64, 0), draw(1, 64, 1))
    assert torch.equal(draw(1, 64, 0), draw(1 + 2**32, 64, 0)) == (draw is torch_cpu)


def test_a_delta_gives_the_steps_a_generator_of_their_own() -> None:
    shape = (4, 8, 8)
    plain, moved = noise_from("cpu", [5]), noise_from("cpu", [5], delta=31337)
    other = noise_from("cpu", [5 + 31337])
    assert torch.equal(plain.normal(shape, draw=PRIOR), moved.normal(shape, draw=PRIOR))
    assert torch.equal(moved.normal(shape, draw=STEP, step=0), other.normal(shape, draw=PRIOR))
    assert torch.equal(moved.normal(shape, draw=STEP, step=3), other.normal(shape, draw=STEP, step=2))


def test_rows_are_alone_and_other_draws_are_ours() -> None:
    both = noise_from("nv", [3, 4])
    assert isinstance(both, Replay)
    assert torch.equal(both.normal((4, 8, 8))[1:], both[1:].normal((4, 8, 8)))
    assert torch.equal(both.normal((5,), draw=OFFSET), Noise([3, 4]).normal((5,), draw=OFFSET))
    assert torch.equal(both.uniform((5,), draw=PRIOR), Noise([3, 4]).uniform((5,), draw=PRIOR))
    assert type(noise_from("aquatint", [3])) is Noise


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(UserError, match='"gpu" is not known'):
        noise_from("gpu", [1])
