"""The sheet of guidance in docs/guidance.md, painted by the pocket model.

python benchmarks/guidance.py --write docs/guidance-sheet.jpg
python benchmarks/guidance.py --score 40     # what the detector that aquatint carries says of 40 pictures of each kind
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import aquatint
from aquatint import Request
from aquatint.evaluation.detector import Detector
from aquatint.evaluation.prompts import SINGLE, prompts
from aquatint.evaluation.runs import gather, score
from aquatint.pipelines.guiding import Apg, FreeU, Guiding, Interval, Pag, Sag, Threshold
from aquatint.pipelines.sweep import labelled
from aquatint.training.data.world import MEDIUM

DETECTOR = Path(aquatint.__file__).parent / "evaluation" / "detector.safetensors"

PROMPTS = ("a cat in a meadow", "a yellow star on a blue background", "a panda in the snow")
USUAL = Request(PROMPTS[0], seeds=(4,))
HIGH = {"guidance": 12.0, "rescale": 0.0}
ROWS: dict[str, Request] = {
    "as it is": USUAL,
    "scale 12, no rescale": replace(USUAL, **HIGH),
    "12, threshold": replace(USUAL, **HIGH, guiding=Guiding(threshold=Threshold())),
    "12, mimic 3.5": replace(USUAL, **HIGH, guiding=Guiding(threshold=Threshold(mimic=3.5))),
    "12, APG norm 2": replace(USUAL, **HIGH, guiding=Guiding(apg=Apg(norm=2.0))),
    "12, steps 20 to 80 %": replace(USUAL, **HIGH, guiding=Guiding(interval=Interval(0.2, 0.8))),
    "PAG 1": replace(USUAL, guiding=Guiding(pag=Pag(1.0))),
    "PAG 3": replace(USUAL, guiding=Guiding(pag=Pag())),
    "no scale": replace(USUAL, guidance=1.0),
    "no scale, PAG 3": replace(USUAL, guidance=1.0, guiding=Guiding(pag=Pag())),
    "SAG 0.75": replace(USUAL, guiding=Guiding(sag=Sag())),
    "FreeU 1.1 1.2 0.9 0.6": replace(USUAL, guiding=Guiding(freeu=FreeU(1.1, 1.2, 0.9, 0.6))),
    "FreeU as SD 1.5": replace(USUAL, guiding=Guiding(freeu=FreeU())),
    "negative: itself": replace(USUAL, negative="{thing}"),
    "perp-neg: itself": replace(USUAL, negative="{thing}", guiding=Guiding(perp_neg=1.0)),
}


def sheet(bundle: aquatint.Bundle) -> Image.Image:
    """A picture of each prompt for each kind of guidance, in three columns of kinds."""
    names = list(ROWS)
    third = -(-len(names) // 3)
    blocks = []
    for column in range(3):
        part = names[column * third :][:third]
        pictures = [next_picture(bundle, asking(ROWS[name], prompt)) for name in part for prompt in PROMPTS]
        blocks.append(labelled(pictures, [prompt.split(" ")[1] for prompt in PROMPTS], part))
    made = Image.new("RGB", (sum(block.width for block in blocks), max(block.height for block in blocks)), "white")
    for index, block in enumerate(blocks):
        made.paste(block, (sum(before.width for before in blocks[:index]), 0))
    return made


def asking(request: Request, prompt: str) -> Request:
    """The request for a prompt; a negative of "{thing}" is what the prompt says before the place: "a yellow star"."""
    thing = prompt.split(" on ")[0].split(" in ")[0]
    return replace(request, prompt=prompt, negative=request.negative.format(thing=thing))


def next_picture(bundle: aquatint.Bundle, request: Request) -> Image.Image:
    """The one picture of a request."""
    *_, last = aquatint.generate(bundle, request)
    assert last.picture is not None
    return last.picture.image


def scores(bundle: aquatint.Bundle, each: int) -> None:
    """Print of each kind, in percent: pictures of a single object that are right in everything, with 95 % intervals."""
    detector, asked = Detector.open(DETECTOR), prompts(MEDIUM, SINGLE, -(-each // len(SINGLE)))
    for name, request in ROWS.items():

        def paint(texts: list[str], seeds: list[int], request: Request = request) -> np.ndarray:
            rows = [replace(asking(request, text), seeds=(seed,)) for text, seed in zip(texts, seeds, strict=True)]
            return np.stack([np.asarray(next_picture(bundle, row)) for row in rows])

        found = score(gather(paint, asked), detector, asked, name).total().rows[0].share("all")
        print(f"{name}: {100 * found.value:.1f} ({100 * found.low:.1f}-{100 * found.high:.1f})", flush=True)


def main() -> None:
    """Paint and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--score", type=int, default=0, help="pictures of each kind")
    options = parser.parse_args()
    bundle = aquatint.load()
    if options.write:
        made = sheet(bundle)
        ImageOps.scale(made, 0.5, Image.Resampling.LANCZOS).save(options.write, quality=80)
    if options.score:
        scores(bundle, options.score)


if __name__ == "__main__":
    main()
