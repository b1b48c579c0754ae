"""Our networks against diffusers and transformers at the published shapes: writes the table in docs/parity.md.

Float32 on the CPU, random weights (the same in both), one evaluation each. Needs the [parity] extra, 16 GB of memory
and some ten minutes on two cores:

    python benchmarks/parity.py                     # print the table
    python benchmarks/parity.py --write docs/parity.md
    python benchmarks/parity.py --small             # a minute: narrow networks of the same structure
"""

import argparse
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.parity.control_peers import compare_control  # noqa: E402
from tests.parity.peers import MAX, RMS, Comparison, compare_autoencoder, compare_image, compare_text, compare_unet  # noqa: E402
from tests.parity.test_networks import IMAGE, KL, SMALL, TEXT, XL  # noqa: E402

from aquatint.families import FAMILIES, SD15, SD15_INPAINT, SD21, SD21_V, SDXL, SDXL_REFINER  # noqa: E402
from aquatint.nets.control import ControlConfig  # noqa: E402
from aquatint.nets.text import ImageConfig  # noqa: E402


def full() -> Iterator[Comparison]:
    """The published shapes: 512 x 512 pictures, 768 x 768 for Stable Diffusion 2.1-v, 256 x 256 for XL."""
    for family in (SD15, SD21, SDXL, SDXL_REFINER):
        yield compare_text(family.name, family.text, batch=2)
    yield compare_image("CLIP ViT-B/32", ImageConfig())
    for family in (SD15, SD15_INPAINT, SD21, SD21_V):
        size = (family.defaults.height // 8, family.defaults.width // 8)
        yield compare_unet(family.name, family.unet, size, batch=2 if size[0] == 64 else 1)
    for name, (_, numbers) in XL.items():
        yield compare_unet(name, FAMILIES[name].unet, (32, 32), batch=1, numbers=numbers)
    yield compare_control("SD15", ControlConfig(SD15.unet), (64, 64))
    yield from compare_autoencoder("SD15, SD21", SD15.autoencoder, (512, 512))


def small() -> Iterator[Comparison]:
    """The shapes of the default tests."""
    for name, text in TEXT.items():
        yield compare_text(name, text)
    yield compare_image("CLIP", IMAGE)
    for name, unet in SMALL.items():
        yield compare_unet(name, unet, (16, 16))
    for name, (unet, numbers) in XL.items():
        yield compare_unet(name, unet, (16, 16), numbers=numbers)
    yield compare_unet("SD15, odd size", SMALL["SD15"], (65, 47), batch=1)
    for name in ("SD15", "SD21", "deep"):
        yield compare_control(name, ControlConfig(SMALL[name]), (16, 16), batch=2)
    for name, autoencoder in KL.items():
        yield from compare_autoencoder(name, autoencoder, (64, 64))


def row(found: Comparison) -> str:
    """One line of the table."""
    rms, most = found.difference
    mark = "" if found.difference.within else " **over**"
    return f"| {found.network} | {found.shape} | {rms:.1e}{mark} | {most:.1e} | {found.ours:.2f} | {found.theirs:.2f} |"


def heading(note: str) -> str:
    """What the table is, and where it was made."""
    peers = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return f"""# Parity with diffusers and transformers

Written by `python benchmarks/parity.py --write docs/parity.md` on {datetime.now(UTC):%Y-%m-%d}
({peers}; {machine}).

Float32 on the CPU. Both sides hold the same random weights (biases and norms too), handed over by the key maps that
read checkpoints, so that the table proves map and forward pass together. rms and max are those of the difference, in
units of the reference output's standard deviation; allowed are {RMS:.0e} and {MAX:.0e}. Seconds are of the one
evaluation, the first of each, ours before theirs, with nothing prepared{note}: no
measure of speed, which benchmarks/ has.

| network | input | rms | max | ours, s | theirs, s |
|---|---|---|---|---|---|
"""


def main() -> int:
    """Print the table, line by line as it grows; 1 if a network is over its bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the narrow networks of the default tests")
    parser.add_argument("--write", type=Path, help="where to write the table, besides printing it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--note", default="", help="a remark on the seconds, such as a busy machine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    head = heading(f" ({options.note})" if options.note else "")
    print(head, end="", flush=True)
    lines, good = [], True
    for found in small() if options.small else full():
        lines.append(row(found))
        good &= found.difference.within
        print(lines[-1], flush=True)
    if options.write:
        options.write.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
