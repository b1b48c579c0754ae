"""One guided step of Stable Diffusion 1.5 and the decoder, against diffusers' eager, interleaved in one run.

    python benchmarks/sd15.py --rounds 5 --write benchmarks/DATE-sd15-cpu.md

Float32, the same random weights in both, 512 x 512 pixels, batch of one picture (two rows with guidance). Each round
runs ours and theirs in turn; ratios are taken round by round. Peak memory is that of a process of its own which loads
one side's networks and runs each once. Needs the [parity] extra and 12 GB. Let nothing else run.
"""

import argparse
import json
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
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.parity.peers import autoencoder_twins, unet_twins  # noqa: E402

from aquatint.diffusion.denoisers import Conditioning, guided  # noqa: E402
from aquatint.diffusion.prediction import EPSILON  # noqa: E402
from aquatint.diffusion.schedule import NoiseSchedule  # noqa: E402
from aquatint.engines.plain import prepare  # noqa: E402
from aquatint.families import SD15  # noqa: E402
from aquatint.nets.autoencoder import Autoencoder  # noqa: E402
from aquatint.nets.unet import UNet  # noqa: E402

LATENT = (1, 4, 64, 64)
Work = dict[str, Callable[[], torch.Tensor]]


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Latents, and two rows of text (negative, prompt)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(LATENT, generator=generator), torch.randn((2, 77, 768), generator=generator)


def ours(unet: UNet, autoencoder: Autoencoder) -> Work:
    """Our guided step and decode."""
    for net in (unet.eval(), autoencoder.eval().encoder, autoencoder.decoder):
        prepare(net)
    x, context = inputs()
    denoise = guided(unet, EPSILON, Conditioning(context[1:]), Conditioning(context[:1]), 7.5)
    level = NoiseSchedule(SD15.schedule).at(500)
    return {"guided step": lambda: denoise(x, level), "decode": lambda: autoencoder.decode(x)}


def theirs(unet: nn.Module, autoencoder: nn.Module) -> Work:
    """diffusers' guided step and decode, channels last (its faster way on a CPU)."""
    for net in (unet, autoencoder):
        net.eval().to(memory_format=torch.channels_last)
    x, context = inputs()

    def step() -> torch.Tensor:
        both = torch.cat([x, x]).to(memory_format=torch.channels_last)
        without, with_ = unet(both, 500, encoder_hidden_states=context).sample.chunk(2)
        return without + 7.5 * (with_ - without)

    def decode() -> torch.Tensor:
        return autoencoder.decode((x / SD15.autoencoder.scale).to(memory_format=torch.channels_last)).sample

    return {"guided step": step, "decode": decode}


@torch.no_grad()
def timed(work: Callable[[], torch.Tensor]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak(side: str) -> dict[str, float]:
    """Peak memory in GiB of a fresh process that runs one side's step and decode once."""
    done = subprocess.run([sys.executable, __file__, "--alone", side], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@torch.no_grad()
def alone(side: str) -> None:
    """What `peak` starts: networks built with their own random weights, each piece run once, the peak printed."""
    if side == "ours":
        work = ours(UNet(SD15.unet), Autoencoder(SD15.autoencoder))
    else:
        from diffusers import AutoencoderKL, UNet2DConditionModel

        widths, count = SD15.autoencoder.encoder, len(SD15.autoencoder.encoder)
        vae = AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * count,
            up_block_types=("UpDecoderBlock2D",) * count,
            layers_per_block=2,
        )
        work = theirs(UNet2DConditionModel(cross_attention_dim=768), vae)
    found = {}
    for name, piece in work.items():
        piece()
        found[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(found))


def table(rounds: int) -> str:
    """The comparison, as Markdown."""
    (unet, peer), (autoencoder, vae) = unet_twins(SD15.unet), autoencoder_twins(SD15.autoencoder)
    mine, peers = ours(unet, autoencoder), theirs(peer, vae)
    lines = ["| piece | ours, s | diffusers, s | ratio theirs / ours (min .. max) |", "|---|---|---|---|"]
    for name in mine:
        timed(mine[name]), timed(peers[name])
        pairs = [(timed(mine[name]), timed(peers[name])) for _ in range(rounds)]
        ratios = [b / a for a, b in pairs]
        us, them = (statistics.median(column) for column in zip(*pairs, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
        lines.append(f"| {name} | {us:.2f} | {them:.2f} | {spread} |")
    del mine, peers, unet, peer, autoencoder, vae
    memory = {side: peak(side)["decode"] for side in ("ours", "theirs")}
    said = f"ours {memory['ours']:.2f} GiB, theirs {memory['theirs']:.2f} GiB"
    return "\n".join([*lines, "", f"Peak memory of a process that runs step and decode: {said}."])


def main() -> None:
    """Measure and print, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--alone", choices=["ours", "theirs"])
    given = parser.parse_args()
    if given.alone:
        alone(given.alone)
        return
    head = (
        f"# Stable Diffusion 1.5 on the CPU, against diffusers {version('diffusers')} eager\n\n"
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"float32, 512 x 512, {given.rounds} interleaved rounds after one warm-up, medians.\n"
        f"Command: `python benchmarks/sd15.py --rounds {given.rounds}`\n\n"
    )
    text = head + table(given.rounds) + "\n"
    print(text)
    if given.write:
        given.write.write_text(text)


if __name__ == "__main__":
    main()
