"""`aquatint train FILE.py`: a recipe of one's own, with settings that the command line may change."""

import importlib.util
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquatint.apps.cli.taught import changed
from aquatint.base import config, files
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.training.recipe import Recipe

FILE = re.compile(r"(.+\.py)(?::(\w+))?")
TAKES = "A Python file with a function recipe(settings: Settings) -> Recipe, whose settings are a dataclass."


def is_file(name: str) -> bool:
    """Whether this names a recipe's file, as mine.py or recipes/stable.py:unet."""
    return FILE.fullmatch(name) is not None


def opened(name: str, changes: Sequence[str]) -> "tuple[Any, Recipe]":
    """The settings, changed, and the recipe that the file's function makes of them. Runs the file, as Python would.

    name   FILE.py for its `recipe`, FILE.py:FUNCTION for another function

    UserError for a file that is not there or holds no such function, and for a setting that it has not.
    """
    match = FILE.fullmatch(name)
    assert match is not None, "is_file was asked"
    path, function = Path(match[1]), match[2] or "recipe"
    module = _run(path)
    maker = getattr(module, function, None)
    if not callable(maker):
        raise UserError(f'"{path}" has no function {function}.', TAKES)
    settings = config.override(_settings_of(maker, f'{function} of "{path}"')(), changed(changes))
    from aquatint.training.recipe import Recipe

    made = maker(settings)
    if not isinstance(made, Recipe):
        raise UserError(f'{function} of "{path}" gave {type(made).__name__}.', "A Recipe.", TAKES)
    return settings, made


def run(name: str, changes: Sequence[str], out: Path | None, *, dry: bool, tensorboard: bool) -> None:
    """Carry a file's recipe out in a folder (runs/NAME if none is named), or print it resolved and stop."""
    from aquatint.apps.cli.bar import Bar
    from aquatint.evaluation import course
    from aquatint.training import account, parallel
    from aquatint.training.loop import train

    settings, recipe = opened(name, changes)
    recipe = replace(recipe, tensorboard=tensorboard or recipe.tensorboard)
    if dry:
        resolved = account.described(recipe, parallel.join().world)
        print(json.dumps({"file": name, "settings": config.to_data(settings)} | resolved, indent=2))
        return
    folder = out or Path("runs") / recipe.name
    with Bar() as bar:
        train(recipe, folder, bar.tell)
    if parallel.share().rank == 0:
        print(course.write(folder))


def _settings_of(maker: Callable[..., Any], where: str) -> type:
    """The dataclass that a recipe's function takes, by the annotation of its only argument."""
    hints = typing.get_type_hints(maker)
    names = list(inspect.signature(maker).parameters)
    kind = hints.get(names[0]) if len(names) == 1 else None
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise UserError(f"{where} says no dataclass for its one argument.", TAKES)
    return kind


def _run(path: Path) -> Any:
    with files.telling(path, "read"):
        if not path.is_file():
            raise UserError(f'There is no file "{path}".', TAKES)
    name = f"recipe_{path.stem}"  # a file called torch.py is not to be torch
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their annotations up there
    sys.path.insert(0, str(path.parent.resolve()))
    spec.loader.exec_module(module)
    return module
