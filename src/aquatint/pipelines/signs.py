"""The signs that a prompt in A1111's grammar is made of: one pass over the text, each character in one sign."""

import re
from collections.abc import Iterator
from typing import NamedTuple

# No pattern here can try a character twice for nothing: what a tag may hold ends at the next "<", too.
TAG = re.compile(r"<\w+:[^<>]+>")
NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*")
NAME = re.compile(r"\b(AND|BREAK)\b")
_SIGN = re.compile(
    rf"(?P<tag>{TAG.pattern})|\\(?P<literal>.)|(?P<mark>[()\[\]:|])|(?P<text>[^\\()\[\]:|<]+)|<|\\", re.S
)


class Sign(NamedTuple):
    """A stretch of a prompt.

    kind    "text", "literal" (one character that a backslash stands before), "mark" (one of ()[]:|), "and", "break",
            "tag", or "lone" (a backslash at the very end, which stands for nothing)
    text    what it says;  start: where that stands in the prompt
    """

    kind: str
    text: str
    start: int


def signs(text: str) -> Iterator[Sign]:
    """The signs of a text, in their order."""
    for match in _SIGN.finditer(text):
        kind = match.lastgroup
        if kind == "text":
            yield from _named(match[0], match.start())
        elif kind is not None:
            yield Sign(kind, match[kind], match.start(kind))
        else:
            yield Sign("text", "<", match.start()) if match[0] == "<" else Sign("lone", "", match.start())


def _named(text: str, start: int) -> Iterator[Sign]:
    """Plain text, with the words AND and BREAK taken out of it as signs of their own."""
    at = 0
    for match in NAME.finditer(text):
        if match.start() > at:
            yield Sign("text", text[at : match.start()], start + at)
        yield Sign(match[0].lower(), match[0], start + match.start())
        at = match.end()
    if at < len(text):
        yield Sign("text", text[at:], start + at)
