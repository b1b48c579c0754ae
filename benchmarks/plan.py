"""Stable Diffusion v1's own training, planned again for rates that were measured, or that are a goal: arithmetic alone.

    python benchmarks/plan.py [--gpus 64] [--set price=2.5]

Prints the tables of docs/scaling.md. Every assumption is a field of Plan, with where it comes from.
"""

import argparse
from dataclasses import dataclass, fields, replace

HOUR, DAY = 3600.0, 86_400.0
ALONE = 245.4  # pictures/s at 256 pixels where a GPU has 32 a step, not 128 (the same table)


@dataclass(frozen=True)
class Plan:
    """One run on paper. Times in seconds, sizes in bytes unless a name says otherwise.

    small, large       samples at 256 and at 512 pixels: 237,000 and 934,000 steps of 2,048 (the model cards of v1-1,
                       v1-2 and v1-4: 194,000 + 515,000 + 225,000)
    rate_small, rate_large  pictures a second and GPU from cached latents (benchmarks/2026-11-26-training-h100.md: batch
                       128 at 256 pixels, 32 at 512)
    seen_small, seen_large  different pictures at 256 (each once) and 512 (laion-high-resolution 170 M and
                       laion-aesthetics v2 5+ 600 M; assumed)
    encoding           pictures of 512 pixels that a GPU encodes in a second (assumed; 256: four times as many)
    weights            of the U-Net;  copies: weights, two averages, two moments of AdamW
    link               bytes a second between GPUs of different machines, each way (400 Gbit/s each; assumed)
    disk               bytes a second that a process writes durably (assumed);  every: between checkpoints
    failure_hours      GPU hours between failures: 419 in 54 days on 16,384 H100 (Llama 3's report)
    restart            from a failure to the first new step (assumed)
    price              dollars for an H100 hour (assumed)
    """

    gpus: int = 64
    batch: int = 2048
    small: float = 237_000 * 2048
    large: float = 934_000 * 2048
    rate_small: float = 364.8
    rate_large: float = 84.63
    seen_small: float = 237_000 * 2048
    seen_large: float = 770e6
    encoding: float = 100.0
    weights: float = 859.5e6
    copies: int = 5
    link: float = 50e9
    disk: float = 1e9
    every: float = 900.0
    failure_hours: float = 16_384 * 54 * 24 / 419
    restart: float = 300.0
    price: float = 2.5

    @property
    def summing(self) -> float:
        """Seconds to sum float32 gradients over all GPUs, in a ring: twice their size over one link."""
        return 2 * 4 * self.weights / self.link if self.gpus > 8 else 0.0

    def step(self, rate: float) -> float:
        """Seconds of a step: computing, then summing; they do not overlap (docs/decisions/002)."""
        return self.batch / self.gpus / rate + self.summing

    def seconds(self, rate: float, samples: float) -> float:
        """Of a stage."""
        return samples / self.batch * self.step(rate)

    @property
    def encoding_hours(self) -> float:
        """GPU hours to encode every picture once."""
        return (self.seen_large / self.encoding + self.seen_small / (4 * self.encoding)) / HOUR

    @property
    def state(self) -> float:
        """Bytes of a checkpoint."""
        return 4 * self.weights * self.copies


def latents(side: int) -> int:
    """Bytes of a cached sample: mean and deviation of four channels in float16, and 77 token numbers in two bytes."""
    return 2 * 2 * 4 * (side // 8) ** 2 + 2 * 77


def table(plan: Plan) -> list[tuple[str, str]]:
    """What there is to say of a plan."""
    times = plan.seconds(plan.rate_small, plan.small), plan.seconds(plan.rate_large, plan.large)
    hours = sum(times) * plan.gpus / HOUR
    days = sum(times) / DAY
    failures = hours / plan.failure_hours
    lost = failures * (plan.every / 2 + plan.restart)
    flow = [latents(side) * plan.batch / plan.step(rate) / 1e6
            for side, rate in ((256, plan.rate_small), (512, plan.rate_large))]  # fmt: skip
    stored = (latents(256) * plan.seen_small + latents(512) * plan.seen_large) / 1e12
    dearer = plan.encoding_hours + hours
    return [
        ("rate of a GPU, pictures/s at 256, 512", f"{plan.rate_small:.4g}, {plan.rate_large:.4g}"),
        ("GPUs, samples of a step on each", f"{plan.gpus}, {plan.batch / plan.gpus:.4g}"),
        ("step at 256, 512, s", f"{plan.step(plan.rate_small):.3f}, {plan.step(plan.rate_large):.3f}"),
        ("of it the sum of gradients, s", f"{plan.summing:.3f}"),
        ("days at 256, at 512", f"{times[0] / DAY:.2f}, {times[1] / DAY:.2f}"),
        ("GPU hours of training", f"{hours:,.0f}"),
        ("GPU hours of encoding, once", f"{plan.encoding_hours:,.0f}"),
        ("latents read, MB/s at 256, 512, all GPUs", f"{flow[0]:,.0f}, {flow[1]:,.0f}"),
        ("latents stored, TB", f"{stored:.1f}"),
        ("a checkpoint, GB", f"{plan.state / 1e9:.1f}"),
        ("written by one process, s; each its piece, s",
         f"{plan.state / plan.disk:.1f}; {plan.state / plan.disk / plan.gpus:.2f}"),
        ("checkpoints of the run, TB written", f"{sum(times) / plan.every * plan.state / 1e12:.1f}"),
        ("failures a day; in the run", f"{failures / days:.3f}; {failures:.2f}"),
        ("lost to them, minutes of the run", f"{lost / 60:.1f}"),
        ("dollars", f"{dearer * plan.price:,.0f}"),
    ]  # fmt: skip


def columns(plan: Plan) -> dict[str, Plan]:
    """The plans side by side."""
    return {
        "measured, 8 GPUs": replace(plan, gpus=8),
        f"measured, {plan.gpus} GPUs": replace(plan, rate_small=ALONE),
        f"goal, {plan.gpus} GPUs": replace(plan, rate_small=650.0, rate_large=158.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=NUMBER", help="an assumption")
    given = parser.parse_args()
    known = {field.name: type(field.default) for field in fields(Plan)}
    changes = {name: known[name](value) for name, value in (text.split("=") for text in given.set)}
    plans = columns(replace(Plan(gpus=given.gpus), **changes))
    rows = [table(plan) for plan in plans.values()]
    print("| | " + " | ".join(plans) + " |\n|" + "---|" * (len(plans) + 1))
    for row in zip(*rows, strict=True):
        print(f"| {row[0][0]} | " + " | ".join(value for _, value in row) + " |")


if __name__ == "__main__":
    main()
