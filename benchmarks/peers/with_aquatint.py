"""Our side: what `aquatint.load` gives, asked through its public face."""

import torch
from benchmarks.peers.worker import (
    GUIDANCE,
    NEGATIVE,
    PROMPT,
    SAMPLER,
    SEED,
    Asked,
    Work,
    given,
    sample,
    serve,
    started,
)
from PIL import Image

import aquatint
from aquatint.base import runtime
from aquatint.pipelines.generate import Course, generate
from aquatint.pipelines.request import MOST_STEPS, Request


class Painter:
    """An opened model, and a picture that is being painted."""

    def __init__(self, asked: Asked) -> None:
        file, memory = asked.folder / "checkpoint.safetensors", asked.more[0] if asked.more else None
        self.bundle = aquatint.load(file, device="cpu", threads=asked.threads, memory=memory)
        self.asked, self.given = asked, given(asked.size)
        self.how = {"negative": NEGATIVE, "width": asked.size, "height": asked.size, "sampler": SAMPLER}
        self.how |= {"guidance": GUIDANCE, "rescale": 0.0}
        self.course: Course | None = None
        self.x, self.image = torch.from_numpy(self.given.x), Image.fromarray(self.given.pixels[0])

    def step(self) -> None:
        """The next step of a picture of a thousand, sampler and checks included."""
        if self.course is None:
            self.course = generate(self.bundle, Request(PROMPT, seeds=(SEED,), steps=MOST_STEPS, **self.how))
        if next(self.course).index == MOST_STEPS - 1:
            self.course = None

    def picture(self) -> None:
        """From prompt to PNG."""
        made = self.bundle.paint(PROMPT, seed=SEED, steps=self.asked.steps, **self.how)
        made.save(self.asked.folder / "aquatint.png")

    def check(self) -> list[float]:
        """What the nets say of the inputs that all sides get."""
        bundle, told = self.bundle, torch.from_numpy(self.given.told)
        with runtime.exact(bundle.device, bundle.threads):
            both = torch.cat([self.x, self.x])
            without, with_ = bundle.unet(both, torch.full((2,), 500.0), told).chunk(2)
            pixels = bundle.autoencoder.decode(self.x)
        eps = without + GUIDANCE * (with_ - without)
        text = bundle.encode_text([NEGATIVE, PROMPT]).context
        return sample(*(array.contiguous().numpy() for array in (eps, pixels, bundle.encode(self.image), text)))

    def work(self) -> Work:
        """The pieces."""
        return {
            "picture": self.picture,
            "guided step": self.step,
            "text": lambda: self.bundle.encode_text([NEGATIVE, PROMPT]),
            "decode": lambda: self.bundle.decode(self.x),
            "encode": lambda: self.bundle.encode(self.image),
            "check": self.check,
        }


if __name__ == "__main__":
    asked = started()
    serve(asked, Painter(asked).work())
