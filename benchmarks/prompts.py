"""The sheet of docs/prompts.md: what the prompt language does to pictures of the pocket model.

python benchmarks/prompts.py        # writes docs/prompts-sheet.jpg; under a minute on one core
"""

import io
from pathlib import Path

import aquatint
from aquatint.base import files, images

SHEET = Path(__file__).parents[1] / "docs" / "prompts-sheet.jpg"
SEED = 3
PROMPTS = (
    "a cat and a dog in the snow",
    "a (cat:1.8) and a dog in the snow",
    "a [cat:dog:0.2] in the snow",
    "a [cat|dog] in the snow",
    "a red flower in a meadow",
    "a blue [flower:butterfly:0.5] in a meadow",
    "a red flower AND a blue background :0.7",
    "a flower AND red :-0.8",
)


def main() -> None:
    """Paint the prompts, all with one seed, and write the sheet."""
    bundle = aquatint.load(device="cpu")
    sheet = images.sheet([bundle.paint(prompt, seed=SEED).image for prompt in PROMPTS], columns=4)
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=90)
    files.write(SHEET, data.getvalue())


if __name__ == "__main__":
    main()
