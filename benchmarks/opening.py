"""Seconds and memory to open Stable Diffusion from a single file, against diffusers' `from_single_file`, interleaved.

    python benchmarks/opening.py --rounds 5 --write benchmarks/DATE-opening-cpu.md
    python benchmarks/opening.py --tiny            # a rehearsal with a small model

Files of random weights are made first (SD15: 4.3 GB in float32; SDXL, where that family is known: 13.9 GB), as
`.safetensors` in float32 and float16 and as `.ckpt` in float16, in the layout and with the leftovers that such files
have. Each opening is a process of its own; the rounds take turns, and one untimed round before them has the files in
the system's cache. Seconds are from the call to the model's return, into float32 on the CPU, with everything that
either side imports on the way already imported. "Used" adds the time to read every weight once afterwards, as the first
step does: a file that is only mapped by then has yet to be read. Peak memory is that of the whole process, after that.
diffusers gets its configs from a folder here (`config=`), so that it asks no hub. Needs the [parity] extra, and twice
the largest file in memory.
"""

import argparse
import contextlib
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

SIDES = ("ours", "theirs")
KINDS = {"float32": torch.float32, "float16": torch.float16, "ckpt": torch.float16}
SEED = 0
HEAD = ("file", "size", "ours, s", "diffusers, s", "times as fast", "ours, used", "diffusers, used", "times as fast")
HEAD = (*HEAD, "our peak, GiB", "their peak, GiB")


def family_of(name: str, tiny: bool):  # type: ignore[no-untyped-def]
    """The row, or a narrow copy of it with everything in its place."""
    from aquatint.families import FAMILIES
    from aquatint.nets.unet import Stage

    if name not in FAMILIES:
        return None
    family = FAMILIES[name]
    if not tiny:
        return family
    stages = tuple(Stage(64 * (1 + index), 8, stage.depth) for index, stage in enumerate(family.unet.stages))
    return replace(
        family,
        name="custom",
        unet=replace(family.unet, stages=stages),
        autoencoder=replace(family.autoencoder, encoder=(32, 64, 64, 64), decoder=(32, 64, 64, 64)),
        text=replace(family.text, layers=2),
    )


def parts_of(family) -> list[str]:  # type: ignore[no-untyped-def]
    from aquatint.weights import keymap

    second = getattr(family, "text2", None) is not None
    return [
        part
        for part in ("unet", "autoencoder", "text", "text2")
        if part in keymap.PARTS or (second and part == "text2")
    ]


def make(family, path: Path, kind: str) -> None:  # type: ignore[no-untyped-def]
    """A single file of random weights, written tensor by tensor."""
    from aquatint.base import files
    from aquatint.weights import compvis, writer
    from aquatint.weights.formats import FORMATS
    from aquatint.weights.keymap import config_of, shapes
    from aquatint.weights.writer import Outgoing

    dtype, rows = KINDS[kind], []
    generator = torch.Generator().manual_seed(SEED)
    for part in parts_of(family):
        ours = shapes(config_of(family, part))
        for pair in FORMATS["compvis"].pairs(family, part, None, ema=False):
            shape = pair.turn.shapes([ours[name] for name in pair.ours])[0]
            rows.append(Outgoing(pair.theirs, dtype, shape, lambda shape=shape: weight(shape, dtype, generator)))
    rows.append(Outgoing("betas", torch.float32, (1000,), lambda: torch.linspace(0.03, 0.11, 1000) ** 2))
    if any(row.name.startswith(compvis.HUGGING) for row in rows):
        ids = compvis.HUGGING + "embeddings.position_ids"
        rows.append(Outgoing(ids, torch.int64, (1, 77), lambda: torch.arange(77)[None]))
    if kind == "ckpt":
        torch.save({"state_dict": {row.name: row.make() for row in rows}, "global_step": 1}, path)
        return
    with files.writing(path) as out:
        writer.write(out, rows, {"format": "pt"})


def weight(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    return (torch.randn(shape, generator=generator) * 0.02).to(dtype)


def configs(family, path: Path) -> Path:  # type: ignore[no-untyped-def]
    """The folder of documents and tokenizer that diffusers needs beside a single file."""
    from aquatint.nets.tokenizer import Tokenizer
    from aquatint.weights import assembly

    for name, document in assembly.documents(family).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(document))
    Tokenizer.packaged(pad=family.text.pad).save(path / "tokenizer")
    if getattr(family, "text2", None) is not None:
        Tokenizer.packaged(pad=family.text2.pad).save(path / "tokenizer_2")
    return path


def opened(side: str, path: str, config: str) -> dict[str, float]:
    """One opening, in this process."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if side == "ours":
        import aquatint
        from aquatint.pipelines.generate import generate  # noqa: F401  what painting needs

        aquatint.load()  # the carried model: imports what opening imports late
        gc.collect()
        began = time.perf_counter()
        model = aquatint.load(path, device="cpu", dtype="float32")
        seconds, nets = (
            time.perf_counter() - began,
            [model.unet, model.autoencoder, *(text for text, _ in model.encoders)],
        )
    else:
        import logging

        import diffusers
        import transformers  # noqa: F401
        from diffusers.loaders import single_file_utils  # noqa: F401

        logging.disable(logging.WARNING)
        index = json.loads((Path(config) / "model_index.json").read_text())
        kind = getattr(diffusers, index["_class_name"])
        for row in index.values():  # the classes, which are imported when they are asked for
            if isinstance(row, list) and row[0]:
                getattr(sys.modules[row[0]], row[1])
        began = time.perf_counter()
        pipeline = kind.from_single_file(path, config=config, local_files_only=True, torch_dtype=torch.float32)
        seconds = time.perf_counter() - began
        nets = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    count = sum(weight.numel() for net in nets for weight in net.parameters())
    for net in nets:
        for weight in net.parameters():  # 4-dimensional ones as they lie: neither side is to pay for a copy
            torch.aminmax(weight if weight.is_contiguous() else weight.permute(0, 2, 3, 1))
    used = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "used": used, "gib": peak, "numbers": count}


def asked(side: str, path: Path, config: Path) -> dict[str, float]:
    """One opening, in a process of its own."""
    command = [sys.executable, __file__, "--child", side, str(path), str(config)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(folder: Path, names: list[str], kinds: list[str], rounds: int, tiny: bool) -> Iterator[str]:
    """A row of the table for each file."""
    for name in names:
        family = family_of(name, tiny)
        if family is None:
            print(f"{name} is not known here: left out", file=sys.stderr)
            continue
        config = configs(family, folder / f"{name}-config")
        for kind in kinds:
            path = folder / f"{name}-{kind}.{'ckpt' if kind == 'ckpt' else 'safetensors'}"
            make(family, path, kind)
            size = path.stat().st_size / 1e9
            found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for number in range(rounds + 1):
                for side in SIDES if number % 2 else reversed(SIDES):
                    row = asked(side, path, config)
                    if number:
                        found[side].append(row)
            assert len({row["numbers"] for rows in found.values() for row in rows}) == 1, "two models"
            path.unlink()
            cells = [cell for what in ("seconds", "used") for cell in compared(found, what)]
            peaks = [f"{max(row['gib'] for row in rows):.2f}" for rows in found.values()]
            line = f"| {name}{' (narrow)' if tiny else ''} {path.suffix} {str(KINDS[kind]).removeprefix('torch.')} "
            line += f"| {size:.2f} GB | {' | '.join([*cells, *peaks])} |"
            print(line, file=sys.stderr, flush=True)
            yield line


def compared(found: dict[str, list[dict[str, float]]], what: str) -> list[str]:
    """Ours, theirs, and how many times as fast ours are: medians, and the ratios round by round."""
    seconds = {side: [row[what] for row in rows] for side, rows in found.items()}
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
    cells = [f"{statistics.median(row):.2f} ({min(row):.2f}-{max(row):.2f})" for row in seconds.values()]
    return [*cells, f"{ratio:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=["SD15", "SDXL"])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the files are made; a temporary folder if not given")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.child:
        print(json.dumps(opened(*said.child)))
        return
    with contextlib.ExitStack() as stack:
        folder = said.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        rows = list(measured(folder, said.families, said.kinds, said.rounds, said.tiny))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers", "safetensors"))
    about = (
        f"{time.strftime('%Y-%m-%d')}, commit {commit}, {platform.machine()} with {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, {versions}. `python benchmarks/opening.py --rounds {said.rounds}`: medians "
        "(least to most) of rounds in turn, each opening a process of its own; into float32; ratios round by round."
    )
    text = "\n".join(
        [
            "# Opening a single file on the CPU",
            "",
            about,
            "",
            f"| {' | '.join(HEAD)} |",
            f"|{'---|' * len(HEAD)}",
            *rows,
            "",
        ]
    )
    print(text)
    if said.write:
        said.write.write_text(text)


if __name__ == "__main__":
    main()
