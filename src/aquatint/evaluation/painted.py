"""A folder of painted pictures, one a prompt: what was asked of which model, and each picture by its number.

settings.json        what is painted here; a run with other settings refuses the folder
pictures/000000.png  picture 0, and so on, each whole or not there, each with its record
timing.json          seconds of painting, summed over all sittings

A run that was stopped paints what is not there. A picture is painted alone from seed + its number, so that it is the
same in any sitting.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from PIL import Image

from aquatint.base import config, files, images
from aquatint.base.errors import UserError
from aquatint.base.runtime import Key
from aquatint.evaluation.sets import Asked, Facts
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.generate import generate
from aquatint.pipelines.plan import files_of, planned
from aquatint.pipelines.record import File, Model
from aquatint.pipelines.request import LARGEST_SEED, Request

SETTINGS, PICTURES, TIMING = "settings.json", "pictures", "timing.json"
VERSION = 1
Tell = Callable[[int, int], None]  # pictures that are there, and all


@dataclass(frozen=True)
class Settings:
    """All that the painted pictures follow from.

    prompts    the set
    request    of every picture, but for its prompt and with the first one's seed; nothing in it is left open
    files      adapters that took part
    """

    version: int
    prompts: Facts
    model: Model
    request: Request
    key: Key
    files: tuple[File, ...] = ()


def settings_of(bundle: Bundle, request: Request, asked: Asked) -> Settings:
    """The settings of a run; UserError for what the model cannot do, and for seeds beyond the last."""
    if len(request.seeds) != 1:
        raise UserError(f"{len(request.seeds)} seeds.", "One, of the first picture.")
    if request.seeds[0] + len(asked.prompts) > LARGEST_SEED:
        raise UserError(f"Seeds from {request.seeds[0]} on for {len(asked.prompts)} pictures.", "A smaller first seed.")
    resolved = request.resolved(bundle.family)
    parts = (*files_of([planned(bundle, resolved, resolved.steps, None)]), *bundle.learned.values())
    plain = Request(**{field.name: getattr(resolved, field.name) for field in fields(Request)})
    return Settings(VERSION, asked.facts, bundle.model, plain, bundle.key, parts)


class Painted:
    """The pictures of a run, there or yet to be painted."""

    def __init__(self, folder: Path, settings: Settings, asked: Asked) -> None:
        self.folder, self.settings, self.asked = folder, settings, asked

    def path(self, number: int) -> Path:
        """Of a picture's file."""
        return self.folder / PICTURES / f"{number:06d}.png"

    def __len__(self) -> int:
        return len(self.asked.prompts)

    def __getitem__(self, number: int) -> Image.Image:
        """A picture, painted before; UserError where it is damaged."""
        path = self.path(number)
        try:
            return images.rgb(images.decode(files.read(path, limit=images.LARGEST_FILE)))
        except UserError as error:
            raise UserError(f'"{path}": {error.got}', error.takes, "Delete it: it is then painted again.") from None

    def __iter__(self) -> Iterator[Image.Image]:
        return (self[number] for number in range(len(self)))

    @property
    def seconds(self) -> float:
        """Of painting, over all sittings."""
        path = self.folder / TIMING
        data = files.read_json(path) if path.exists() else {}
        spent = data.get("painting") if isinstance(data, dict) else None
        return float(spent) if isinstance(spent, int | float) else 0.0

    def paint(self, bundle: Bundle, tell: Tell | None = None) -> None:
        """Paint what is not there, and say after each how many are; stopped, it leaves what it has painted."""
        files.make_folder(self.folder / PICTURES)
        for number, prompt in enumerate(self.asked.prompts):
            if not self.path(number).exists():
                began = time.perf_counter()
                self._paint(bundle, number, prompt)
                spent = self.seconds + time.perf_counter() - began
                files.write(self.folder / TIMING, config.to_json({"painting": round(spent, 3)}))
            if tell is not None:
                tell(number + 1, len(self))

    def _paint(self, bundle: Bundle, number: int, prompt: str) -> None:
        seed = self.settings.request.seeds[0] + number
        *_, last = generate(bundle, replace(self.settings.request, prompt=prompt, seeds=(seed,)))
        assert last.picture is not None, "a request's last progress brings its picture"
        files.write(self.path(number), last.picture.encode("png"))


def open_painted(folder: Path, settings: Settings, asked: Asked) -> Painted:
    """The run's folder, new or begun with the same settings; UserError for another run's, and for no run's."""
    files.make_folder(folder)
    path = folder / SETTINGS
    if path.exists():
        if changed := differences(read_settings(folder), settings):
            raise UserError(
                f'"{folder}" is a run with other settings: {"; ".join(changed[:4])}.',
                "The settings that it was begun with.",
                "Name another --out.",
            )
    elif (folder / PICTURES).exists():
        raise UserError(f'"{folder}" has pictures and no {SETTINGS}.', "A folder of a run, or none.", "Name another.")
    else:
        files.write(path, config.to_json(settings, indent=1))
    return Painted(folder, settings, asked)


def read_settings(folder: Path) -> Settings:
    """The settings of a run's folder."""
    path = folder / SETTINGS
    try:
        return config.from_data(Settings, files.read_json(path))
    except UserError as error:
        raise UserError(
            f'"{folder}" is not a run that can be read: {error.got}', error.takes, "A folder of aquatint evaluate."
        ) from None


def differences(old: Settings, new: Settings, apart: tuple[str, ...] = ()) -> list[str]:
    """What two runs differ in, as "request.steps 20, not 12"; names do not count, nor what is in `apart`."""
    free = ("model.name", "model.file", "prompts.name", *apart)
    before, after = flat(config.to_data(old)), flat(config.to_data(new))
    names = [name for name in {**before, **after} if not any(name == one or name.startswith(f"{one}.") for one in free)]
    return [
        f"{name} {str(before.get(name))[:60]}, not {str(after.get(name))[:60]}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Data of nested objects as one object: {"request.steps": 20, ...}."""
    if not isinstance(data, dict):
        return {prefix: data}
    return {
        inner: value
        for name, part in data.items()
        for inner, value in flat(part, f"{prefix}.{name}" if prefix else name).items()
    }
