"""The pocket model's scores with their controls, its sheet of 64, and the distances: `make scores`.

    python benchmarks/scores.py                      # print
    python benchmarks/scores.py --write README.md    # also renew the part of the README between the `scores` marks
    python benchmarks/scores.py --model runs/pocket/model --each 28 --pictures runs/mine    # another model, quicker

What is painted and measured is what `aquatint evaluate` does (docs/evaluation.md). Pictures are kept in --pictures, so
that a run that was stopped goes on. Takes half an hour on two cores with `--each 60`. `--train-detector` trains the
detector anew and writes it where it is carried.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

import aquatint
from aquatint.base import images
from aquatint.evaluation import sets, spaces
from aquatint.evaluation.detector import Detector
from aquatint.evaluation.lessons import Autoencode, train_detector
from aquatint.evaluation.measures import Eyes, measure
from aquatint.evaluation.painted import open_painted, settings_of
from aquatint.evaluation.prompts import CATEGORIES, SINGLE, prompts
from aquatint.evaluation.runs import Table
from aquatint.training.data.world import MEDIUM

ROOT = Path(__file__).parents[1]
SHEET = ROOT / "docs" / "pocket-sheet.jpg"
CELL = 160  # px a picture in the sheet
BEGIN, END = "<!-- scores: written by `make scores` -->", "<!-- end of scores -->"


def autoencoder(bundle: aquatint.Bundle) -> Autoencode:
    """The bundle's autoencoder as pictures -> pictures."""

    def there_and_back(pictures: np.ndarray) -> np.ndarray:
        given = [Image.fromarray(picture) for picture in pictures]
        return np.stack([np.asarray(bundle.decode(bundle.encode(image))[0]) for image in given])

    return there_and_back


def report(bundle: aquatint.Bundle, folder: Path, each: int, categories: Sequence[str]) -> str:
    """Everything that the README says of the pocket model, as Markdown."""
    asked = sets.pocket(each, categories)
    painted = open_painted(folder, settings_of(bundle, aquatint.Request("any"), asked), asked)
    painted.paint(bundle)
    eyes = Eyes((spaces.detector(),), Detector.open(spaces.DETECTOR))
    found, _ = measure(painted, eyes, bundle, training=sets.taught(), reconstruct=len(painted))
    assert found.scores is not None, "the pocket world's prompts are scored"
    single = found.scores.total([c for c in SINGLE if c in categories], "single object, together")
    own = Table(tuple(row for row in found.scores.rows if row.source == "painted"))
    figures = {one.name: one.value or 0.0 for one in found.figures}
    near, fresh = (median(found.values[name]) for name in ("nearest_thumbs", "nearest_thumbs/true"))
    said = (
        f"Fréchet distance to fresh scenes in the detector's features (`fd_detector`, {len(painted)} pictures): "
        f"{figures['fd_detector']:.3f}; of true renders of the same prompts {figures['fd_detector_floor']:.3f}. "
        f"Distance to the nearest of {sets.SCENES:,} training scenes: {near:.1f}, for fresh scenes {fresh:.1f} (a "
        f"copyist would lie far below it). Autoencoder: PSNR {figures['psnr']:.1f} dB, SSIM {figures['ssim']:.3f}."
    )
    return "\n".join([single.markdown(), own.markdown(), said])


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--each", type=int, default=84)
    parser.add_argument("--categories", nargs="+", default=list(CATEGORIES))
    parser.add_argument("--pictures", type=Path, default=Path("runs/scores"))
    parser.add_argument("--write", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--train-detector", action="store_true")
    given = parser.parse_args()
    bundle = aquatint.load(given.model)
    if given.train_detector:
        train_detector(MEDIUM, spaces.DETECTOR, autoencode=autoencoder(bundle))
    if given.sheet or given.write:
        counts = {"subject": 24, "shape": 8, "wording": 8, "placed": 8, "pair": 8, "count": 8}
        some = [prompt for name, count in counts.items() for prompt in prompts(MEDIUM, (name,), count)]
        painted = [bundle.paint(prompt.text, seed=100 + index).image for index, prompt in enumerate(some)]
        images.sheet([image.resize((CELL, CELL)) for image in painted], 8).save(given.sheet or SHEET, quality=88)
        print("\n".join(prompt.text for prompt in some))
    text = report(bundle, given.pictures, given.each, given.categories)
    print(text)
    if given.write:
        page = given.write.read_text()
        before, rest = page.split(BEGIN)
        given.write.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
