"""From pictures as they lie about to shards, an index, a manifest and an account of what was left out.

Items are looked at by several threads and decided on in their order by one, so that what comes out is a function of
the sources and the settings. Whenever a shard is full it is written, and after it a part: a file that says what became
of each item up to there. A run that was killed finds its parts, checks their shards, and goes on behind the last; at
the end they become the index and the manifest, and go. Memory holds one shard and, to find what is there twice, about
150 bytes for each picture kept, or 310 with near = 4 (tracemalloc, 200,000 pictures).
"""

import hashlib
import json
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from aquatint.base import config, files
from aquatint.base.errors import UserError
from aquatint.training.data.addresses import Address
from aquatint.training.data.examine import Examined, Settings, examine, split_of
from aquatint.training.data.fetched import Limits, Note, fetch
from aquatint.training.data.phash import Alike
from aquatint.training.data.prepared import REPORT
from aquatint.training.data.shards import END, ROW, SPLITS, key_of, record, sealed, shard_name
from aquatint.training.data.sources import Item, items
from aquatint.training.data.tables import finish
from aquatint.training.state import locked

PARTS, FETCHED = "parts", "fetched"
Tell = Callable[[int, int], None]  # items looked at, items kept


def prepare(
    sources: Sequence[Path | Address],
    out: Path,
    settings: Settings | None = None,
    *,
    workers: int = 0,
    tell: Tell | None = None,
    limits: Limits | None = None,
    fetching: Tell | None = None,
) -> dict[str, Any]:
    """Prepare a data set in `out`, going on where a killed run was; returns its report.

    workers    threads that read and decode; 0 does it in this one. The result is the same.
    limits     what servers may take; fetching is told of a file's bytes that are here, and of how many it has

    Raises UserError for what cannot be a source, for a folder that holds something else, for sources that have changed
    since a run began, and where nothing is kept; for a missing caption if the settings say so.
    """
    settings = settings or Settings()
    if not sources:
        raise UserError("No sources.", "Folders, .tar or .parquet files.")
    above = (out.resolve(), *out.resolve().parents)
    if any(isinstance(source, Path) and source.resolve() in above for source in sources):
        raise UserError(f'"{out}" lies in what it is prepared from.', "A folder elsewhere.", "Name another --out.")
    files.make_folder(out)
    with locked(out):
        if (out / files.MANIFEST).is_file():
            if not (out / PARTS).is_dir():
                raise files.Taken(out)
            shutil.rmtree(out / PARTS)  # all was written; only the clearing away was left
            return dict(files.read_json(out / REPORT, limit=2**24))
        _begin(out, sources, settings)
        work = Work(out, settings)
        work.resume()
        local, fetched = at_hand(sources, out / PARTS / FETCHED, limits, fetching)
        todo = sequence(local, settings)
        for split, name, item in islice(todo, work.taken):
            work.pass_over(split, name, item)
        work.check_same()
        for done, item in looked_at(todo, settings, workers):
            work.take(done, item)
            if tell is not None:
                tell(work.taken, work.number)
        work.close()
        if not work.number:
            dropped = ", ".join(f"{count:,} {reason}" for reason, count in work.dropped.most_common())
            raise UserError(f"Not one picture was kept ({dropped or 'there was none'}).", "Pictures with captions.")
        names = [source.name for source in local]
        report = finish(out, out / PARTS, work.parts, settings, names, fetched)
        shutil.rmtree(out / PARTS)
        return report


def at_hand(
    sources: Sequence[Path | Address], folder: Path, limits: Limits | None, tell: Tell | None
) -> tuple[list[Path], dict[str, Note]]:
    """The sources as paths, those on servers fetched into a folder; and what is known of these, by their names."""
    local, fetched = [], {}
    for source in sources:
        if isinstance(source, Address):
            files.make_folder(folder)
            path, fetched[source.name] = fetch(source, folder, limits, tell)
            local.append(path)
        else:
            local.append(source)
    return local, fetched


def sequence(sources: Sequence[Path], settings: Settings) -> Iterator[tuple[int, str, Item]]:
    """Every item with its split and its name: those for training first, each split in the sources' order."""
    for split in range(2 if settings.validation else 1):
        for index, source in enumerate(sources):
            for item in items(source, settings.columns):
                name = item.name if len(sources) == 1 else f"{index}/{item.name}"
                name = name.encode("utf-8", "backslashreplace").decode()
                if split_of(name, settings) == split:
                    yield split, name, item


def looked_at(
    todo: Iterator[tuple[int, str, Item]], settings: Settings, workers: int
) -> Iterator[tuple[Examined, Item]]:
    """The items examined, in their order, a few ahead of who asks."""
    if workers <= 0:
        for split, name, item in todo:
            yield examine(item, name, split, settings), item
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[Future[Examined], Item]] = deque()
        for split, name, item in todo:
            ahead.append((pool.submit(examine, item, name, split, settings), item))
            if len(ahead) > 2 * workers:
                future, first = ahead.popleft()
                yield future.result(), first
        while ahead:
            future, first = ahead.popleft()
            yield future.result(), first


def _begin(out: Path, sources: Sequence[Path | Address], settings: Settings) -> None:
    """The folder taken for these sources and settings, or found to have been."""
    named = [source.name if isinstance(source, Address) else str(source.absolute()) for source in sources]
    told = {"sources": named, "settings": config.to_data(settings)}
    path = out / PARTS / "settings.json"
    if not path.is_file():
        if strange := [entry.name for entry in out.iterdir() if entry.name not in ("run.lock", PARTS)]:
            raise UserError(f'"{out}" holds "{strange[0][:80]}".', "An empty folder, or none.", "Name another --out.")
        files.make_folder(out / PARTS)
        files.write(path, json.dumps(told))
        return
    before = files.read_json(path)
    if before["settings"].get("missing") == "fail":  # then none was missing so far, and it may be decided anew
        before["settings"]["missing"] = told["settings"]["missing"]
    if before != told:
        raise UserError(
            f'"{out}" is being prepared from other sources or with other settings.',
            "The same, to go on.",
            "Name another --out, or remove that folder.",
        )
    for folder in (out, out / PARTS, out / PARTS / FETCHED):
        for left in folder.glob(".aquatint-*.tmp"):
            left.unlink()


class Work:
    """Where a preparation stands: what was decided so far, and the shard that is being filled."""

    def __init__(self, out: Path, settings: Settings) -> None:
        self.out, self.settings = out, settings
        self.parts: list[dict[str, Any]] = []  # the heads of those that are written
        self.taken = self.number = 0  # items decided on, samples kept
        self.dropped: Counter[str] = Counter()
        self._names, self._promised = hashlib.sha256(), ""
        self._seen: dict[bytes, int] = {}
        self._alike = Alike(settings.near) if settings.near >= 0 else None
        self._clear()

    def take(self, found: Examined, item: Item) -> None:
        """Decide on one item."""
        found = self._judged(found)
        if not found.reason:
            try:
                written = record(
                    self.number, found.format, found.picture, found.caption, {**found.facts, **_own(found)}
                )
            except UserError as error:
                found = replace(found, reason="unreadable", detail=str(error))
        if found.reason:
            self.dropped[found.reason] += 1
            self._lines.append({"source": found.source, "reason": found.reason, "detail": found.detail[:500]})
        else:
            self._keep(found, written.data, written.row)
        self.pass_over(found.split, found.source, item)
        self.taken += 1

    def pass_over(self, split: int, name: str, item: Item) -> None:
        """Note that an item was met; what was decided before is not decided again."""
        self._names.update(json.dumps([split, name, item.size]).encode())

    def check_same(self) -> None:
        """UserError where the items that were passed over are not those that were decided on."""
        if self._promised and self._names.hexdigest() != self._promised:
            raise UserError(
                "The sources are not what they were when this preparation began.", "The same ones.", "Begin anew."
            )

    def close(self) -> None:
        """Write the last shard, and a part for what came after it."""
        if self._lines:
            self._write()

    def resume(self) -> None:
        """Take over the parts that are whole, with their shards."""
        for path in sorted((self.out / PARTS).glob("*.jsonl")):
            head, lines = read_part(path)
            shard = head["shard"]
            if len(self.parts) != head["number"] or (shard and not _is(self.out / shard, head)):
                path.unlink()
                continue
            self.parts.append(head)
            self.taken, self._promised = head["taken"], head["names"]
            for line in lines:
                if "row" in line:
                    row = np.frombuffer(bytes.fromhex(line["row"]), ROW)[0]
                    self._remember(row["sha256"].tobytes(), int(row["phash"]))
                else:
                    self.dropped[line["reason"]] += 1

    def _judged(self, found: Examined) -> Examined:
        """The same, refused if its like was kept before."""
        if found.reason:
            return found
        if (twin := self._seen.get(found.sha256)) is not None:
            return replace(found, reason="duplicate", detail=f"the bytes of {key_of(twin)}")
        if self._alike is not None and (twin := self._alike.find(found.phash)) is not None:
            return replace(found, reason="near duplicate", detail=f"looks like {key_of(twin)}")
        return found

    def _keep(self, found: Examined, data: bytes, row: np.void) -> None:
        full = (
            self._size + len(data) + len(END) > self.settings.shard_bytes
            or len(self._rows) >= self.settings.shard_count
        )
        if self._rows and (full or int(self._rows[0]["split"]) != found.split):
            self._write()
        row["shard"], row["split"], row["offset"] = self._shards(), found.split, self._size
        row["width"], row["height"], row["phash"] = found.width, found.height, found.phash
        self._size += len(data)
        self._rows.append(row)
        self._data.append(data)
        self._lines.append({"row": "", "caption": found.caption, "source": found.source, "format": found.format})
        self._remember(found.sha256, found.phash)

    def _remember(self, digest: bytes, alike: int) -> None:
        self._seen[digest] = self.number
        if self._alike is not None:
            self._alike.add(alike, self.number)
        self.number += 1

    def _shards(self) -> int:
        return sum(head["shard"] is not None for head in self.parts)

    def _write(self) -> None:
        """The shard, then the part that promises it."""
        head: dict[str, Any] = {"number": len(self.parts), "shard": None, "size": 0, "sha256": ""}
        if self._rows:
            self._data[-1] += END
            sums = [sealed(row, data) for row, data in zip(self._rows, self._data, strict=True)]
            head["shard"] = shard_name(int(sums[0]["split"]), int(sums[0]["shard"]))
            with files.writing(self.out / head["shard"]) as shard:
                for data in self._data:
                    shard.write(data)
            head["size"], head["sha256"] = shard.size, shard.sha256
            for line, row in zip((line for line in self._lines if "row" in line), sums, strict=True):
                line["row"] = row.tobytes().hex()
        head["taken"], head["names"] = self.taken, self._names.hexdigest()
        with files.writing(self.out / PARTS / f"{len(self.parts):06d}.jsonl") as part:
            for line in (head, *self._lines):
                part.write(json.dumps(line).encode() + b"\n")
        self.parts.append(head)
        self._clear()

    def _clear(self) -> None:
        self._rows: list[np.void] = []
        self._data: list[bytes] = []
        self._lines: list[dict[str, Any]] = []
        self._size = 0


def read_part(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A part's head and its lines, one an item."""
    head, *lines = [json.loads(line) for line in files.read(path, limit=2**34).splitlines()]
    return head, lines


def _own(found: Examined) -> dict[str, Any]:
    """What the facts of a sample say whatever its source said."""
    return {
        "caption": found.caption,
        "source": found.source,
        "width": found.width,
        "height": found.height,
        "sha256": found.sha256.hex(),
        "split": SPLITS[found.split],
    }


def _is(shard: Path, head: dict[str, Any]) -> bool:
    """Whether a shard is there, with the digest that its part promises."""
    return shard.is_file() and files.measure(shard) == (head["size"], head["sha256"])
