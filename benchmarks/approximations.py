"""What each approximation gains and costs, against the exact picture, interleaved: the table of docs/approximations.md.

    python benchmarks/approximations.py --pictures 48 --write benchmarks/DATE-approximations-cpu.md
    python benchmarks/approximations.py --sd15 --pictures 3 --steps 8      # random Stable Diffusion 1.5 at 512 x 512
    python benchmarks/approximations.py --pictures 4 --only exact "reuse 2"
    python benchmarks/approximations.py --work     # what a step computes, counted on no device: seconds

Every round takes the next prompt and seed and paints it in all ways in turn; ratios are taken round by round, and one
round before them is not counted. Errors are those of the same pictures: relative rms of the clean latents,
|z - z_exact| / |z_exact|, mean of the rounds, and the mean difference of the pixels in steps of 255. "Another seed"
shows how far two pictures of one prompt are apart, and the rows with fewer steps what simply making fewer brings.
"Right" is what the carried detector says of the pocket model's pictures of single things, with a 95 % interval.

Weights of Stable Diffusion 1.5 are random (torch's own beginnings, seed 0), so that its times are those of the true
model, and its errors are not. The tiny autoencoder's weights are random in both: its time counts, its pictures do not.
Two cores take a quarter of an hour for the pocket model, and an hour for `--sd15`. Let nothing else run.
"""

import argparse
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import aquatint
from aquatint import Decoding, Request
from aquatint.base import runtime
from aquatint.base.counted import Counted
from aquatint.engines.choice import choose_engine
from aquatint.evaluation import spaces
from aquatint.evaluation.detector import Detector
from aquatint.evaluation.prompts import SINGLE, Prompt, prompts
from aquatint.evaluation.runs import score
from aquatint.families import SD15
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.reuse import reusing
from aquatint.nets.text import TextEncoder
from aquatint.nets.tiny import TinyAutoencoder, TinyConfig
from aquatint.nets.token_merging import merging
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import UNet
from aquatint.pipelines.approximations import Approximations, Reuse
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.guiding import Guiding, Interval
from aquatint.training.data.world import MEDIUM
from aquatint.weights.tiny import Tiny

FIRST = 100  # seed of the first picture
OTHER = 10_000  # how far away another seed is
EXACT, ANOTHER, TINY = "exact", "another seed", "tiny decoder"
WORDS = ("a castle on a hill", "a bowl of fruit", "a lighthouse at night")  # for random weights any will do
HEAD = ("way", "a picture, s", "times as fast (min .. max)", "latents, relative rms", "pixels, mean of 255")


def ways(steps: int) -> dict[str, Request]:
    """Each way as a request, the exact one first."""
    exact, middle = Request("any", steps=steps), Guiding(interval=Interval(0.2, 0.8))
    approximate = {
        "reuse 2": Approximations(Reuse(2)),
        "reuse 3": Approximations(Reuse(3)),
        "reuse 2, 2 skips": Approximations(Reuse(2, 2)),
        "reuse 3, 3 skips": Approximations(Reuse(3, 3)),
        "reuse 5": Approximations(Reuse(5)),
        "merge 0.5": Approximations(merge=0.5),
        "merge 0.75": Approximations(merge=0.75),
        "reuse 2, merge 0.5": Approximations(Reuse(2), 0.5),
    }
    return {
        EXACT: exact,
        ANOTHER: exact,
        "guidance interval 0.2 to 0.8": replace(exact, guiding=middle),
        **{name: replace(exact, approximations=how) for name, how in approximate.items()},
        "reuse 2, interval": replace(exact, approximations=approximate["reuse 2"], guiding=middle),
        f"{steps // 2} steps": replace(exact, steps=steps // 2),
        f"{-(-2 * steps // 3)} steps": replace(exact, steps=-(-2 * steps // 3)),
        "lcm, 4 steps": replace(exact, sampler="lcm", steps=4),
        "tcd, 4 steps": replace(exact, sampler="tcd", steps=4),
        TINY: replace(exact, decoding=Decoding(tiny=True)),
    }


@dataclass
class Column:
    """What was found of one way, round by round."""

    seconds: list[float] = field(default_factory=list)
    latents: list[float] = field(default_factory=list)
    pixels: list[float] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)


def painted(bundle: Bundle, request: Request) -> tuple[float, torch.Tensor, np.ndarray]:
    """Seconds, clean latents and pixels of a request's one picture."""
    *_, last = aquatint.generate(bundle, request)
    assert last.picture is not None
    assert last.x0 is not None
    return sum(last.picture.seconds.values()), last.x0, np.asarray(last.picture.image)


def measured(bundle: Bundle, rows: Mapping[str, Request], texts: Sequence[str]) -> dict[str, Column]:
    """All ways of all prompts, in turn; the first prompt is painted once more before, for nothing."""
    found = {name: Column() for name in rows}
    for number, text in enumerate((texts[0], *texts), -1):
        exact: tuple[float, torch.Tensor, np.ndarray] | None = None
        for name, row in rows.items():
            seed = FIRST + max(number, 0) + (OTHER if name == ANOTHER else 0)
            made = painted(bundle, replace(row, prompt=text, seeds=(seed,)))
            exact = exact or made
            if number < 0:
                continue
            found[name].seconds.append(made[0])
            found[name].latents.append(float((made[1] - exact[1]).norm() / exact[1].norm()))
            found[name].pixels.append(float(np.abs(made[2].astype(float) - exact[2]).mean()))
            found[name].pictures.append(made[2])
        print(f"{number + 1} of {len(texts)}", flush=True)
    return found


def table(found: Mapping[str, Column], asked: Sequence[Prompt] = ()) -> str:
    """The columns as Markdown; with prompts of the pocket world, how many pictures are right."""
    detector = Detector.open(spaces.DETECTOR) if asked else None
    head = [*HEAD, *(["right, % (95 %)"] if detector else [])]
    lines = [head, ["---"] * len(head)]
    (exact, *_) = found.values()
    for name, column in found.items():
        ratios = [one / other for one, other in zip(exact.seconds, column.seconds, strict=True)]
        speed = f"{median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
        cells = [name, f"{median(column.seconds):.2f}", speed, f"{mean(column.latents):.4f}"]
        cells.append("-" if name == TINY else f"{mean(column.pixels):.2f}")
        if detector:
            share = score(np.stack(column.pictures), detector, asked, name).total().rows[0].share("all")
            said = f"{100 * share.value:.1f} ({100 * share.low:.1f}-{100 * share.high:.1f})"
            cells.append("-" if name == TINY else said)
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def work() -> str:
    """What a guided step of Stable Diffusion 1.5 at 512 x 512 computes (2 rows), as Markdown: counted, on no device."""
    lines = [["way", "T of a step that computes all", "of one that reuses", "mean of the way / exact"], ["---"] * 4]
    with torch.device("meta"):
        x, t, context = torch.empty(2, 4, 64, 64), torch.empty(2), torch.empty(2, 77, SD15.unet.context)
        unet, full = UNet(SD15.unet).eval().requires_grad_(False), 0.0
    for name, row in ways(30).items():
        how = row.approximations or Approximations()
        if name != EXACT and (how == Approximations() or row.guiding):
            continue
        net = merging(unet, how.merge or 0.0, 64, 64)
        net = reusing(net, how.reuse.skips, {}) if how.reuse else net
        flops = []
        for _ in range(2):
            with FlopCounterMode(display=False) as counter:
                net(x, t, context, None)
            flops.append(counter.get_total_flops() / 1e12)
        every = how.reuse.every if how.reuse else 1
        each = (flops[0] + (every - 1) * flops[1]) / every
        full = full or each
        lines.append([name, f"{flops[0]:.3f}", f"{flops[1]:.3f}" if how.reuse else "", f"{each / full:.3f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def random_sd15() -> Bundle:
    """Stable Diffusion 1.5 with random weights, prepared as `aquatint.load` prepares it."""
    runtime.keep_pages()
    torch.manual_seed(0)
    nets = UNet(SD15.unet).eval(), Autoencoder(SD15.autoencoder).eval(), TextEncoder(SD15.text).eval()
    engine = choose_engine()
    engine.leave_room(nets)
    for net in (nets[0], nets[1].encoder, nets[1].decoder):
        engine.prepare(net, often=net is nets[0])
    return Bundle(*nets, Tokenizer.packaged(), SD15, "random", Counted("0" * 64), engine=engine)


def with_tiny(bundle: Bundle) -> Bundle:
    """The bundle with a tiny autoencoder of TAESD's shape and random weights."""
    torch.manual_seed(1)
    net = TinyAutoencoder(TinyConfig(), encodes=False).eval()
    bundle.engine.prepare(net)
    return replace(bundle, tiny=Tiny(net, "random", "0" * 64))


def main() -> None:
    """Measure and print, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=48, help="for the pocket model a multiple of 4")
    parser.add_argument("--sd15", action="store_true")
    parser.add_argument("--steps", type=int, help="12 for the pocket model, 8 with --sd15")
    parser.add_argument("--size", type=int, help="pixels a side; the model's own if not given")
    parser.add_argument("--only", nargs="+", help="of the ways; the exact one is always there")
    parser.add_argument("--work", action="store_true", help="count what the ways compute of SD 1.5, and do no more")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    if given.work:
        print(work())
        return
    said = {name: value for name, value in vars(given).items() if name in ("pictures", "steps", "size") and value}
    options = " ".join(["--sd15"] * given.sd15 + [f"--{name} {value}" for name, value in said.items()])
    bundle = with_tiny(random_sd15() if given.sd15 else aquatint.load(device="cpu"))
    size = given.size or bundle.family.defaults.width
    steps = given.steps or (8 if given.sd15 else 12)
    rows = {name: replace(row, width=size, height=size) for name, row in ways(steps).items()}
    if given.only:
        rows = {name: row for name, row in rows.items() if name == EXACT or name in given.only}
    asked = [] if given.sd15 else prompts(MEDIUM, SINGLE, -(-given.pictures // len(SINGLE)))
    texts = [prompt.text for prompt in asked] or [WORDS[number % len(WORDS)] for number in range(given.pictures)]
    found, usual = measured(bundle, rows, texts), rows[EXACT].resolved(bundle.family)
    model = "random Stable Diffusion 1.5" if given.sd15 else "the pocket model"
    machine = f"{platform.processor() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
    text = (
        f"# Approximations, {model}\n\n"
        f"{machine}, {bundle.threads} threads, torch {torch.__version__}, engine {bundle.engine.name}; "
        f"{usual.width} x {usual.height}, "
        f"{usual.sampler}, {usual.steps} steps, guidance {usual.guidance:g}; {len(texts)} pictures each, interleaved, "
        f"medians of seconds, means of errors.\nCommand: `python benchmarks/approximations.py {options}`\n\n"
        f"{table(found, asked)}\n"
    )
    print(text)
    if given.write:
        given.write.write_text(text)


if __name__ == "__main__":
    main()
