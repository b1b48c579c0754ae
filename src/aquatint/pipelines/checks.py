"""Checks of single numbers, for the values that a request is made of."""

import math
import operator
from typing import Any

from aquatint.base.errors import UserError

LONGEST_NAME = 200  # letters


def whole(name: str, value: Any, low: int, high: int) -> int:
    """The value as an int; UserError for what is no whole number from low to high."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool) or not low <= found <= high:
        raise UserError(f"{name} = {shown(value)}.", f"A whole number from {low} to {high}.")
    return found


def number(name: str, value: Any, low: float, high: float) -> float:
    """The value as a float; UserError for what is no number from low to high."""
    found = math.nan
    if not isinstance(value, bool | str | bytes):
        try:
            found = float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
    if not low <= found <= high:
        raise UserError(f"{name} = {shown(value)}.", f"A number from {low:g} to {high:g}.")
    return found + 0.0  # -0.0 and 0.0 are one value, and one picture


def named(kind: str, name: Any, remedy: str) -> str:
    """The name of a file on a shelf, without folder and ending; UserError for what could be a path, or nothing."""
    fits = isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name == name.strip()
    if not fits or set(name) & set("/\\\0"):
        raise UserError(
            f"The {kind} is named {str(name)[:60]!r}.", "The name of a file without folder and ending.", remedy
        )
    return name


def shown(value: Any) -> str:
    """A value for a message, cut to 60 letters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
