"""One picture among others: the same bits whatever its company, its caller and the door (reliability.md N1-N4, N8).

The needle is one request. It is painted at every position of batches of every size, each time beside other seeds
drawn anew, by every sampler, in float32 and bfloat16; one hash must come out, and another seed or one flipped bit of
one weight must give another, or the check is blind. A sample runs by default, the whole of it (2,940 trials) with
-m slow.
"""

import concurrent.futures
import functools
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fixtures import tiny_bundle

import aquatint
from aquatint.base.noise import Noise
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.generate import generate
from aquatint.pipelines.request import Request

NEEDLE = 2**63 + 977
SIZES = (1, 2, 3, 5, 8, 16)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
POSITIONS = [(size, place) for size in SIZES for place in range(size)]
WISH = Request("a (red:1.2) apple", "two cats", seeds=(NEEDLE,), steps=3, guidance=4.0)


@functools.cache
def bundle_in(name: str) -> Bundle:
    """The tiny model with its nets in a dtype."""
    dtype, bundle = DTYPES[name], tiny_bundle()
    for net in (bundle.unet, bundle.autoencoder, bundle.text):
        net.to(dtype)
    return replace(bundle, dtype=dtype)


def hashes(bundle: Bundle, request: Request) -> list[str]:
    """sha256 of the pixels of a request's pictures."""
    done = [progress.picture for progress in generate(bundle, request) if progress.picture]
    return [hashlib.sha256(picture.image.tobytes()).hexdigest() for picture in done]


def in_company(bundle: Bundle, request: Request, positions: list[tuple[int, int]]) -> tuple[set[str], set[str]]:
    """The needle's hashes and the others', over batches (size, place of the needle) with companions by chance."""
    chance, needles, others = random.Random(f"{request.sampler} {bundle.dtype}"), set(), set()
    for size, place in positions:
        seeds = [chance.randrange(2**64) for _ in range(size)]
        seeds[place] = NEEDLE
        found = hashes(bundle, replace(request, seeds=tuple(seeds)))
        needles.add(found.pop(place))
        others.update(found)
    return needles, others


@functools.cache
def flipped(name: str) -> Bundle:
    """The same with one bit of one weight of the U-Net turned over: the sign of its largest last one."""
    twin = bundle_in.__wrapped__(name)
    with torch.no_grad():
        weight = twin.unet.leave.weight.view(-1)
        weight[weight.abs().argmax()].neg_()
    return twin


def check(dtype: str, sampler: str, positions: list[tuple[int, int]]) -> None:
    """One hash for the needle, and neither the seed after it, nor a flipped bit, nor any companion has it."""
    bundle, request = bundle_in(dtype), replace(WISH, sampler=sampler)
    needles, others = in_company(bundle, request, positions)
    (needle,) = needles
    assert needle not in others
    assert hashes(bundle, replace(request, seeds=(NEEDLE + 1,))) != [needle]
    assert hashes(flipped(dtype), request) != [needle]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_needle_in_small_company(sampler: str, dtype: str) -> None:
    """Alone, and in the middle of three."""
    check(dtype, sampler, [(1, 0), (3, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_needle_everywhere(sampler: str, dtype: str) -> None:
    """Every position of batches of 1, 2, 3, 5, 8 and 16: 35 trials, 2,940 over all samplers and dtypes."""
    check(dtype, sampler, POSITIONS)


def test_company_does_matter_where_it_is_meant_to() -> None:
    """The hash sees a difference of one step: the needle beside itself with four."""
    bundle = bundle_in("float32")
    assert hashes(bundle, WISH) != hashes(bundle, replace(WISH, steps=4))


def test_other_work_at_the_same_time(tmp_path: Path) -> None:
    """Requests on one bundle from several threads, steps interleaved as the system likes."""
    bundle = bundle_in("float32")
    wishes = [replace(WISH, sampler=sampler, seeds=(NEEDLE, 5)) for sampler in ("plms", "dpmpp_2m_sde", "unipc", "lms")]
    alone = [hashes(bundle, wish) for wish in wishes]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda wish: hashes(bundle, wish), wishes * 3))
    assert together == alone * 3


def painted(threads: int = 1) -> str:
    """The needle's hash, from wherever this is called."""
    torch.set_num_threads(threads)
    return hashes(bundle_in("float32"), WISH)[0]


def _to(end: "multiprocessing.connection.Connection") -> None:
    end.send(painted())


def test_the_caller_does_not_matter() -> None:
    """The main thread with 1, 2 and 4 threads of torch's, another thread, a forked and a spawned process."""
    before = torch.get_num_threads()
    seen = {painted(threads) for threads in (2, 4, 1)}
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(painted()))
    thread.start()
    thread.join()
    for kind in ("fork", "spawn"):
        context = multiprocessing.get_context(kind)
        ours, theirs = context.Pipe()
        process = context.Process(target=_to, args=(theirs,))
        process.start()
        assert ours.poll(120), f"the {kind}ed process says nothing"
        found.append(ours.recv())
        process.join()
    torch.set_num_threads(before)
    assert len(seen | set(found)) == 1


def test_chance_that_lies_about_does_not_matter() -> None:
    """N8: global generators seeded otherwise, and torch's own random functions poisoned."""
    expected, poisoned = painted(), []

    def poison(*args: object, **options: object) -> None:
        poisoned.append(args)
        raise AssertionError("noise that is not keyed")

    bundle = bundle_in("float32")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("randn", "rand", "randint", "randn_like", "rand_like", "normal", "bernoulli", "multinomial"):
            patch.setattr(torch, name, poison)
        for seed in (0, 1):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            assert hashes(bundle, WISH) == [expected]
        with pytest.raises(AssertionError):
            torch.randn(2)
    assert len(poisoned) == 1  # the poison works, and nothing else took it


def test_every_door_paints_it(tmp_path: Path) -> None:
    """N3: the Python face, the command line in a new process under other thread settings, and `again`: one file."""
    picture = aquatint.load(threads=1).paint("a red heart at sunset", seed=NEEDLE, steps=3)
    expected = hashlib.sha256(picture.encode("png")).hexdigest()
    file = tmp_path / "needle.png"
    words = ["generate", "a red heart at sunset", "--seed", str(NEEDLE), "--steps", "3", "--threads", "1"]
    for number, threads in enumerate(("1", "2", "4")):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        out = tmp_path / f"{number}.png"
        command = [sys.executable, "-m", "aquatint", *words, "--out", str(out)]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
        assert hashlib.sha256(out.read_bytes()).hexdigest() == expected
    again = [sys.executable, "-m", "aquatint", "again", str(tmp_path / "0.png"), "--threads", "1", "--out", str(file)]
    subprocess.run(again, check=True, capture_output=True, timeout=300)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == expected


@pytest.mark.slow
def test_two_million_seeds_give_two_million_noises() -> None:
    """N4: seeds by chance, each with its neighbours at 1, 2^32 and 2^63; and the whole is normal to four sigmas."""
    chance = random.Random(4)
    base = [chance.randrange(2**64) for _ in range(510_000)]
    seeds = list(dict.fromkeys(seed ^ flip for seed in base for flip in (0, 1, 1 << 32, 1 << 63)))[:2_000_000]
    assert len(seeds) == 2_000_000
    z = torch.cat([Noise(seeds[at : at + 100_000]).normal((4,)) for at in range(0, len(seeds), 100_000)])
    rows = z.numpy().view(np.dtype((np.void, z.shape[1] * 4))).ravel()
    assert len(np.unique(rows)) == len(seeds)
    deviates, n = z.double().flatten(), z.numel()
    assert abs(deviates.mean()) < 4 / n**0.5
    assert abs(deviates.var() - 1) < 4 * (2 / n) ** 0.5
    ranks, places = torch.special.ndtr(deviates.sort().values), torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((ranks - places[:-1]).max(), (places[1:] - ranks).max())
    assert distance * n**0.5 < 2.23  # Kolmogorov and Smirnov, one chance in ten thousand
