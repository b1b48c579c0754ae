"""Frozen dataclasses <-> JSON, strictly, and typed overrides of single fields ("optim.lr=1e-4").

The field types that a configuration may have: bool, int, float, str, None, Literal, another dataclass, tuple (of one
type or of several), Mapping from str, and unions of these. What is written here is read back equal, or not at all.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from aquatint.base.errors import UserError

T = TypeVar("T")
MOST_OPENINGS = 200_000  # lists and objects of one JSON text; CLIP's tokenizer.json has 49,000


def to_data(config: Any) -> Any:
    """A dataclass as plain JSON data: objects, lists, strings, numbers, true, false, null. NaN and inf are refused."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_data(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init}
    if isinstance(config, Mapping):
        return {str(key): to_data(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_data(value) for value in config]
    if isinstance(config, float) and not math.isfinite(config):
        raise UserError(f"{config} cannot be written as JSON.", "Only finite numbers can.")
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise TypeError(f"a configuration cannot hold {type(config).__name__}")


def from_data(kind: type[T], data: Any, where: str = "") -> T:
    """The value of type `kind` that `to_data` wrote as `data`.

    Unknown and missing fields, wrong types, numbers out of range and booleans where numbers are due are UserErrors
    that name the place (`where` is the path so far).
    """
    return typing.cast(T, _read(kind, data, where))


def to_json(config: Any, indent: int | None = None) -> str:
    """`to_data`, as text."""
    return json.dumps(to_data(config), indent=indent, ensure_ascii=False, allow_nan=False)


def from_json(kind: type[T], text: str) -> T:
    """`from_data` of a JSON text; a key that stands twice, NaN and Infinity are refused."""
    return from_data(kind, parse(text))


def parse(text: str, *, most: int = 500_000) -> Any:
    """A JSON text as plain data, with what Python's parser lets pass refused: repeated keys, NaN, endless nesting.

    most   how many commas it may hold; as a value takes up to 150 bytes, memory is bounded before anything is built
    """
    if text.count("[") + text.count("{") > MOST_OPENINGS or text.count(",") > most:
        raise UserError(
            f"This JSON holds {text.count(','):,} commas and {text.count('[') + text.count('{'):,} lists and objects.",
            f"At most {most:,} and {MOST_OPENINGS:,}.",
        )
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except RecursionError:
        raise UserError("This JSON is nested too deeply to be read.", "Files of ours nest five levels.") from None
    except ValueError as error:
        raise UserError(f"This is not JSON: {error}.", "JSON text.") from None


def override(config: T, changes: Mapping[str, Any]) -> T:
    """A copy of `config` with single fields replaced: {"optim.lr": "1e-4", "steps": 100}.

    A string is read as the field's own type ("none", "true", "1,2,3", or JSON for anything longer); any other value
    must already have it. Below a tuple of dataclasses stands an item's `name` or its number: {"loras.ink.weight": 0.5}.
    """
    for path, value in changes.items():
        config = _replaced(config, path, path.split("."), value)
    return config


def _replaced(config: Any, path: str, parts: list[str], value: Any) -> Any:
    if isinstance(config, tuple) and len(parts) > 1 and config and all(map(dataclasses.is_dataclass, config)):
        at = _item(config, parts[0], path)
        return (*config[:at], _replaced(config[at], path, parts[1:], value), *config[at + 1 :])
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise UserError(f'"{path}" leads nowhere: there is nothing below "{path.removesuffix("." + ".".join(parts))}".')
    types_ = _types(type(config))
    name = parts[0]
    if name not in types_:
        raise _no_field(type(config), name, path)
    if len(parts) > 1:
        inner = _replaced(getattr(config, name), path, parts[1:], value)
    elif isinstance(value, str):
        inner = _from_text(types_[name], value, path)
    else:
        inner = _read(types_[name], value, path)
    return dataclasses.replace(config, **{name: inner})


def _item(items: tuple[Any, ...], name: str, path: str) -> int:
    """Which of them has the name, or else the number."""
    names = [str(getattr(item, "name", index)) for index, item in enumerate(items)]
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(items):
        return int(name)
    raise UserError(f'"{path}" names no item "{name}".', f"One of: {', '.join(names)}; or a number from 0.")


def _read(kind: Any, data: Any, where: str) -> Any:
    """`data` as a value of `kind`, a type as a dataclass field spells it."""
    origin = typing.get_origin(kind)
    if kind is Any or dataclasses.is_dataclass(type(data)):
        return data if kind is Any or isinstance(data, kind) else _refuse(kind, data, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _read_object(kind, data, where)
    if origin in (Union, types.UnionType):
        return _read_union(kind, data, where)
    if origin is Literal:
        fits = [value for value in typing.get_args(kind) if value == data and type(value) is type(data)]
        return fits[0] if fits else _refuse(kind, data, where)
    if kind is tuple or origin is tuple:
        return _read_tuple(typing.get_args(kind), kind, data, where)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
            _refuse(kind, data, where)
        inner = typing.get_args(kind)[1]
        return {key: _read(inner, value, _below(where, key)) for key, value in data.items()}
    return _read_scalar(kind, data, where)


def _read_scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is None or kind is type(None):
        return None if data is None else _refuse(kind, data, where)
    if kind not in (bool, int, float, str):
        raise TypeError(f"{where or 'a configuration'} has the type {kind}, which no configuration may have")
    number = isinstance(data, int | float) and not isinstance(data, bool)
    if kind is float and number:
        try:
            value = float(data)
        except OverflowError:
            value = math.inf
        return value if math.isfinite(value) else _refuse(kind, data, where)
    fits = isinstance(data, kind) and (kind is bool or not isinstance(data, bool))
    return data if fits else _refuse(kind, data, where)


def _read_object(kind: type[Any], data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        _refuse(kind, data, where)
    known = _types(kind)
    for name in data:
        if name not in known:
            raise _no_field(kind, str(name), _below(where, str(name)))
    values = {name: _read(known[name], value, _below(where, name)) for name, value in data.items()}
    missing = [field.name for field in dataclasses.fields(kind) if _required(field) and field.name not in values]
    if missing:
        place = f' at "{where}"' if where else ""
        raise UserError(f"{kind.__name__}{place} lacks {', '.join(missing)}.", f"Its fields: {', '.join(known)}.")
    return kind(**values)


def _read_union(kind: Any, data: Any, where: str) -> Any:
    """The member that fits exactly; an integer for `float | str` goes to float, after int was tried."""
    failures = []
    for member in sorted(typing.get_args(kind), key=lambda member: member is float):
        try:
            return _read(member, data, where)
        except UserError as error:
            failures.append((member, error))
    objects = [error for member, error in failures if dataclasses.is_dataclass(member)]
    if isinstance(data, Mapping) and len(objects) == 1:
        raise objects[0]  # the one member it can have been meant for tells more than "does not fit"
    _refuse(kind, data, where)


def _read_tuple(members: tuple[Any, ...], kind: Any, data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list | tuple):
        _refuse(kind, data, where)
    if len(members) == 2 and members[1] is Ellipsis:
        members = (members[0],) * len(data)
    if len(members) != len(data):
        _refuse(kind, data, where)
    pairs = zip(members, data, strict=True)
    return tuple(_read(member, value, f"{where}[{index}]") for index, (member, value) in enumerate(pairs))


def _from_text(kind: Any, text: str, where: str) -> Any:
    """A command line's word as a value of `kind`."""
    origin = typing.get_origin(kind)
    members = typing.get_args(kind) if origin in (Union, types.UnionType) else (kind,)
    for member in sorted(members, key=_eagerness):
        try:
            return _read(member, _plain(member, text), where)
        except (UserError, ValueError):
            continue
    return _refuse(kind, text, where)


def _plain(kind: Any, text: str) -> Any:
    """What `text` says in JSON's terms, if it is meant as `kind`; ValueError if it cannot be."""
    origin, word = typing.get_origin(kind), text.strip().lower()
    if kind is str:
        return text
    if kind is None or kind is type(None):
        return {"none": None, "null": None}.get(word, text)
    if kind is bool:
        return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(word, text)
    if kind is int:
        return int(word)
    if kind is float:
        return float(word)
    if origin is Literal:
        return next((value for value in typing.get_args(kind) if str(value) == text), text)
    if (kind is tuple or origin is tuple) and not text.lstrip().startswith("["):
        members = typing.get_args(kind)
        words = [part.strip() for part in text.split(",")] if text.strip() else []
        inner = [members[min(i, len(members) - 1)] for i in range(len(words))]
        inner = [members[0] if member is Ellipsis else member for member in inner]
        return [_from_text(member, part, "") for member, part in zip(inner, words, strict=True)]
    return parse(text)


def _eagerness(kind: Any) -> int:
    """The order in which a union's members try to read a word: str takes anything, so it comes last."""
    order = [type(None), bool, int, float]
    return order.index(kind) if kind in order else 9 if kind is str else 5


def _refuse(kind: Any, data: Any, where: str) -> typing.NoReturn:
    shown = repr(data) if not isinstance(data, str) else f'"{data}"'
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    place = f"{where}: " if where else ""
    raise UserError(f"{place}{shown} does not fit.", f"It takes {_spelled(kind)}.")


def _no_field(kind: type[Any], name: str, path: str) -> UserError:
    known = _types(kind)
    near = difflib.get_close_matches(name, known, n=1)
    return UserError(
        f'{kind.__name__} has no field "{path}".',
        f"Known: {', '.join(sorted(known))}.",
        f'Did you mean "{near[0]}"?' if near else "",
    )


def _types(kind: type[Any]) -> dict[str, Any]:
    """The fields a configuration is made of, with their types resolved."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _required(field: "dataclasses.Field[Any]") -> bool:
    no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return field.init and no_default


def _spelled(kind: Any) -> str:
    """A type in words: "one of: a, b", "a whole number"."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", type(None): "none"}
    if kind in words:
        return words[kind]
    if origin in (Union, types.UnionType):
        return " or ".join(_spelled(member) for member in members)
    if origin is Literal:
        return "one of: " + ", ".join(str(value) for value in members)
    if origin is tuple:
        if len(members) == 2 and members[1] is Ellipsis:
            return f"a list, each {_spelled(members[0])}"
        return f"a list of {len(members)} ({', '.join(_spelled(member) for member in members)})"
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return f"an object with the fields {', '.join(_types(kind))}"
    return "a list" if kind is tuple else "an object"


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
