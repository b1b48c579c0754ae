"""Shards: whatever bit of one is flipped, whoever reads that sample is told (D4)."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from tests.training.sets import numbered, prepared

from aquatint.base.errors import UserError
from aquatint.training.data.prepared import INDEX, REPORT, Prepared
from aquatint.training.data.shards import ROW, Damaged


def test_members_are_what_was_written_and_tar_reads_them_too(tmp_path: Path) -> None:
    folder = prepared(tmp_path, 5)
    data = Prepared(folder)
    with tarfile.open(folder / "train-00000.tar") as archive:
        names = archive.getnames()
        assert names[:3] == ["000000000.jpg", "000000000.txt", "000000000.json"]
        assert len(names) == 15
        for number in range(len(data)):
            sample = data.read(number)
            assert sample.picture == (tmp_path / "pictures" / f"{number:03}.jpg").read_bytes()
            assert sample.caption == f"picture {number}, red, green"
            assert sample.facts["source"] == f"{number:03}.jpg"
            member = archive.extractfile(f"{sample.key}.jpg")
            assert member is not None
            assert member.read() == sample.picture
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in archive.getmembers()} == {(0, 0, 0, "", 0o644)}


def test_every_flipped_byte_of_a_shard_is_noticed(tmp_path: Path) -> None:
    """65,536 of 65,536: contents, headers, padding and the archive's end."""
    folder = numbered(tmp_path / "set", 14, 14, payload=2048)
    size = (folder / "train-00000.tar").stat().st_size
    assert size == 65_536
    whole = np.load(folder / INDEX)
    assert int(whole["offset"][-1]) + int(whole["length"][-1]) == size
    assert (np.diff(whole["offset"]) == whole["length"][:-1]).all()  # records lie without gaps
    data, noticed = Prepared(folder), 0
    with (folder / "train-00000.tar").open("r+b", buffering=0) as shard:
        for number, row in enumerate(whole):
            for place in range(int(row["offset"]), int(row["offset"]) + int(row["length"])):
                shard.seek(place)
                (byte,) = shard.read(1)
                shard.seek(place)
                shard.write(bytes([byte ^ 1 << place % 8]))
                try:
                    data.read(number)
                except Damaged as damage:
                    noticed += damage.offset == int(row["offset"]) and damage.shard == "train-00000.tar"
                shard.seek(place)
                shard.write(bytes([byte]))
    assert noticed == size
    assert [data.read(number).caption for number in range(14)] == [f"sample {number}" for number in range(14)]


def test_every_flipped_bit_of_a_row_is_noticed(tmp_path: Path) -> None:
    folder = numbered(tmp_path / "set", 3, 2)
    rows = np.load(folder / INDEX)
    data = Prepared(folder)
    for place in range(ROW.itemsize):
        for bit in range(8):
            spoiled = bytearray(rows.tobytes())
            spoiled[ROW.itemsize + place] ^= 1 << bit
            data.rows = np.frombuffer(bytes(spoiled), ROW)
            data.read(0)
            with pytest.raises(Damaged):
                data.read(1)


def test_short_and_missing_shards_are_named(tmp_path: Path) -> None:
    folder = numbered(tmp_path / "set", 4, 2)
    path = folder / "train-00001.tar"
    path.write_bytes(path.read_bytes()[:-1])
    data = Prepared(folder)
    assert [(d.shard, d.key) for d in data.damaged()] == [("train-00001.tar", "000000003")]
    path.unlink()
    assert [d.key for d in data.damaged()] == ["000000002", "000000003"]


def test_what_is_no_prepared_folder_is_said(tmp_path: Path) -> None:
    folder = numbered(tmp_path / "set", 4, 2)
    with pytest.raises(UserError, match="split"):
        Prepared(folder, "test")
    with pytest.raises(UserError, match="Sample 4"):
        Prepared(folder).read(4)
    for bad in (b"", b"\x93NUMPY", (folder / INDEX).read_bytes()[:-1], b"x" * 1000):
        (folder / INDEX).write_bytes(bad)
        with pytest.raises(UserError, match="index"):
            Prepared(folder)
    np.save(folder / INDEX, np.zeros(4))
    with pytest.raises(UserError, match="another kind"):
        Prepared(folder)
    np.save(folder / INDEX, np.zeros(3, ROW))
    with pytest.raises(UserError, match="3 rows"):
        Prepared(folder)
    (folder / REPORT).write_text('{"splits": {"train": 3, "validation": 0}}')
    with pytest.raises(UserError, match="not what was written"):
        Prepared(folder)
    with pytest.raises(UserError, match="no prepared folder"):
        Prepared(tmp_path)
