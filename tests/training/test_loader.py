"""The loader: one sequence for any number of processes and workers (D1), exactly once (D2), nothing lost (D3)."""

import json
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.sets import prepared

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.training.data.buckets import Shape, shapes
from aquatint.training.data.loader import Loader
from aquatint.training.data.prepared import Prepared
from aquatint.training.data.shards import Damaged
from aquatint.training.data.wording import Wording
from aquatint.training.recipe import Batch, Moment, Share

SQUARE = (Shape(64, 64),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("set"), 11, ((64, 48), (48, 64), (96, 40)), shard_count=4)


def steps(loader: Loader, world: int, numbers: range) -> list[list[Batch]]:
    return [[loader.batch(Moment(step, 0.0), Share(rank, world)) for rank in range(world)] for step in numbers]


def test_the_sequence_is_one_for_any_processes_workers_and_batch(folder: Path, tmp_path: Path) -> None:
    """D1: files of sample ids, byte for byte; 32 samples, almost three epochs."""
    written: dict[str, bytes] = {}
    for world in (1, 2, 4):
        for workers in (0, 1, 2, 4):
            for batch in (1, 4):
                whole = batch * world if batch == 1 else batch  # a batch of one for each process
                with Loader(Prepared(folder), SQUARE, batch=whole, seed=5, workers=workers) as loader:
                    found = steps(loader, world, range(32 // whole))
                names = [name for step in found for part in step for name in part["sha256"]]
                path = tmp_path / f"{world}-{workers}-{batch}"
                path.write_text("\n".join(names))
                written[path.name] = path.read_bytes()
    assert len(written) == 24
    assert len(set(written.values())) == 1
    with Loader(Prepared(folder), SQUARE, batch=4, seed=6) as loader:
        other = [name for step in steps(loader, 1, range(8)) for name in step[0]["sha256"]]
    assert "\n".join(other).encode() not in written.values()


def test_batches_are_the_same_bits(folder: Path) -> None:
    """Pixels, cuts and words, with buckets, flips, crops and shuffled tags."""
    how = {"batch": 4, "seed": 3, "flip": True, "crop": True, "wording": Wording(shuffle=True, silent=0.3)}
    among = shapes(64 * 64, shortest=32, longest=128, step=32)
    with Loader(Prepared(folder), among, **how) as loader:  # type: ignore[arg-type]
        whole = [step[0] for step in steps(loader, 1, range(9))]
    assert len({batch["pixels"].shape for batch in whole}) > 1
    with Loader(Prepared(folder), among, workers=3, **how) as loader:  # type: ignore[arg-type]
        for step in (8, 2, 3, 4, 0):
            parts = [loader.batch(Moment(step, 0.0), Share(rank, 2)) for rank in (0, 1)]
            assert torch.equal(torch.cat([part["pixels"] for part in parts]), whole[step]["pixels"])
            assert torch.equal(torch.cat([part["cuts"] for part in parts]), whole[step]["cuts"])
            assert parts[0]["captions"] + parts[1]["captions"] == whole[step]["captions"]
    assert any(not text for batch in whole for text in batch["captions"])


def test_every_sample_exactly_once_through_twenty_kills(folder: Path) -> None:
    """D2: a run that is killed loses what it did since its last checkpoint, and goes on with another world size."""
    data, epochs, size = Prepared(folder), 16, 4
    total = epochs * len(data) // size
    kept: list[str] = []
    done, draws = 0, iter(Noise([1]).integers((200,), 1000)[0].tolist())
    kills = 0
    while done < total:
        world, workers, life = (1, 2, 4)[next(draws) % 3], next(draws) % 3, 1 + next(draws) % 4
        since: list[str] = []  # shown since the last checkpoint
        with Loader(data, SQUARE, batch=size, seed=2, workers=workers) as loader:
            for step in islice(range(done, total), life):
                parts = steps(loader, world, range(step, step + 1))[0]
                since += [name for part in parts for name in part["sha256"]]
        saved = life - 1 if kills < 20 else life  # the last step before a kill was not saved
        kept += since[: saved * size]
        done = min(total, done + saved)
        kills += kills < 20
    assert kills == 20
    everyone = {data.read(number).sha256 for number in range(len(data))}
    for epoch in range(epochs):
        assert Counter(kept[epoch * len(data) : (epoch + 1) * len(data)]) == dict.fromkeys(everyone, 1)


def spoil(folder: Path, number: int) -> None:
    row = np.load(folder / "index.npy")[number]
    path = folder / f"train-{int(row['shard']):05}.tar"
    data = bytearray(path.read_bytes())
    data[int(row["offset"]) + 600] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_lost_in_silence(tmp_path: Path, workers: int) -> None:
    """D3: indexed = read + skipped + failed, and what is damaged is named."""
    folder = prepared(tmp_path, 8, shard_count=3)
    spoil(folder, 4)
    with Loader(Prepared(folder), SQUARE, batch=4, workers=workers) as loader:
        with pytest.raises(Damaged, match=r'"train-00001.tar" is damaged at byte [\d,]+, sample "000000004"'):
            steps(loader, 1, range(2))
        counts = loader.counts
    assert counts["failed"] == 1
    assert counts["indexed"] == counts["read"] + counts["skipped"] + counts["failed"]
    told: list[Damaged] = []
    with Loader(Prepared(folder), SQUARE, batch=4, workers=workers, skip=True, tell=told.append) as loader:
        sizes = [len(part[0]["numbers"]) for part in steps(loader, 1, range(4))]
        assert loader.counts == {"indexed": 16, "read": 14, "skipped": 2}
    assert sorted(sizes) == [3, 3, 4, 4]
    assert {damage.key for damage in told} == {"000000004"}
    with Loader(Prepared(folder), SQUARE, batch=1, skip=True) as loader, pytest.raises(UserError, match="Every sample"):
        steps(loader, 1, range(8))


def test_batches_are_shared_evenly_or_refused(folder: Path) -> None:
    with Loader(Prepared(folder), SQUARE, batch=4) as loader, pytest.raises(UserError, match="multiple"):
        loader.batch(Moment(0, 0.0), Share(0, 3))


@pytest.mark.slow
def test_a_large_set_takes_little_memory(tmp_path: Path) -> None:
    """D5: 50 GB of shards, most of it holes in the disk, read by four workers in buckets: at most 300 MiB more."""
    script = Path(__file__).with_name("large_set.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=1800, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["bytes"] > 50e9
    assert said["read"] >= 400
    assert said["grown"] <= 300 * 2**20, said
