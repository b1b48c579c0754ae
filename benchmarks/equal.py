"""Quality at equal compute: our recipe against diffusers' plain one, the same U-Net, latents and number of samples.

    python benchmarks/equal.py --samples 40000 --out runs/equal --write benchmarks/DATE-equal-cpu.md

The world "small" (14 subjects, six shapes in colours, one thing a picture) at 128 x 128 pixels, encoded by the carried
autoencoder and told by the carried text encoder, both frozen. A U-Net of 5 M weights learns from nothing:

ours        v-prediction on a zero-terminal schedule, min-SNR 5, 30 % of the times above 600, rate 1e-3 with warm-up and
            cosine descent, a tenth of the samples without words, running averages
diffusers   train_text_to_image.py: its U-Net class and DDPM scheduler, epsilon, mean squared error, AdamW (0.9, 0.999),
            rate 1e-4 after 500 steps of warm-up, weight decay 0.01, gradients clipped to 1, its EMA
the same at 1e-3, because a rate is not a recipe

Then all paint the same prompts, each with the guidance out of 1, 2, 3.5 and 6 that scores best for it, and the carried
detector says what is right. Every side goes on from its last checkpoint. Needs the [parity] extra and the font of
recipes/pocket.py; an hour and a half on two cores.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import aquatint
from aquatint.base.counted import Counted
from aquatint.base.noise import CAPTION, Noise
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.engines.plain import prepare
from aquatint.evaluation.detector import Detector
from aquatint.evaluation.prompts import prompts
from aquatint.evaluation.runs import Table, evaluate, score, truth
from aquatint.families import POCKET, Family
from aquatint.nets.unet import Stage, UNet, UNetConfig
from aquatint.training.data.latents import Latents, pixels
from aquatint.training.data.stream import Stream
from aquatint.training.data.world import SMALL
from aquatint.training.loop import train
from aquatint.training.objectives.diffusion import Aim, Denoising
from aquatint.training.recipe import Batch, Length, Moment, Optim, Recipe, Share
from aquatint.training.start import start

ROOT = Path(__file__).parents[1]
DETECTOR = ROOT / "src" / "aquatint" / "evaluation" / "detector.safetensors"
NET = UNetConfig(
    stages=(Stage(64, 2, depth=0), Stage(96, 3), Stage(128, 4)), blocks=1, context=256, groups=16, linear=True
)
BATCH, SEED, SILENT = 32, 77, 0.1
GUIDANCES = (1.0, 2.0, 3.5, 6.0)
DEFAULTS = replace(POCKET.defaults, width=128, height=128, steps=20)
FAMILIES = {
    "v": replace(POCKET, unet=NET, defaults=DEFAULTS),
    "epsilon": replace(
        POCKET,
        unet=NET,
        prediction="epsilon",
        schedule=replace(POCKET.schedule, zero_terminal=False),
        defaults=replace(DEFAULTS, rescale=0.0),
    ),
}
SIDES = {"ours": "v", "diffusers": "epsilon", "diffusers at our rate": "epsilon"}
Data = tuple[Latents, torch.Tensor]


def data(bundle: aquatint.Bundle, count: int, out: Path) -> Data:
    """The first scenes of the stream as latents' means and deviations, and their captions' ids."""
    latents, ids = out / "latents.safetensors", out / "ids.safetensors"
    if not ids.exists():
        stream, found, captions = Stream(SMALL, SEED, empty=0.0), [], list[str]()
        for first in range(0, count, 64):
            pictures, said = stream.batch(range(first, min(first + 64, count)))
            with torch.no_grad():
                posterior = bundle.autoencoder.posterior(pixels(pictures))
            found.append((posterior.mean, torch.exp(0.5 * posterior.log_variance)))
            captions += said
        means, deviations = (torch.cat(part) for part in zip(*found, strict=True))
        Latents(means, deviations).save(latents)
        save_file({"ids": bundle.tokenizer(captions)}, ids)
    return Latents.load(latents), load_file(ids)["ids"]


def rows(step: int, count: int) -> torch.Tensor:
    """Which scenes a step shows: all of them in turn, in another order each time."""
    numbers = range(step * BATCH, (step + 1) * BATCH)
    orders = {n // count: np.random.default_rng(n // count).permutation(count) for n in (numbers[0], numbers[-1])}
    return torch.tensor([int(orders[n // count][n % count]) for n in numbers])


def ours(bundle: aquatint.Bundle, given: Data, steps: int, out: Path) -> nn.Module:
    """Our recipe."""
    latents, ids = given
    net = UNet(NET)
    start(net, SEED)
    prepare(net)
    empty = bundle.tokenizer([""])

    def batch(moment: Moment, share: Share) -> Batch:
        chosen = rows(moment.step, len(ids))
        noise = Noise([SEED] * BATCH, range(moment.step * BATCH, (moment.step + 1) * BATCH))
        silent = noise.uniform((1,), draw=CAPTION) < SILENT
        return {"latents": latents.draw(chosen, noise), "ids": torch.where(silent, empty, ids[chosen])}

    objective = Denoising(net, bundle.text, NoiseSchedule(FAMILIES["v"].schedule), Aim("v", snr_cap=5.0, late=0.3))
    optim = {"unet": Optim(lr=1e-3, warmup=100, hold=0.6, final=0.02)}
    recipe = Recipe("equal", SEED, objective, batch, Length(steps=steps), optim, (0.99, 0.998), batch_size=BATCH)
    return train(recipe, out)["unet"]


def theirs(bundle: aquatint.Bundle, given: Data, steps: int, out: Path, rate: float) -> nn.Module:
    """diffusers' recipe, then its averaged weights in a net of ours."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    from aquatint.weights import folder
    from aquatint.weights.diffusers import pairs
    from aquatint.weights.keymap import from_theirs

    latents, ids = given
    torch.manual_seed(SEED)
    unet: Any = UNet2DConditionModel.from_config(folder.unet_document(NET, 16)).to(memory_format=torch.channels_last)
    unet.train()
    average = EMAModel(unet.parameters(), decay=0.9999, model_cls=UNet2DConditionModel, model_config=unet.config)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    optimiser = torch.optim.AdamW(unet.parameters(), lr=rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    pace = get_scheduler("constant_with_warmup", optimiser, num_warmup_steps=500)
    done, state = 0, out / "state.pt"
    out.mkdir(parents=True, exist_ok=True)
    if state.exists():
        kept = torch.load(state, weights_only=True)
        unet.load_state_dict(kept["unet"]), optimiser.load_state_dict(kept["optimiser"])
        pace.load_state_dict(kept["pace"]), average.load_state_dict(kept["average"])
        done = kept["step"]
    for step in range(done, steps):
        chosen = rows(step, len(ids))
        noise = Noise([SEED] * BATCH, range(step * BATCH, (step + 1) * BATCH))
        x = latents.draw(chosen, noise)
        generator = torch.Generator().manual_seed(SEED + step)
        eps = torch.randn(x.shape, generator=generator)
        times = torch.randint(0, 1000, (BATCH,), generator=generator)
        with torch.no_grad():
            context = bundle.text(ids[chosen]).tokens
        predicted = unet(scheduler.add_noise(x, eps, times), times, context, return_dict=False)[0]
        loss = nn.functional.mse_loss(predicted.float(), eps.float())
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step(), pace.step(), optimiser.zero_grad()
        average.step(unet.parameters())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            print(f"{step + 1} {loss.item():.4f}", flush=True)
            parts = {"unet": unet, "optimiser": optimiser, "pace": pace, "average": average}
            torch.save({"step": step + 1, **{name: part.state_dict() for name, part in parts.items()}}, state)
    average.copy_to(unet.parameters())
    net = UNet(NET)
    net.load_state_dict(from_theirs(pairs(NET), unet.state_dict()))
    return net


def judged(bundle: aquatint.Bundle, family: Family, net: nn.Module, detector: Detector, each: int) -> dict[str, Any]:
    """What a net paints, by guidance: the tables' shares."""
    prepare(net)
    net = net.eval().requires_grad_(False)
    painter = replace(bundle, unet=net, family=family, counted=Counted(), file=None)
    asked, found = prompts(SMALL, ("subject", "shape", "wording"), each), {}
    for guidance in GUIDANCES:

        def paint(texts: list[str], seeds: list[int], guidance: float = guidance) -> np.ndarray:
            pairs = zip(texts, seeds, strict=True)
            return np.stack([np.asarray(painter.paint(t, seed=s, guidance=guidance).image) for t, s in pairs])

        table = evaluate(paint, detector, asked)
        found[f"{guidance:g}"] = {source: shares(table, source) for source in ("painted", "painted, wrong caption")}
        print(guidance, found[f"{guidance:g}"]["painted"], flush=True)
    return found


def shares(table: Table, source: str) -> dict[str, list[float]]:
    """Per cent of the pictures that are right, with its interval, by fact."""
    row = table.total().row(source, "together")
    return {fact: [round(100 * part, 1) for part in row.share(fact)] for fact in row.scores}


def main() -> None:
    """Learn, paint, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--scenes", type=int, default=8_000)
    parser.add_argument("--each", type=int, default=28, help="prompts a category")
    parser.add_argument("--only", choices=SIDES, help="learn and judge one side; the table needs all")
    parser.add_argument("--out", type=Path, default=Path("runs/equal"))
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    bundle, detector = aquatint.load(), Detector.open(DETECTOR)
    bundle.text.requires_grad_(False)
    cached, steps = data(bundle, given.scenes, given.out), given.samples // BATCH
    ways: dict[str, Callable[[Path], nn.Module]] = {
        "ours": lambda out: ours(bundle, cached, steps, out),
        "diffusers": lambda out: theirs(bundle, cached, steps, out, 1e-4),
        "diffusers at our rate": lambda out: theirs(bundle, cached, steps, out, 1e-3),
    }
    for side in [given.only] if given.only else SIDES:
        path = given.out / f"{side}.json"
        if not path.exists():
            began = time.perf_counter()
            net = ways[side](given.out / side.replace(" ", "-"))
            seconds = time.perf_counter() - began
            scores = judged(bundle, FAMILIES[SIDES[side]], net, detector, given.each)
            path.write_text(json.dumps({"seconds": seconds, "scores": scores}))
    if given.only:
        return
    text = report(given, {side: json.loads((given.out / f"{side}.json").read_text()) for side in SIDES}, detector)
    print(text)
    if given.write:
        given.write.write_text(text)


def report(given: argparse.Namespace, found: dict[str, Any], detector: Detector) -> str:
    """The comparison as Markdown."""
    asked = prompts(SMALL, ("subject", "shape", "wording"), given.each)
    ceiling = shares(score(truth(asked, 128), detector, asked, "true"), "true")
    facts = ("object", "colour", "background", "number", "all")
    lines = [f"| recipe | guidance | {' | '.join(facts)} (95 % interval) |", "|---|---:|" + "---:|" * len(facts)]
    for side, result in found.items():
        best = max(result["scores"], key=lambda one: result["scores"][one]["painted"]["all"][0])
        for source in ("painted", "painted, wrong caption"):
            cells = [_cell(result["scores"][best][source], fact) for fact in facts]
            name = side if source == "painted" else f"{side}, wrong caption"
            lines.append(f"| {name} | {best} | {' | '.join(cells)} |")
    lines.append(f"| true renders | | {' | '.join(_cell(ceiling, fact) for fact in facts)} |")
    head = (
        f"# Quality at equal compute, against diffusers {version('diffusers')}\n\n"
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, float32. The same U-Net "
        f"({sum(p.numel() for p in UNet(NET).parameters()) / 1e6:.1f} M weights) from nothing on the same "
        f"{given.scenes:,} scenes, {given.samples // BATCH * BATCH:,} samples in batches of {BATCH}; "
        f"{len(asked)} prompts, one picture each, 20 steps. Shares of right pictures in per cent, each recipe at its "
        f"best guidance of {', '.join(map(str, GUIDANCES))}.\n"
        f"Command: `python benchmarks/equal.py --samples {given.samples}`\n\n"
    )
    return head + "\n".join(lines) + "\n"


def _cell(row: dict[str, list[float]], fact: str) -> str:
    value, low, high = row[fact]
    return f"{value:.1f} ({low:.1f} to {high:.1f})" if fact == "all" else f"{value:.1f}"


if __name__ == "__main__":
    main()
