"""Small data sets, made by code."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from aquatint.base.noise import Noise
from aquatint.training.data.examine import Settings
from aquatint.training.data.prepare import prepare
from aquatint.training.data.shards import END, ROW, record, sealed, shard_name


def picture(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Coloured clouds, other ones for each number."""
    pixels = Noise([1], [number]).integers((6, 6, 3), 256)[0].numpy().astype(np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def pictures(folder: Path, count: int, sizes: Sequence[tuple[int, int]] = ((64, 48),)) -> Path:
    """A folder of pictures with a text beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number, sizes[number % len(sizes)]).save(folder / f"{number:03}.jpg", quality=80)
        (folder / f"{number:03}.txt").write_text(f"picture {number}, red, green")
    return folder


def prepared(root: Path, count: int, sizes: Sequence[tuple[int, int]] = ((64, 48),), **settings: object) -> Path:
    """The same, prepared."""
    prepare([pictures(root / "pictures", count, sizes)], root / "set", Settings(**settings))  # type: ignore[arg-type]
    return root / "set"


def numbered(folder: Path, count: int, shard_count: int, payload: int = 1) -> Path:
    """A prepared folder whose pictures are only bytes: sample i's say i. For what never decodes."""
    from aquatint.base import config, files

    folder.mkdir(parents=True)
    rows, entries = [], {}
    for shard, first in enumerate(range(0, count, shard_count)):
        parts, offset = [], 0
        for number in range(first, min(count, first + shard_count)):
            data, row = record(number, "png", str(number).encode().ljust(payload, b"."), f"sample {number}", {})
            data += END if number + 1 == min(count, first + shard_count) else b""
            row["shard"], row["offset"] = shard, offset
            row["width"] = row["height"] = 64
            rows.append(sealed(row, data))
            parts.append(data)
            offset += len(data)
        name = shard_name(0, shard)
        digest = files.write(folder / name, b"".join(parts))
        entries[name] = files.Entry(offset, digest)
    np.save(folder / "index.npy", np.array(rows, ROW))
    text = json.dumps({"splits": {"train": count, "validation": 0}})
    entries["report.json"] = files.Entry(len(text), files.write(folder / "report.json", text))
    told = {name: config.to_data(entry) for name, entry in entries.items()}
    files.write(folder / files.MANIFEST, json.dumps(told))
    return folder
