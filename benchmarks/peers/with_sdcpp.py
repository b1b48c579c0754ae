"""stable-diffusion.cpp, by its Python package: it paints whole pictures only, and says in its log what each part took.

A step is the time between two calls of its progress callback (it asks the U-Net twice, one row each); text, decoder and
encoder are what its log says of them. What is asked for on its own is taken from the picture painted last, once, or
from one of two steps that is painted for it; the encoder from one that begins with a picture.
"""

import re
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.peers.worker import GUIDANCE, NEGATIVE, PROMPT, SAMPLER, SEED, Asked, Work, given, serve, started

WTYPE = "f16"  # its usual form: half the memory; its convolutions are float16 in any case
SAID = {
    "text": r"get_learned_condition completed, taking ([\d.]+)s",
    "decode": r"decode_first_stage completed, taking ([\d.]+)s",
    "encode": r"vae encode graph completed, taking ([\d.]+)s",
}


class Painter:
    """A model, and what its last picture told that nobody has asked for yet."""

    def __init__(self, asked: Asked) -> None:
        import ctypes

        from stable_diffusion_cpp import StableDiffusion, sd_log_callback, sd_set_log_callback

        file = str(asked.folder / "checkpoint.safetensors")
        self.asked, self.lines = asked, list[str]()
        self.told: dict[str, float] = {}
        self.model: Any = StableDiffusion(model_path=file, n_threads=asked.threads, wtype=WTYPE, verbose=True)
        self.hear = sd_log_callback(lambda level, text, data: self.lines.append(text.decode(errors="replace")))
        sd_set_log_callback(self.hear, ctypes.c_void_p(0))

    def paint(self, steps: int, **more: Any) -> Any:
        """A picture; keeps what its parts took."""
        ticks: list[float] = []
        self.lines.clear()
        made = self.model.generate_image(
            prompt=PROMPT, negative_prompt=NEGATIVE, width=self.asked.size, height=self.asked.size,
            cfg_scale=GUIDANCE, sample_method=SAMPLER, sample_steps=steps, seed=SEED,
            progress_callback=lambda *_: ticks.append(time.perf_counter()), **more,
        )[0]  # fmt: skip
        said = "".join(self.lines)
        found = {piece: re.search(pattern, said) for piece, pattern in SAID.items()}
        self.told = {piece: float(match[1]) for piece, match in found.items() if match}
        if len(ticks) > 1:
            self.told["guided step"] = statistics.median(b - a for a, b in pairwise(ticks))
        return made

    def piece(self, name: str) -> dict[str, float]:
        """Seconds of a piece, not told before."""
        if name not in self.told:
            self.paint(2)
        return {name: self.told.pop(name)}

    def encode(self) -> dict[str, float]:
        """Seconds of encoding a picture."""
        from PIL import Image

        self.paint(2, init_image=Image.fromarray(given(self.asked.size).pixels[0]), strength=0.5)
        seconds = self.told["encode"]
        self.told = {}
        return {"encode": seconds}

    def picture(self, path: Path) -> dict[str, float]:
        """Seconds from prompt to PNG."""
        began = time.perf_counter()
        self.paint(self.asked.steps).save(path)
        return {"picture": time.perf_counter() - began}

    def work(self) -> Work:
        """The pieces."""
        parts = {name: lambda name=name: self.piece(name) for name in ("guided step", "text", "decode")}
        return {"picture": lambda: self.picture(self.asked.folder / "sdcpp.png"), **parts, "encode": self.encode}


if __name__ == "__main__":
    asked = started()
    serve(asked, Painter(asked).work())
