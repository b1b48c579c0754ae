"""The pocket model's scores with their controls, its sheet of 64, and the distances: `make scores`.

    python benchmarks/scores.py                      # print
    python benchmarks/scores.py --write README.md    # also renew the part of the README between the `scores` marks
    python benchmarks/scores.py --model runs/pocket/model --each 28    # another model, quicker

Pictures are painted as anybody's are, one by one from the family's defaults (seed i for prompt i); a detector that
aquatint trained on renders (and on nothing that the model was trained with) says what is in them. Takes half an hour on
two cores with `--each 60`. `--train-detector` trains the detector anew and writes it where it is carried.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import aquatint
from aquatint.base import images
from aquatint.evaluation.detector import Detector
from aquatint.evaluation.lessons import train_detector
from aquatint.evaluation.prompts import CATEGORIES, SINGLE, prompts
from aquatint.evaluation.runs import Autoencode, Paint, Pictures, controls, evaluate, fidelity, gather, likeness, truth
from aquatint.training.data.stream import Stream
from aquatint.training.data.world import MEDIUM

ROOT = Path(__file__).parents[1]
DETECTOR = ROOT / "src" / "aquatint" / "evaluation" / "detector.safetensors"
SHEET = ROOT / "docs" / "pocket-sheet.jpg"
CELL = 160  # px a picture in the sheet
BEGIN, END = "<!-- scores: written by `make scores` -->", "<!-- end of scores -->"


def painter(bundle: aquatint.Bundle) -> Paint:
    """A bundle as what `evaluate` takes: one picture a prompt, each painted alone."""

    def paint(texts: list[str], seeds: list[int]) -> Pictures:
        painted = [bundle.paint(text, seed=seed).image for text, seed in zip(texts, seeds, strict=True)]
        return np.stack([np.asarray(image) for image in painted])

    return paint


def autoencoder(bundle: aquatint.Bundle) -> Autoencode:
    """The bundle's autoencoder as pictures -> pictures."""

    def there_and_back(pictures: Pictures) -> Pictures:
        given = [Image.fromarray(picture) for picture in pictures]
        return np.stack([np.asarray(bundle.decode(bundle.encode(image))[0]) for image in given])

    return there_and_back


def report(bundle: aquatint.Bundle, each: int, categories: Sequence[str]) -> str:
    """Everything that the README says of the pocket model, as Markdown."""
    detector, paint, both = Detector.open(DETECTOR), painter(bundle), autoencoder(bundle)
    asked = prompts(MEDIUM, categories, each)
    painted = evaluate(paint, detector, asked)
    table = painted + controls(detector, asked, both)
    single = table.total([c for c in SINGLE if c in categories], "single object, together")
    own = [row for row in painted.rows if "wrong" not in row.source]
    fair = prompts(MEDIUM, ("wording",), 200)
    distances = likeness(
        gather(paint, fair, seed=9_000), detector, Stream(MEDIUM, 77, kinds={"single": 1.0}), range(4000)
    )
    kept = fidelity(truth(asked), both)
    near, fresh = distances["nearest"], distances["nearest_fresh"]
    said = (
        f"Fréchet distance to fresh scenes in the detector's features (`fd_detector`, 200 pictures): "
        f"{distances['fd_detector']:.3f}; between two sets of fresh scenes {distances['fd_detector_floor']:.3f}. "
        f"Distance to the nearest of 4,000 training scenes: {near:.1f}, for fresh scenes {fresh:.1f} (a copyist would "
        f"lie far below it). Autoencoder: PSNR {kept['psnr']:.1f} dB, SSIM {kept['ssim']:.3f}."
    )
    return "\n".join([single.markdown(), type(table)(tuple(own)).markdown(), said])


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--each", type=int, default=84)
    parser.add_argument("--categories", nargs="+", default=list(CATEGORIES))
    parser.add_argument("--write", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--train-detector", action="store_true")
    given = parser.parse_args()
    bundle = aquatint.load(given.model)
    if given.train_detector:
        train_detector(MEDIUM, DETECTOR, autoencode=autoencoder(bundle))
    if given.sheet or given.write:
        counts = {"subject": 24, "shape": 8, "wording": 8, "placed": 8, "pair": 8, "count": 8}
        some = [prompt for name, count in counts.items() for prompt in prompts(MEDIUM, (name,), count)]
        painted = [Image.fromarray(picture).resize((CELL, CELL)) for picture in gather(painter(bundle), some, seed=100)]
        images.sheet(painted, 8).save(given.sheet or SHEET, quality=88)
        print("\n".join(prompt.text for prompt in some))
    text = report(bundle, given.each, given.categories)
    print(text)
    if given.write:
        page = given.write.read_text()
        before, rest = page.split(BEGIN)
        given.write.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
