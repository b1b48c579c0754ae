"""The sheet of larger pictures and variations in docs/enlarging.md, painted by the pocket model.

python benchmarks/enlarging.py --write docs/enlarging-sheet.jpg
"""

import argparse
from pathlib import Path

from PIL import Image, ImageOps

import aquatint
from aquatint import Hires, Tiling, Variation
from aquatint.base.images import sheet as side_by_side
from aquatint.pipelines.sweep import labelled

HIRES = (("latent", 0.1), ("lanczos", 0.1), ("lanczos", 0.3), ("latent", 0.7))


def sheet(bundle: aquatint.Bundle) -> Image.Image:
    """From one seed to another; from 256 pixels to 512; a tile laid four times, and windows over a wide canvas."""
    house = "a house in the snow"
    turned = [
        bundle.paint(house, seed=1, variation=Variation(2, share)).image for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    first = labelled(turned, ["seed 1", "0.2", "0.4", "0.6", "0.8", "seed 2"], [""])
    plain, tile = bundle.paint(house, seed=2).image, bundle.paint(house, seed=2, seamless="both").image
    corners = [side_by_side([one] * 4, 2).crop((128, 128, 384, 384)) for one in (plain, tile)]
    first = _beside([first, labelled(corners, ["four, laid", "seamless"], [""])])
    small = bundle.paint("a cat in a meadow", seed=4).image
    large = [small.resize((512, 512), Image.Resampling.LANCZOS)]
    large += [
        bundle.paint("a cat in a meadow", seed=4, hires=Hires(upscaler=name, strength=strength)).image
        for name, strength in HIRES
    ]
    second = labelled(large, ["256, enlarged", *(f"{name}, {strength:g}" for name, strength in HIRES)], [""])
    meadow = {"seed": 4, "width": 512}
    alone = bundle.paint("a meadow", **meadow).image
    wide = bundle.paint("a meadow", **meadow, tiling=Tiling(256, 256, 128, "gaussian")).image
    cats = bundle.paint("a cat in a meadow", **meadow).image
    windows = bundle.paint("a cat in a meadow", **meadow, tiling=Tiling(256, 256, 128, "gaussian")).image
    third = [labelled([side_by_side([tile] * 4, 2)], ["seamless, laid 2 x 2"], [""])]
    third += [
        _below([labelled([above], [f"{label}, 512 x 256"], [""]), below])
        for label, above, below in (("at once", alone, cats), ("in windows of 256", wide, windows))
    ]
    return _below([first, second, _beside(third)])


def _beside(parts: list[Image.Image]) -> Image.Image:
    made = Image.new("RGB", (sum(part.width for part in parts), max(part.height for part in parts)), "white")
    for index, part in enumerate(parts):
        made.paste(part, (sum(before.width for before in parts[:index]), 0))
    return made


def _below(parts: list[Image.Image]) -> Image.Image:
    made = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    for index, part in enumerate(parts):
        made.paste(part, (0, sum(before.height for before in parts[:index])))
    return made


def main() -> None:
    """Paint and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, required=True)
    path, made = parser.parse_args().write, sheet(aquatint.load())
    ImageOps.scale(made, 0.5, Image.Resampling.LANCZOS).save(path, quality=85)


if __name__ == "__main__":
    main()
