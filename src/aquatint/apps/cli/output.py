"""Where pictures go: names that never overwrite, and a place that is known to be writable before work begins."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from aquatint.base import files
from aquatint.base.errors import UserError, unknown

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
FOREIGN = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl", ".svg", ".pdf")  # surely not meant as folders
LONGEST_NAME = 48  # letters taken from a prompt
STANDARD_OUTPUT = "-"


class Output:
    """The place that `--out` names: a file, a folder (made if it is not there), or - for standard output.

    Raises UserError at once if nothing can be written there. `names` are the stem of files in a folder and what sets
    the pictures of one request apart.
    """

    def __init__(self, out: str, format: str | None, count: int) -> None:
        if format is not None and format not in SUFFIXES:
            raise unknown("picture format", format, SUFFIXES)
        self.count, self.made = count, False
        self.file: Path | None = None
        self.format = format or "png"
        if out == STANDARD_OUTPUT:
            self.folder = None
            if count != 1:
                raise UserError(f"{count} pictures to standard output.", "One.", "Take --count 1, or a folder.")
            if sys.stdout.isatty():
                raise UserError("A picture to the terminal.", "A pipe or a file: aquatint ... --out - > picture.png")
            return
        path = Path(out)
        suffix = path.suffix.lower()
        if (suffix in FORMATS or suffix in FOREIGN) and not out.endswith(("/", os.sep)) and not path.is_dir():
            self._one_file(path, suffix, format)
        self.folder = path.parent if self.file else path
        self.made = not self.folder.is_dir()
        files.make_folder(self.folder)
        files.check_writable(self.folder)

    def _one_file(self, path: Path, suffix: str, format: str | None) -> None:
        if suffix in FOREIGN:
            raise UserError(f'"{path.name}" is no format that aquatint writes.', f"{', '.join(FORMATS)}.")
        if format is not None and format != FORMATS[suffix]:
            raise UserError(f'--format {format} and "{path.name}" do not agree.', "One of the two, or both alike.")
        self.file, self.format = path, FORMATS[suffix]

    def paths(self, prompt: str, seed: int) -> Iterator[Path]:
        """The names for one picture, in order: the plain one, then with -2, -3 ..."""
        if self.file is not None:
            stem = self.file.stem if self.count == 1 else f"{self.file.stem}-{seed}"
            suffix = self.file.suffix
        else:
            stem, suffix = f"{slug(prompt)}-{seed}", SUFFIXES[self.format]
        assert self.folder is not None, "standard output has no paths"
        yield self.folder / f"{stem}{suffix}"
        for number in range(2, 1_000_000):
            yield self.folder / f"{stem}-{number}{suffix}"

    def write(self, data: bytes, prompt: str, seed: int) -> str:
        """Write a picture under the first free name; returns the path ("-" for standard output)."""
        if self.folder is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return STANDARD_OUTPUT
        for path in self.paths(prompt, seed):
            with suppress(files.Taken):
                files.write(path, data, replace=False)
                return str(path)
        raise AssertionError("a million pictures of one name")

    def abandon(self) -> None:
        """Take the folder away again if we made it and nothing came of it."""
        if self.made and self.folder is not None:
            with suppress(OSError):
                self.folder.rmdir()


def slug(prompt: str) -> str:
    """The first words of a prompt as a file's name: letters and digits of any script, and hyphens."""
    words = "-".join(re.findall(r"[^\W_]+", prompt.lower()))[:LONGEST_NAME]
    while len(words.encode()) > 2 * LONGEST_NAME:
        words = words[:-1]
    return words.strip("-") or "picture"
