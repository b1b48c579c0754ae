"""The sheet of hints in docs/control.md: what each preprocessor makes of a picture of the pocket model.

python benchmarks/control.py --write docs/control-sheet.jpg
"""

import argparse
from pathlib import Path

from PIL import Image, ImageOps

import aquatint
from aquatint.pipelines.preprocess import PREPROCESSORS
from aquatint.pipelines.sweep import labelled

PROMPTS = (("a cat in a meadow", 4), ("a yellow star on a blue background", 6), ("a red apple and a green circle", 2))
WAYS = (
    ("canny", ()),
    ("scribble", ()),
    ("tile", (("scale", 8.0),)),
    ("threshold", ()),
    ("invert", ()),
)


def sheet(bundle: aquatint.Bundle) -> Image.Image:
    """A row for each picture: itself, then its hints."""
    pictures = []
    for prompt, seed in PROMPTS:
        picture = bundle.paint(prompt, seed=seed).image
        pictures += [picture, *(PREPROCESSORS[name](picture, options) for name, options in WAYS)]
    names = [" ".join([name, *(f"{key} {value:g}" for key, value in options)]) for name, options in WAYS]
    return labelled(pictures, ["", *names], [""] * len(PROMPTS))


def main() -> None:
    """Paint and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, required=True)
    path, made = parser.parse_args().write, sheet(aquatint.load())
    ImageOps.scale(made, 0.5, Image.Resampling.LANCZOS).save(path, quality=88)


if __name__ == "__main__":
    main()
