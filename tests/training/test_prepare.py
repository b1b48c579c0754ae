"""Preparing a data set: what goes in is kept or accounted for, and a killed run ends in the same bytes."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from tests.training.sets import picture, pictures, prepared

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.training.data import prepare as module
from aquatint.training.data.examine import Settings, split_of
from aquatint.training.data.phash import Alike, phash
from aquatint.training.data.prepare import prepare
from aquatint.training.data.prepared import Prepared
from aquatint.training.data.sources import Columns, items


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def captions(folder: Path, split: str = "train") -> list[str]:
    data = Prepared(folder, split)
    return [data.read(number).caption for number in range(len(data))]


def jpeg(number: int, **options: int) -> bytes:
    out = io.BytesIO()
    picture(number).save(out, "jpeg", **options)
    return out.getvalue()


def tar(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_what_is_read_is_kept_or_dropped_with_a_reason(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in", 6)
    (source / "broken.jpg").write_bytes(jpeg(9)[:200])
    (source / "none.png").write_bytes(b"no picture")
    (source / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(50))
    (source / "twin.jpg").write_bytes((source / "002.jpg").read_bytes())
    (source / "twin.txt").write_text("two again")
    picture(3).resize((48, 36)).save(source / "wee.png")
    (source / "wee.txt").write_text("three again")
    picture(7, (400, 20)).save(source / "long.png")
    (source / "long.txt").write_text("long")
    picture(8, (20, 20)).save(source / "tiny.png")
    (source / "tiny.txt").write_text("tiny")
    (source / "link.jpg").symlink_to("/etc/passwd")
    picture(5).save(source / "silent.png")
    (source / "secret.txt").symlink_to("/etc/passwd")
    picture(4).save(source / "secret.png")
    report = prepare([source], tmp_path / "out", Settings(missing="drop", min_side=20, max_ratio=4.0))
    assert report["dropped"] == {
        "duplicate": 1, "link": 1, "near duplicate": 1, "no caption": 1, "no sound picture": 3, "too long or wide": 1,
        "unreadable": 1,
    }  # fmt: skip
    assert report["read"] == report["kept"] + sum(report["dropped"].values()) == 16
    lines = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert {line["source"]: line["reason"] for line in lines}["secret.png"] == "unreadable"
    assert next(line for line in lines if line["source"] == "twin.jpg")["detail"] == "the bytes of 000000002"
    assert "root:" not in "".join(captions(tmp_path / "out"))


def test_sources_of_every_kind_say_the_same(tmp_path: Path) -> None:
    """A folder with text files, one with JSON, tables, img2dataset's files and tars, WebDataset in two tar formats."""
    made = {f"{number:09}": (jpeg(number), f"picture {number}") for number in range(4)}
    expected = [caption for _, caption in made.values()]
    kinds = ("txt", "json", "nested", "jsonl", "csv", "tar", "parquet")
    for kind in kinds:
        (tmp_path / kind / "00000").mkdir(parents=True)
    for key, (data, caption) in made.items():
        for kind in ("txt", "json", "jsonl", "csv"):
            (tmp_path / kind / f"{key}.jpg").write_bytes(data)
        (tmp_path / "nested" / "00000" / f"{key}.jpg").write_bytes(data)
        (tmp_path / "nested" / "00000" / f"{key}.txt").write_text(caption)
        (tmp_path / "txt" / f"{key}.txt").write_text(caption)
        (tmp_path / "json" / f"{key}.json").write_text(json.dumps({"caption": caption, "url": "https://x"}))
    rows = [{"file_name": f"{key}.jpg", "text": caption} for key, (_, caption) in made.items()]
    (tmp_path / "jsonl" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = "".join(f"{row['file_name']},{row['text']}\n" for row in rows)
    (tmp_path / "csv" / "metadata.csv").write_text("file_name,text\n" + table)
    members = {}
    for key, (data, caption) in made.items():
        facts = json.dumps({"caption": caption, "width": 64}).encode()
        members |= {f"{key}.jpg": data, f"{key}.txt": caption.encode(), f"{key}.json": facts}
    tar(tmp_path / "tar" / "00000.tar", members)
    (tmp_path / "tar" / "00000.parquet").write_bytes(b"img2dataset's account, which is left alone")
    long = {"x" * 150 + name: data for name, data in members.items()}
    tar(tmp_path / "gnu.tar", long, tarfile.GNU_FORMAT)
    tar(tmp_path / "pax.tar", long)
    parquet(tmp_path / "parquet" / "a.parquet", made)
    for source in (*(tmp_path / kind for kind in kinds), tmp_path / "gnu.tar", tmp_path / "pax.tar"):
        out = tmp_path / f"out-{source.name}"
        assert prepare([source], out)["kept"] == 4, source
        assert captions(out) == expected
        assert [Prepared(out).read(number).picture for number in range(4)] == [data for data, _ in made.values()]
    assert Prepared(tmp_path / "out-json").read(0).facts["url"] == "https://x"


def parquet(path: Path, made: dict[str, tuple[bytes, str]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"image": [data for data, _ in made.values()], "caption": [caption for _, caption in made.values()]}
    parquet.write_table(pyarrow.table(columns | {"key": list(made)}), path)


def test_other_column_names_and_rows_without_a_picture(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"jpg": {"bytes": jpeg(1), "path": None}, "TEXT": "one"}, {"jpg": None, "TEXT": "none"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    report = prepare([tmp_path / "a.parquet"], tmp_path / "out", Settings(columns=Columns("jpg", "TEXT")))
    assert (report["kept"], report["dropped"]) == (1, {"no picture": 1})
    with pytest.raises(UserError, match=r"has the columns jpg, TEXT"):
        prepare([tmp_path / "a.parquet"], tmp_path / "out2")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(UserError, match="1 broken table"):
        prepare([tmp_path / "b.parquet"], tmp_path / "out3")


def test_broken_archives_keep_what_stood_before_and_are_accounted_for(tmp_path: Path) -> None:
    members = {f"{n}.{e}": d for n in range(3) for e, d in (("jpg", jpeg(n)), ("txt", b"x%d" % n))}
    whole = tar(tmp_path / "a.tar", members | {"odd.txt": b"words only"}).read_bytes()
    assert prepare([tmp_path / "a.tar"], tmp_path / "out")["dropped"] == {"no picture": 1}
    for cut in range(0, len(whole) - 10_240, 997):
        (tmp_path / "a.tar").write_bytes(whole[:cut])
        names = [item.name for item in items(tmp_path / "a.tar")]
        assert names[-1] == "a.tar"
    (tmp_path / "a.tar").write_bytes(whole[:4000])
    report = prepare([tmp_path / "a.tar"], tmp_path / "cut")
    assert (report["kept"], report["dropped"]) == (1, {"broken archive": 1})


def test_alike_is_found_by_bands_as_by_comparing_all() -> None:
    from aquatint.base.noise import Noise

    words = Noise([1]).integers((600, 2), 2**31)[0].tolist()
    hashes = [(high << 33 | low << 2 | 1) & 2**64 - 1 for high, low in words[:300]]
    hashes += [value ^ sum(1 << (bit * 7 % 64) for bit in range(index % 7)) for index, value in enumerate(hashes)]
    for most in (0, 3, 5):
        alike, seen = Alike(most), list[int]()
        for value in hashes:
            slow = min((n for n, other in enumerate(seen) if (value ^ other).bit_count() <= most), default=None)
            assert alike.find(value) == slow
            alike.add(value, len(seen))
            seen.append(value)


def test_the_hash_survives_size_and_compression_and_tells_others_apart() -> None:
    whole = [phash(picture(number, (256, 192))) for number in range(30)]
    small = [picture(number, (256, 192)).resize((131, 97)).convert("RGB") for number in range(30)]
    for image in small:
        image.save(out := io.BytesIO(), "jpeg", quality=75)
        image.paste(Image.open(out))
    apart = [(phash(image) ^ value).bit_count() for image, value in zip(small, whole, strict=True)]
    assert sum(bits <= 4 for bits in apart) >= 27
    apart = [(a ^ b).bit_count() for i, a in enumerate(whole) for b in whole[:i]]
    assert min(apart) > 4
    assert phash(Image.new("RGB", (64, 64), "red")) == phash(Image.new("RGB", (64, 64), "blue")) == 0


def test_plain_pictures_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "in" / f"{colour}.png")
        (tmp_path / "in" / f"{colour}.txt").write_text(colour)
    assert prepare([tmp_path / "in"], tmp_path / "out")["kept"] == 2


def test_missing_captions_stop_it_unless_told(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in", 3)
    (source / "001.txt").unlink()
    with pytest.raises(UserError, match=r'"001.jpg" has no caption'):
        prepare([source], tmp_path / "out")
    assert prepare([source], tmp_path / "out", Settings(missing="empty"))["kept"] == 3  # goes on, decided anew
    assert captions(tmp_path / "out")[1] == ""


def test_a_split_is_a_function_of_the_name(tmp_path: Path) -> None:
    folder = prepared(tmp_path, 30, validation=0.3, near=-1)
    held = {Prepared(folder, "validation").read(n).facts["source"] for n in range(len(Prepared(folder, "validation")))}
    assert held == {f"{n:03}.jpg" for n in range(30) if split_of(f"{n:03}.jpg", Settings(validation=0.3))}
    assert 3 < len(held) < 16
    assert len(Prepared(folder)) == 30 - len(held)


def test_the_manifest_says_where_every_picture_lies(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = prepared(tmp_path, 7, shard_count=3)
    rows = parquet.read_table(folder / "manifest.parquet").to_pylist()
    assert [row["shard"] for row in rows] == [f"train-{n // 3:05}.tar" for n in range(7)]
    for number, row in enumerate(rows):
        with (folder / row["shard"]).open("rb") as shard:
            shard.seek(row["offset"])
            assert shard.read(row["size"]) == (tmp_path / "pictures" / row["source"]).read_bytes()
        sample = Prepared(folder).read(number)
        assert (row["key"], row["sha256"], row["caption"]) == (sample.key, sample.sha256, sample.caption)
    assert files.verify(folder)


class Killed(BaseException):
    """Nobody catches it."""


def test_a_killed_run_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at every write, one after another, with other numbers of workers in between."""
    source = pictures(tmp_path / "in", 12)
    (source / "011.jpg").write_bytes(b"broken")
    (source / "010.jpg").write_bytes((source / "000.jpg").read_bytes())
    settings = Settings(shard_count=3, validation=0.3)
    prepare([source], tmp_path / "whole", settings)
    wanted, real, writes = content(tmp_path / "whole"), files.os.replace, [0, 0]  # writes of this run, kills

    def dying(old: Path, new: Path) -> None:
        writes[0] += 1
        if writes[0] == 1 + writes[1] % 8:
            raise Killed
        real(old, new)

    monkeypatch.setattr(files.os, "replace", dying)
    while not (tmp_path / "out" / files.MANIFEST).is_file() or (tmp_path / "out" / module.PARTS).exists():
        writes[0] = 0
        try:
            prepare([source], tmp_path / "out", settings, workers=writes[1] % 3)
        except Killed:
            writes[1] += 1
        assert writes[1] < 60
    assert writes[1] >= 4
    assert content(tmp_path / "out") == wanted


def test_a_damaged_shard_is_made_again_and_other_sources_are_refused(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in", 9)
    (source / "008.txt").unlink()
    settings = Settings(shard_count=2)
    with pytest.raises(UserError, match="no caption"):
        prepare([source], tmp_path / "out", settings)
    shard = tmp_path / "out" / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    (source / "008.txt").write_text("eight")
    with pytest.raises(UserError, match="other settings"):
        prepare([source], tmp_path / "out", Settings(shard_count=3))
    prepare([source], tmp_path / "out", settings)
    prepare([source], tmp_path / "whole", settings)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    with pytest.raises(UserError, match="exists already"):
        prepare([source], tmp_path / "out", settings)


def test_sources_that_changed_are_noticed(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in", 6)
    (source / "005.txt").unlink()
    with pytest.raises(UserError, match="no caption"):
        prepare([source], tmp_path / "out", Settings(shard_count=2))
    (source / "000.jpg").rename(source / "000a.jpg")
    with pytest.raises(UserError, match="not what they were"):
        prepare([source], tmp_path / "out", Settings(shard_count=2))


def test_what_cannot_be_prepared_is_said(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in", 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").touch()
    for sources, out, told in (
        ([], "out", "No sources"),
        ([tmp_path / "gone"], "out1", "not there"),
        ([source / "000.jpg"], "out2", "no data set"),
        ([source], "full", 'holds "thing"'),
        ([tmp_path / "full"], "out3", "Not one picture"),
    ):
        with pytest.raises(UserError, match=told):
            prepare(sources, tmp_path / out)
    for bad in ({"near": 13}, {"max_ratio": 0.5}, {"validation": 2}, {"shard_bytes": 0}):
        with pytest.raises(UserError):
            Settings(**bad)  # type: ignore[arg-type]
