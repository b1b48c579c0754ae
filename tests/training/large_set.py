"""A process of its own for test_loader.py: a prepared folder of 50 GB with holes, some of it read; how memory grew."""

import hashlib
import io
import json
import resource
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from aquatint.base import config, files
from aquatint.training.data.buckets import shapes
from aquatint.training.data.loader import Loader
from aquatint.training.data.prepared import Prepared
from aquatint.training.data.shards import ROW, Written, record, sealed, shard_name
from aquatint.training.recipe import Moment

COUNT = 12_600  # samples of about 4 MB
SIZES = ((512, 512), (640, 384), (384, 704))


def whole(number: int) -> Written:
    """A sample of about 4 MB: a picture, and zeros behind its end that no decoder looks at."""
    out = io.BytesIO()
    Image.new("RGB", SIZES[number % 3], (number % 256, 40, 90)).save(out, "png")
    return record(number, "png", out.getvalue() + bytes(4_000_000), f"sample {number}", {})


def main(root: Path) -> None:
    """Make it, read 100 steps of it, and print a line of JSON."""
    folder = root / "large"
    folder.mkdir()
    rows, offset = np.zeros(COUNT, ROW), 0
    with (folder / shard_name(0, 0)).open("wb") as shard:
        for number in range(COUNT):
            data, row = whole(number)
            row["offset"], (row["width"], row["height"]) = offset, SIZES[number % 3]
            rows[number] = sealed(row, data)
            shard.seek(offset)
            shard.write(data.rstrip(b"\0"))  # zeros are left to the file system
            offset += len(data)
        shard.truncate(offset)
    np.save(folder / "index.npy", rows)
    text = json.dumps({"splits": {"train": COUNT, "validation": 0}})
    entry = files.Entry(len(text), hashlib.sha256(text.encode()).hexdigest())
    (folder / "report.json").write_text(text)
    (folder / files.MANIFEST).write_text(json.dumps({"report.json": config.to_data(entry)}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Loader(Prepared(folder), shapes(512 * 512), batch=4, workers=4) as loader:
        for step in range(120):
            loader.batch(Moment(step, 0.0))
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        print(json.dumps({"bytes": offset, "read": loader.counts["read"], "grown": grown}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
