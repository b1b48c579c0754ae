"""The end of a preparation: the parts become the index, the manifest, the list of what was dropped, and the report."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aquatint.base import config, files
from aquatint.training.data.examine import Settings
from aquatint.training.data.fetched import Note
from aquatint.training.data.prepared import INDEX, REPORT
from aquatint.training.data.shards import BLOCK, ENDINGS, ROW, SPLITS, key_of, shard_of

MANIFEST, DROPPED = "manifest.parquet", "dropped.jsonl"
GROUP = 65_536  # rows of a row group


def finish(
    out: Path,
    parts: Path,
    heads: Sequence[dict[str, Any]],
    settings: Settings,
    sources: Sequence[str],
    fetched: Mapping[str, Note],
) -> dict[str, Any]:
    """Write what a prepared folder has beside its shards; the manifest of files comes last.

    fetched   what is known of each file that came from a server, by its name here; the report says it
    """
    entries = {head["shard"]: files.Entry(head["size"], head["sha256"]) for head in heads if head["shard"]}
    dropped: Counter[str] = Counter()
    with files.writing(out / DROPPED) as out_dropped:
        for line in _lines(parts):
            if "reason" in line:
                dropped[line["reason"]] += 1
                out_dropped.write(json.dumps(line).encode() + b"\n")
    entries[DROPPED] = files.Entry(out_dropped.size, out_dropped.sha256)
    splits = _index(out, parts, entries)
    if has_pyarrow():
        _manifest(out, parts, entries)
    kept = sum(splits)
    report = {
        "read": kept + sum(dropped.values()),
        "kept": kept,
        "dropped": dict(sorted(dropped.items())),
        "splits": dict(zip(SPLITS, splits, strict=True)),
        "shards": sum(name.endswith(".tar") for name in entries),
        "bytes": sum(entry.size for name, entry in entries.items() if name.endswith(".tar")),
        "sources": list(sources),
        "settings": config.to_data(settings),
    }
    if fetched:
        report["fetched"] = [{"file": name} | config.to_data(note) for name, note in fetched.items()]
    text = json.dumps(report, indent=1, ensure_ascii=False)
    entries[REPORT] = files.Entry(len(text.encode()), files.write(out / REPORT, text))
    told = {name: config.to_data(entry) for name, entry in sorted(entries.items())}
    files.write(out / files.MANIFEST, config.to_json(told, indent=1))
    return report


def has_pyarrow() -> bool:
    """Whether the Parquet manifest can be written here."""
    try:
        import pyarrow.parquet
    except ImportError:
        return False
    return bool(pyarrow.parquet)


def _lines(parts: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(parts.glob("*.jsonl")):
        with files.reading(path) as (file, _), open(file.fileno(), "rb", closefd=False) as lines:
            next(lines)
            yield from map(json.loads, lines)


def _kept(parts: Path) -> Iterator[tuple[np.void, dict[str, Any]]]:
    for line in _lines(parts):
        if "row" in line:
            yield np.frombuffer(bytes.fromhex(line["row"]), ROW)[0], line


def _index(out: Path, parts: Path, entries: dict[str, files.Entry]) -> list[int]:
    """Write the index; returns how many samples each split has."""
    splits = [0] * len(SPLITS)
    for row, _ in _kept(parts):
        splits[int(row["split"])] += 1
    with files.writing(out / INDEX) as index:
        head = {"descr": np.lib.format.dtype_to_descr(ROW), "fortran_order": False, "shape": (sum(splits),)}
        np.lib.format.write_array_header_1_0(index, head)
        for row, _ in _kept(parts):
            index.write(row.tobytes())
    entries[INDEX] = files.Entry(index.size, index.sha256)
    return splits


def _manifest(out: Path, parts: Path, entries: dict[str, files.Entry]) -> None:
    """Write the Parquet manifest, a row group at a time."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(
        [(name, pyarrow.string()) for name in ("key", "shard")]
        + [(name, pyarrow.int64()) for name in ("offset", "size")]
        + [(name, pyarrow.int32()) for name in ("width", "height")]
        + [(name, pyarrow.string()) for name in ("caption", "sha256", "phash", "split", "format", "source")]
    )
    with files.writing(out / MANIFEST) as file:
        sink = _Sink(file)
        with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
            group: list[dict[str, Any]] = []
            for number, (row, line) in enumerate(_kept(parts)):
                group.append(_told(number, row, line))
                if len(group) == GROUP:
                    writer.write_table(pyarrow.Table.from_pylist(group, schema), row_group_size=GROUP)
                    group = []
            if group:
                writer.write_table(pyarrow.Table.from_pylist(group, schema), row_group_size=GROUP)
    entries[MANIFEST] = files.Entry(file.size, file.sha256)


def _told(number: int, row: np.void, line: dict[str, Any]) -> dict[str, Any]:
    """A row of the manifest; `offset` and `size` are those of the picture's own bytes."""
    return {
        "key": key_of(number),
        "shard": shard_of(row),
        "offset": int(row["offset"]) + BLOCK,
        "size": int(row["picture"]),
        "width": int(row["width"]),
        "height": int(row["height"]),
        "caption": line["caption"],
        "sha256": row["sha256"].tobytes().hex(),
        "phash": f"{int(row['phash']):016x}",
        "split": SPLITS[int(row["split"])],
        "format": ENDINGS[line["format"]],
        "source": line["source"],
    }


class _Sink:
    """An `Out` as the file that pyarrow wants."""

    closed = False

    def __init__(self, out: files.Out) -> None:
        self._out = out

    def write(self, data: Any) -> int:
        return self._out.write(memoryview(data))

    def tell(self) -> int:
        return self._out.size

    def flush(self) -> None: ...

    def close(self) -> None: ...
