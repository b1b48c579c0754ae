"""One guided step of Stable Diffusion 1.5 and the decoder, against diffusers' eager, interleaved in one run.

    python benchmarks/sd15.py --rounds 5 --write benchmarks/DATE-sd15-cpu.md

Float32, random weights, 512 x 512 pixels, one picture (two rows with guidance). Each side is a process of its own, as
its users have it, and both stand ready from the beginning; each round asks them in turn, so that only one computes at a
time, and ratios are taken round by round. Peak memory is each process's own over the whole run. Needs the [parity]
extra and 16 GB. Let nothing else run.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

LATENT = (1, 4, 64, 64)
SIDES = ("ours", "theirs")
PIECES = ("guided step", "decode")
Work = dict[str, Callable[[], torch.Tensor]]


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Latents, and two rows of text (negative, prompt)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(LATENT, generator=generator), torch.randn((2, 77, 768), generator=generator)


def ours() -> Work:
    """Our guided step and decode, prepared as `aquatint.load` prepares them."""
    from aquatint.base import runtime
    from aquatint.diffusion.denoisers import Conditioning, guided
    from aquatint.diffusion.prediction import EPSILON
    from aquatint.diffusion.schedule import NoiseSchedule
    from aquatint.engines.choice import choose_engine
    from aquatint.families import SD15
    from aquatint.nets.autoencoder import Autoencoder
    from aquatint.nets.unet import UNet

    runtime.keep_pages()
    unet, autoencoder = UNet(SD15.unet).eval(), Autoencoder(SD15.autoencoder).eval()
    engine = choose_engine()
    engine.leave_room((unet, autoencoder))
    engine.prepare(unet, often=True)
    for net in (autoencoder.encoder, autoencoder.decoder):
        engine.prepare(net)
    runtime.return_pages()
    x, context = inputs()
    denoise = guided(unet, EPSILON, Conditioning(context[1:]), Conditioning(context[:1]), 7.5)
    level = NoiseSchedule(SD15.schedule).at(500)
    return {"guided step": lambda: denoise(x, level), "decode": lambda: autoencoder.decode(x)}


def theirs() -> Work:
    """diffusers' guided step and decode, channels last (its faster way on a CPU)."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = UNet2DConditionModel(cross_attention_dim=768)
    autoencoder = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )
    for net in (unet, autoencoder):
        net.eval().to(memory_format=torch.channels_last)
    x, context = inputs()

    def step() -> torch.Tensor:
        both = torch.cat([x, x]).to(memory_format=torch.channels_last)
        without, with_ = unet(both, 500, encoder_hidden_states=context).sample.chunk(2)
        return without + 7.5 * (with_ - without)

    def decode() -> torch.Tensor:
        return autoencoder.decode((x / 0.18215).to(memory_format=torch.channels_last)).sample

    return {"guided step": step, "decode": decode}


@torch.no_grad()
def serve(side: str) -> None:
    """What a side's process does: for every piece asked for on standard input, the seconds and the peak in GiB."""
    work = ours() if side == "ours" else theirs()
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        work[line.strip()]()
        seconds = time.perf_counter() - began
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)


class Side:
    """One side's process."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, __file__, "--serve", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.peak = 0.0
        assert self.answer() == ["ready"]

    def answer(self) -> list[str]:
        """The next line, in words."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def seconds(self, piece: str) -> float:
        """One call of a piece."""
        assert self.process.stdin is not None
        print(piece, file=self.process.stdin, flush=True)
        seconds, self.peak = map(float, self.answer())
        return seconds


def table(rounds: int) -> str:
    """The comparison, as Markdown."""
    mine, peers = (Side(name) for name in SIDES)
    lines = ["| piece | ours, s | diffusers, s | ratio theirs / ours (min .. max) |", "|---|---|---|---|"]
    for piece in PIECES:
        mine.seconds(piece), peers.seconds(piece)
        pairs = [(mine.seconds(piece), peers.seconds(piece)) for _ in range(rounds)]
        ratios = [b / a for a, b in pairs]
        us, them = (statistics.median(column) for column in zip(*pairs, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
        lines.append(f"| {piece} | {us:.2f} | {them:.2f} | {spread} |")
    said = f"ours {mine.peak:.2f} GiB, theirs {peers.peak:.2f} GiB"
    for side in (mine, peers):
        side.process.communicate()
    return "\n".join([*lines, "", f"Peak memory of each process: {said}."])


def main() -> None:
    """Measure and print, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--serve", choices=SIDES)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    head = (
        f"# Stable Diffusion 1.5 on the CPU, against diffusers {version('diffusers')} eager\n\n"
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"float32, 512 x 512, {given.rounds} interleaved rounds after one warm-up, medians; a process a side.\n"
        f"Command: `python benchmarks/sd15.py --rounds {given.rounds}`\n\n"
    )
    text = head + table(given.rounds) + "\n"
    print(text)
    if given.write:
        given.write.write_text(text)


if __name__ == "__main__":
    main()
