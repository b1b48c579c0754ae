"""The sheet of edits in docs/edits.md, painted by the pocket model.

python benchmarks/edits.py --write docs/edits-sheet.jpg
"""

import argparse
from pathlib import Path

from PIL import Image, ImageOps

import aquatint
from aquatint import Edit, Outpaint, given
from aquatint.pipelines.sweep import labelled

SIDE = 256


def sheet(bundle: aquatint.Bundle) -> Image.Image:
    """Three rows: from a picture, further and further; within a mask; beyond the edges."""
    cat = bundle.paint("a cat in a meadow", seed=4).image
    first = [("", cat)]
    for strength in (0.3, 0.5, 0.7, 0.9):
        panda = bundle.paint("a panda in the snow", seed=4, edit=Edit(given(cat), strength=strength))
        first.append((f"a panda, {strength:g}", panda.image))
    apple = bundle.paint("a red apple on a blue background", seed=6).image
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (16, 16, 240, 240))
    second = [("", apple), ("mask", mask.convert("RGB"))]
    for subject in ("a yellow star", "a green circle", "a cat"):
        edit = Edit(given(apple), mask=given(mask), strength=1.0, fill="noise")
        second.append((subject, bundle.paint(f"{subject} on a blue background", seed=6, edit=edit).image))
    sides = Edit(given(cat), strength=1.0, blur=12.0, outpaint=Outpaint(left=128, right=128))
    wide = bundle.paint("a meadow", seed=4, edit=sides).image
    rows = [labelled([picture for _, picture in row], [label for label, _ in row], [""]) for row in (first, second)]
    rows.append(labelled([wide], ["128 pixels more at either side"], [""]))
    made = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    for index, row in enumerate(rows):
        made.paste(row, (0, sum(above.height for above in rows[:index])))
    return made


def main() -> None:
    """Paint and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, required=True)
    path, made = parser.parse_args().write, sheet(aquatint.load())
    ImageOps.scale(made, 0.5, Image.Resampling.LANCZOS).save(path, quality=88)


if __name__ == "__main__":
    main()
