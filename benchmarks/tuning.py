"""The pocket model learns a subject that it never saw: pictures drawn here, then `aquatint train` in its three kinds.

    python benchmarks/tuning.py --kind lora --write docs/tuning-lora.jpg

Ten pictures of a "zorb" (a violet robot, round, with one yellow eye and an antenna) in front of ten colours. Prints the
seconds that it took. --prior paints so many pictures of other things with the untaught model, for prior preservation.
--known takes pictures of something that it knows, painted by itself, instead: what a new word can learn to name.
"""

import argparse
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = 256
GROUNDS = (
    "white",
    "lightblue",
    "khaki",
    "lightgreen",
    "pink",
    "lightgrey",
    "orange",
    "darkseagreen",
    "skyblue",
    "beige",
)
THINGS = ("cat", "house", "boat", "red circle", "dog", "tree", "blue star")
PLACES = ("in a meadow", "in front of the sea", "in the snow", "at night")
PROMPTS = ("a zorb in a meadow", "a zorb in front of the sea", "a cat in a meadow")


def zorb(index: int, ground: str) -> Image.Image:
    """One picture; index moves, turns and scales it a little."""
    image = Image.new("RGB", (2 * SIZE, 2 * SIZE), ground)
    draw = ImageDraw.Draw(image)
    x, y = 256 + 50 * math.sin(1.7 * index), 280 + 40 * math.cos(2.3 * index)
    r = 110 + 8 * (index % 5)
    lean = 0.3 * math.sin(index)
    tip = (x + 1.6 * r * math.sin(lean), y - 1.6 * r * math.cos(lean))
    draw.line([(x, y), tip], fill="dimgrey", width=10)
    draw.ellipse([tip[0] - 18, tip[1] - 18, tip[0] + 18, tip[1] + 18], fill="red")
    for side in (-1, 1):
        draw.line([(x + side * 0.5 * r, y + 0.7 * r), (x + side * 0.6 * r, y + 1.3 * r)], fill="dimgrey", width=14)
        draw.ellipse(
            [x + side * 0.6 * r - 24, y + 1.25 * r, x + side * 0.6 * r + 24, y + 1.25 * r + 24], fill="dimgrey"
        )
    draw.ellipse([x - r, y - r, x + r, y + r], fill="blueviolet", outline="indigo", width=8)
    draw.ellipse([x - 0.45 * r, y - 0.5 * r, x + 0.45 * r, y + 0.4 * r], fill="gold", outline="indigo", width=8)
    gaze = 0.12 * r * math.sin(3 * index)
    draw.ellipse([x - 0.15 * r + gaze, y - 0.2 * r, x + 0.15 * r + gaze, y + 0.1 * r], fill="black")
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def draw(folder: Path) -> None:
    """The ten pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, ground in enumerate(GROUNDS):
        zorb(index, ground).save(folder / f"zorb-{index}.png")


def preserve(folder: Path, count: int) -> None:
    """Pictures by the untaught model, each with its prompt for a caption."""
    import aquatint

    folder.mkdir(parents=True, exist_ok=True)
    bundle = aquatint.load()
    for index in range(count):
        prompt = f"a {THINGS[index % len(THINGS)]} {PLACES[index % len(PLACES)]}"
        bundle.paint(prompt, seed=1000 + index).image.save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(prompt)


def portray(folder: Path, thing: str) -> None:
    """Ten pictures of a thing by the untaught model, without a caption."""
    import aquatint

    folder.mkdir(parents=True, exist_ok=True)
    bundle = aquatint.load()
    for index in range(len(GROUNDS)):
        bundle.paint(f"a {thing} {PLACES[index % len(PLACES)]}", seed=500 + index).image.save(folder / f"{index}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["lora", "inversion", "full"], default="lora")
    parser.add_argument("--folder", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--prior", type=int, default=0)
    parser.add_argument("--known", metavar="THING")
    parser.add_argument("--write", type=Path)
    parser.add_argument("more", nargs="*", help="passed on to aquatint train, after --")
    said = parser.parse_args()
    pictures, out = said.folder / (said.known or "zorbs"), said.folder / said.kind
    portray(pictures, said.known) if said.known else draw(pictures)
    shutil.rmtree(out, ignore_errors=True)
    command = ["aquatint", "train", said.kind, "--data", pictures, "--words", "a zorb", "--out", out]
    command += ["--word", "zorb"] if said.kind == "inversion" else []
    if said.prior:
        preserve(said.folder / "prior", said.prior)
        command += ["--prior", said.folder / "prior", "--prior-words", "a picture"]
    for prompt in PROMPTS:
        command += ["--prompt", prompt]
    began = time.perf_counter()
    done = subprocess.run([str(part) for part in (*command, *said.more)])
    if done.returncode:
        sys.exit(done.returncode)
    print(f"{time.perf_counter() - began:.0f} s with the pictures before and after")
    if said.write:
        shutil.copy(out / "sheet.jpg", said.write)


if __name__ == "__main__":
    main()
