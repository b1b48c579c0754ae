"""Noise: the published answers, every bit of the key, the normal distribution, and nothing but the key."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from aquatint.base import noise as module
from aquatint.base.errors import UserError
from aquatint.base.noise import EPS, PRIOR, STEP, WORD, Noise, logarithm, normal_quantile, philox

ONES = 2**32 - 1
GOLDEN = "adf13954345e1da2cc7a045ada698dda2f5b01b0f42bff15647dd039df3bbda0"  # of golden()


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [  # the Random123 distribution's kat_vectors for philox 4x32, 10 rounds
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, answer):
    words = philox(tuple(torch.tensor([c]) for c in counter), tuple(torch.tensor([k]) for k in key))
    assert tuple(word.item() for word in words) == answer


def by_hand(seed: int, picture: int, step: int, draw: int, block: int) -> list[int]:
    """One block of words from Python's integers, which do not overflow."""
    c = [block | draw << 24, step, picture & WORD, picture >> 32]
    k = [seed & WORD, seed >> 32]
    for _ in range(10):
        p, q = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(q >> 32) ^ c[1] ^ k[0], q & WORD, (p >> 32) ^ c[3] ^ k[1], p & WORD]
        k = [(k[0] + 0x9E3779B9) & WORD, (k[1] + 0xBB67AE85) & WORD]
    return c


def test_all_bits_of_the_key_and_counter_arrive():
    seeds, pictures = [0, 7, 2**63 + 12345, 2**64 - 1], [2**64 - 1, 2**40, 3, 0]
    step, draw = 2**32 - 1, 255
    words = (Noise(seeds, pictures).uniform((10,), step=step, draw=draw).double() * 2**24).long()
    for row, seed, picture in zip(words, seeds, pictures, strict=True):
        expected = [word >> 8 for block in range(3) for word in by_hand(seed, picture, step, draw, block)]
        assert row.tolist() == expected[:10]


def fingerprints(noise: Noise, **where: int) -> set[bytes]:
    return {row.tobytes() for row in noise.normal((4,), **where).numpy()}


def test_distinct_seeds_give_distinct_noise():
    base = [(i * 0x9E3779B97F4A7C15) % 2**64 for i in range(60_000)]
    seeds = list(dict.fromkeys(s ^ flip for s in base for flip in (0, 1 << 32, 1 << 63, 1)))
    assert len(seeds) > 200_000
    assert len(fingerprints(Noise(seeds))) == len(seeds)
    assert not torch.equal(Noise([5]).normal((4,)), Noise([5 + 2**32]).normal((4,)))


def test_pictures_steps_and_draws_do_not_meet():
    found: set[bytes] = set()
    places = [0, 1, 255, 256, 2**16, 2**24, 2**31, 2**32 - 1]
    count = 0
    for step in places:
        for draw in (0, 1, 2, 128, 255):
            noise = Noise([1] * len(places) + [2**32, 2**33], [*places, 1, 2**32])
            found |= fingerprints(noise, step=step, draw=draw)
            count += len(noise)
    assert len(found) == count


def test_names_of_draws_are_distinct():
    names = ["PRIOR", "STEP", "POSTERIOR", "TIME", "EPS", "CAPTION", "CROP", "OFFSET", "WEIGHTS"]
    assert [getattr(module, name) for name in names] == list(range(len(names)))


def test_a_row_does_not_depend_on_its_batch():
    seeds, pictures = list(range(100, 133)), list(range(33))
    whole = Noise(seeds, pictures)
    for shape in [(4, 16, 16), (5,), (3, 7), ()]:
        batch = whole.normal(shape, step=9, draw=STEP)
        for i in (0, 1, 31, 32):
            alone = Noise([seeds[i]], [pictures[i]]).normal(shape, step=9, draw=STEP)
            assert torch.equal(batch[i : i + 1], alone)
            assert torch.equal(whole[i : i + 1].normal(shape, step=9, draw=STEP), alone)
    assert torch.equal(whole[30:].normal((5,)), whole.normal((5,))[30:])
    assert not torch.equal(whole[:1].normal((5,), step=9), whole[1:2].normal((5,), step=9))


def test_a_shorter_draw_is_the_beginning_of_a_longer_one():
    noise = Noise([3, 4])
    assert torch.equal(noise.normal((10,)), noise.normal((1000,))[:, :10])


def test_nothing_ambient_matters():
    first = Noise([8]).normal((4, 32, 32))
    torch.manual_seed(99)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(first, Noise([8]).normal((4, 32, 32)))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(first, Noise([8]).normal((4, 32, 32)))
        torch.set_default_dtype(torch.float64)
        assert torch.equal(first, Noise([8]).normal((4, 32, 32)))
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)


def golden() -> str:
    draw = Noise([7, 2**64 - 1], [0, 5]).normal((4, 16, 16), step=3, draw=EPS)
    assert draw.dtype == torch.float32
    return hashlib.sha256(draw.numpy().astype("<f4").tobytes()).hexdigest()


def test_golden_draw():
    """What a seed means. If this changes, every picture does: that takes a new numerics version."""
    assert golden() == GOLDEN


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["default", "avx2", "avx512"])
def test_golden_draw_with_other_instruction_sets(instructions):
    """torch takes other kernels when told to; where the processor lacks them it takes the best it has."""
    program = "from tests.base.test_noise import golden; print(golden())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ATEN_CPU_CAPABILITY": instructions},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == GOLDEN


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_bits_on_cuda():
    noise = Noise([7, 2**64 - 1], [0, 5])
    for shape in [(4, 16, 16), (4, 64, 64), (50_001,)]:
        assert torch.equal(noise.normal(shape, step=3, device="cuda").cpu(), noise.normal(shape, step=3))
        assert torch.equal(noise.uniform(shape, draw=2, device="cuda").cpu(), noise.uniform(shape, draw=2))
        assert torch.equal(noise.integers(shape, 1000, device="cuda").cpu(), noise.integers(shape, 1000))


def test_moments_and_the_whole_distribution():
    z = Noise(range(40), range(40)).normal((4, 32, 32)).double()
    n = z.numel()
    assert abs(z.mean()) < 4 / n**0.5
    assert abs(z.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((z**3).mean()) < 4 * (15 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 4 * (96 / n) ** 0.5
    ranks = torch.special.ndtr(z.flatten().sort().values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((ranks - steps[:-1]).max(), (steps[1:] - ranks).max())
    assert distance * n**0.5 < 1.95  # Kolmogorov and Smirnov, one chance in a thousand


def test_rows_steps_draws_and_neighbours_are_not_correlated():
    def against(a: Tensor, b: Tensor) -> None:
        assert abs((a.double() * b.double()).mean()) < 4 / a.numel() ** 0.5

    noise = Noise([1, 2], [0, 0])
    z = noise.normal((20_000,))
    against(z[0], z[1])
    against(z[0, 1:], z[0, :-1])
    against(z, noise.normal((20_000,), step=1))
    against(z, noise.normal((20_000,), draw=STEP))
    against(z, Noise([1, 2], [1, 1]).normal((20_000,)))


def test_quantile_is_as_good_as_float64():
    ends = torch.arange(100_000)
    middle = torch.randint(0, 2**32, (300_000,), generator=torch.Generator().manual_seed(0))
    seam = torch.tensor([int(0.075 * 2**32) + i for i in range(-100, 100)])  # where the two branches meet
    words = torch.cat([ends, WORD - ends, middle, seam])
    z = normal_quantile(words)
    assert z.dtype == torch.float64
    exact = torch.special.ndtri((words.double() + 0.5) * 2.0**-32)
    assert (z - exact).abs().max() < 1e-14
    assert torch.equal(normal_quantile(WORD - words), -z)
    assert 6.33 < normal_quantile(torch.tensor([WORD])).item() < 6.34


def test_logarithm_is_as_good_as_float64():
    x = torch.cat([torch.linspace(1e-3, 4, 100_001, dtype=torch.float64), 2.0 ** -torch.arange(1.0, 40).double()])
    assert ((logarithm(x) - x.log()).abs() <= 4e-16 * (1 + x.log().abs())).all()


def test_only_operations_that_round_in_one_way():
    """No exp, log, sin or fused product-and-sum: those differ between devices, instruction sets and releases."""
    exact = {"add", "sub", "rsub", "mul", "div", "neg", "sqrt", "frexp", "sign", "minimum", "where", "ge", "double"}
    exact |= {"full_like", "float", "to", "__get__"}
    seen = set()

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            name = func.__name__
            seen.add({"__rsub__": "rsub", "__rdiv__": "div"}.get(name, name))
            return func(*args, **(kwargs or {}))

    with Watch():
        normal_quantile(torch.arange(10))
    assert "sqrt" in seen
    assert seen - exact == {"arange"}


def test_uniform_and_integers():
    noise = Noise(range(30))
    u = noise.uniform((5_000,), draw=PRIOR)
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.double().mean() - 0.5) < 4 / (12 * u.numel()) ** 0.5
    k = noise.integers((5_000,), 7, draw=STEP)
    assert k.dtype == torch.int64
    counts = torch.bincount(k.flatten(), minlength=7).double()
    assert len(counts) == 7
    expected = k.numel() / 7
    assert ((counts - expected) ** 2 / expected).sum() < 22.5  # chi squared, 6 degrees, one in a thousand
    assert noise.integers((3,), 1).tolist() == [[0, 0, 0]] * 30
    assert noise.integers((100,), 2**31).max() > 2**30


@pytest.mark.parametrize("seed", [-1, 2**64, 10**30])
def test_seeds_out_of_range(seed):
    with pytest.raises(UserError, match="18446744073709551615"):
        Noise([seed])
    with pytest.raises(UserError, match="picture"):
        Noise([0], [seed])


def test_largest_draw_and_what_lies_beyond():
    assert Noise([1]).normal((3, 0)).shape == (1, 3, 0)
    for shape in [(2**26 + 1,), (2**40,)]:
        with pytest.raises(AssertionError, match="the most"):
            Noise([1]).normal(shape)
    with pytest.raises(AssertionError, match="step"):
        Noise([1]).normal((4,), step=2**32)
    with pytest.raises(AssertionError, match="draw"):
        Noise([1]).normal((4,), draw=256)
