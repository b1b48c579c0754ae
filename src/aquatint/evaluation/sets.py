"""What is asked in an evaluation, the pocket world's prompts or the user's, and the pictures to hold them against.

A set of the user's is a text file with a prompt a line; a .jsonl file of {"prompt": ..., "image": ..., "category": ...}
in which only the prompt must be there and images lie in the file's folder; or a folder of pictures with captions, as
training takes it. Pictures beside prompts are the references.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from aquatint.base import config, files
from aquatint.base.errors import UserError, unknown
from aquatint.evaluation.prompts import CATEGORIES, Prompt, prompts
from aquatint.pipelines.request import Request
from aquatint.training.data import folder
from aquatint.training.data.render import font_path, render
from aquatint.training.data.scenes import Scene
from aquatint.training.data.stream import Stream
from aquatint.training.data.world import MEDIUM, World
from aquatint.weights.store import inside

POCKET = "pocket"
MOST = 100_000  # prompts
LARGEST = 256 * 2**20  # bytes of a file of prompts
OTHERS = 2  # reference pictures for each prompt of the pocket world
FIELDS = ("prompt", "image", "category")
TRAINED = Stream(
    MEDIUM, 2030
)  # the scenes that recipes/pocket.py taught the carried model, of which the first are searched
SCENES = 4_000
_SILENT = "\0"  # in place of a caption that is not there; no caption is that
_TAKES = 'pocket; a text file, one prompt a line; a .jsonl file of {"prompt": ...}; a folder of captioned pictures.'


@dataclass(frozen=True)
class Facts:
    """Which pictures or prompts these were: a name for people, the sha256 of all that they are, and how many."""

    name: str
    digest: str
    count: int


@dataclass(frozen=True)
class Gallery:
    """Pictures that are drawn or read anew each time that they are looked at, with captions if they have any."""

    facts: Facts
    _show: Callable[[int], Image.Image]
    captions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.facts.count

    def __iter__(self) -> Iterator[Image.Image]:
        return map(self._show, range(len(self)))

    def __getitem__(self, index: int) -> Image.Image:
        return self._show(index)

    def spread(self, count: int) -> list[int]:
        """The numbers of `count` of them, evenly spaced, or of all."""
        few = min(count, len(self))
        return [index * len(self) // few for index in range(few)]


@dataclass(frozen=True)
class Asked:
    """A set: prompts with their categories ("" for none), and what belongs to them.

    scenes      the pocket world's prompts with their truths, for the detector; none in a set of the user's
    truths      the renders of these: what a perfect painter would paint
    references  true pictures to measure distances to
    """

    facts: Facts
    prompts: tuple[str, ...]
    categories: tuple[str, ...]
    scenes: tuple[Prompt, ...] = ()
    truths: Gallery | None = None
    references: Gallery | None = None


def pocket(each: int, categories: Sequence[str] = CATEGORIES, world: World = MEDIUM) -> Asked:
    """`each` prompts of every category of the pocket world, their renders, and the renders of twice as many others.

    The others are the references: what is painted and what would be perfect are equally strange to them, so that the
    distance of the latter is what no painter can go below. UserError for fewer than two (the wrong-caption control
    needs another) and where the emoji font is missing.
    """
    if not 2 <= each <= 1_000:
        raise UserError(f"{each} prompts a category.", "2 to 1,000.")
    font_path()
    drawn = [prompts(world, (category,), (1 + OTHERS) * each) for category in categories]
    scenes = tuple(prompt for some in drawn for prompt in some[:each])
    others = [prompt for some in drawn for prompt in some[each:]]
    words, kinds = tuple(prompt.text for prompt in scenes), tuple(prompt.category for prompt in scenes)
    truths, references = (
        rendered(name, [prompt.scene for prompt in some], [prompt.text for prompt in some])
        for name, some in (("true renders", scenes), ("renders of other prompts", others))
    )
    return Asked(_facts(POCKET, words, kinds), words, kinds, scenes, truths, references)


def rendered(name: str, scenes: Sequence[Scene], captions: Sequence[str] = ()) -> Gallery:
    """The renders of scenes."""
    digest = hashlib.sha256(config.to_json(scenes).encode()).hexdigest()
    return Gallery(
        Facts(name, digest, len(scenes)), lambda index: Image.fromarray(render(scenes[index])), tuple(captions)
    )


def taught(count: int = SCENES) -> Gallery:
    """Renders of the first scenes that the carried model was taught with."""
    return rendered("scenes of its training", [TRAINED.scene(index) for index in range(count)])


def read(path: str | Path, each: int | None = None, categories: Sequence[str] = ()) -> Asked:
    """A set of the user's, whole and checked; the first `each` prompts of every category, or all.

    UserError for what cannot be read, naming the line, and for pictures that are not there.
    """
    path = Path(path).expanduser()
    with files.telling(path, "read"):
        if not path.exists():
            raise UserError(f'There is no set "{path}".', _TAKES, "Check the path.")
        kind = "folder" if path.is_dir() else path.suffix.lower()
    rows = _folder(path) if kind == "folder" else _lines(path, as_json=kind == ".jsonl")
    if not rows:
        raise UserError(f'"{path}" holds no prompt.', _TAKES)
    rows = _chosen(rows, each, categories)
    words, kinds = tuple(row.prompt for row in rows), tuple(row.category for row in rows)
    shown = [row for row in rows if row.image is not None]
    seen = (
        gallery(path.name, [row.image for row in shown if row.image], [row.prompt for row in shown]) if shown else None
    )
    return Asked(_facts(path.name, words, kinds), words, kinds, references=seen)


def pictures(path: str | Path) -> Gallery:
    """A folder of pictures, with or without captions."""
    found = folder.read(path, words=(_SILENT,))
    captions = [one.caption for one in found]
    return gallery(Path(path).name, [one.path for one in found], () if _SILENT in captions else captions)


def gallery(name: str, paths: Sequence[Path], captions: Sequence[str] = ()) -> Gallery:
    """Pictures by their paths; each is decoded once here, so that a damaged one is told before hours of work."""
    total = hashlib.sha256()
    for path in paths:
        shown(path)
        total.update(files.measure(path)[1].encode())
    return Gallery(Facts(name, total.hexdigest(), len(paths)), lambda index: shown(paths[index]), tuple(captions))


def shown(path: Path) -> Image.Image:
    """A picture of the user's, RGB; UserError with its path for what is none."""
    return folder.Example(path, "").picture()


@dataclass(frozen=True)
class _Row:
    prompt: str
    category: str = ""
    image: Path | None = None


def _facts(name: str, words: Sequence[str], kinds: Sequence[str]) -> Facts:
    text = json.dumps([*zip(words, kinds, strict=True)], ensure_ascii=False)
    return Facts(name, hashlib.sha256(text.encode()).hexdigest(), len(words))


def _folder(path: Path) -> list[_Row]:
    rows = [_Row(one.caption, image=one.path) for one in folder.read(path)]
    for row in rows:
        try:
            Request(row.prompt)
        except UserError as error:
            raise UserError(f'"{row.image}": {error.got}', error.takes, error.remedy) from None
    return rows


def _lines(path: Path, *, as_json: bool) -> list[_Row]:
    """The prompts of a file, in order; empty lines are none."""
    rows: list[_Row] = []
    for number, line in enumerate(files.read_text(path, limit=LARGEST).splitlines(), start=1):
        if not line.strip():
            continue
        if len(rows) == MOST:
            raise UserError(f'"{path}" holds more than {MOST:,} prompts.', f"At most {MOST:,}.")
        try:
            row = _object(line, path.parent) if as_json else _Row(line.strip())
            Request(row.prompt)
        except UserError as error:
            raise UserError(f'"{path}", line {number}: {error.got}', error.takes, error.remedy) from None
        rows.append(row)
    return rows


def _object(line: str, root: Path) -> _Row:
    data: Any = None
    with suppress(ValueError, RecursionError):
        data = json.loads(line)
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()) or "prompt" not in data:
        raise UserError("this is no prompt.", '{"prompt": "a cat", "image": "cat.png", "category": "animals"}.')
    if odd := [name for name in data if name not in FIELDS]:
        raise unknown("field", odd[0], FIELDS)
    image = inside(root, data["image"]) if "image" in data else None
    if image is not None and not image.is_file():
        raise UserError(f'the picture "{data["image"][:200]}" is not there.', "A file in the folder of the set.")
    return _Row(data["prompt"].strip(), data.get("category", "").strip(), image)


def _chosen(rows: list[_Row], each: int | None, categories: Sequence[str]) -> list[_Row]:
    """Those of the categories named, the first `each` of every one."""
    known = dict.fromkeys(row.category for row in rows)
    for name in categories:
        if name not in known:
            raise unknown("category", name, known)
    if each is not None and each < 1:
        raise UserError(f"{each} prompts a category.", "1 or more.")
    left = {name: len(rows) if each is None else each for name in categories or known}
    kept = []
    for row in rows:
        if left.get(row.category, 0):
            left[row.category] -= 1
            kept.append(row)
    return kept
