"""`aquatint prompt`: what a model makes of a prompt, token by token, without painting."""

import json as jsonlib
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from aquatint.apps.cli.generate import Machine, Source, open_bundle, read_prompt

if TYPE_CHECKING:
    from rich.console import Console

    from aquatint.pipelines.account import Account, SceneFacts


def prompt(
    text: Annotated[str, Parameter(help="A prompt; - reads it from standard input.", allow_leading_hyphen=True)],
    /,
    *,
    negative: Annotated[str | None, Parameter(help="A negative prompt, too.", allow_leading_hyphen=True)] = None,
    model: Annotated[str | None, Parameter(help="A file, a folder or a hub id; else the pocket model.")] = None,
    grammar: Annotated[str, Parameter(help="a1111, comfy or plain.")] = "a1111",
    steps: Annotated[int | None, Parameter(help="Of the picture; the model's own if not given.")] = None,
    json: Annotated[bool, Parameter(help="Print one JSON object.", negative="")] = False,
) -> None:
    """Say how a prompt is read: chunks, tokens, weights, what changes when, tags, and what was not understood."""
    from aquatint.base import config
    from aquatint.pipelines.account import account_of
    from aquatint.pipelines.request import Request

    said = read_prompt() if text == "-" else text
    bundle = open_bundle(Source(model), Machine("cpu"))
    wish = Request(said, negative or "", steps=steps, grammar=grammar).resolved(bundle.family)
    accounts = {"prompt": account_of(bundle, wish.prompt, wish.grammar, steps=wish.steps)}
    if negative is not None:
        accounts["negative"] = account_of(bundle, wish.negative, wish.grammar, steps=wish.steps, negative=True)
    if json:
        print(jsonlib.dumps({name: config.to_data(account) for name, account in accounts.items()}, ensure_ascii=False))
        return
    from rich.console import Console

    for name, account in accounts.items():
        _show(Console(highlight=False, soft_wrap=False), name, account)


def _show(console: "Console", name: str, account: "Account") -> None:
    from rich.markup import escape
    from rich.table import Table

    console.print(f"[bold]{name}[/bold]  ({account.grammar})")
    for number, part in enumerate(account.parts, start=1):
        if len(account.parts) > 1:
            console.print(f"part {number}, weight {part.weight:g}")
        for scene in part.scenes:
            if len(part.scenes) > 1:
                console.print(f"steps {scene.first} to {scene.last}")
            _show_words(console, scene, account.room)
    if account.tags or account.embeddings or account.notes:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for tag in account.tags:
            weights = f"{tag.weight:g}" + (f", text {tag.text_weight:g}" if tag.text_weight != tag.weight else "")
            table.add_row(tag.kind, escape(tag.name), f"weight {weights}")
        for embedding in account.embeddings:
            table.add_row("embedding", escape(embedding), "")
        for note in account.notes:
            table.add_row("note", escape(note.text), escape(f"{note.why} ({note.start} to {note.end})"))
        console.print(table)


def _show_words(console: "Console", scene: "SceneFacts", room: int) -> None:
    """A row a chunk; each token coloured by its weight, one that is not 1 named behind it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for number, chunk in enumerate(scene.chunks, start=1):
        words = Text()
        for at, token in enumerate(chunk):
            words.append(token.text.rstrip(" "), style=_style(token.weight))
            if token.weight != 1 and (at + 1 == len(chunk) or chunk[at + 1].weight != token.weight):
                words.append(f"({token.weight:.3g})", style="dim")
            words.append("·" if not token.text.endswith(" ") and at + 1 < len(chunk) else " ", style="dim")
        table.add_row(f"chunk {number}", f"{len(chunk)} of {room}", words)
    console.print(table)


def _style(weight: float) -> str:
    return "" if weight == 1 else "bold green" if weight > 1 else "yellow" if weight > 0 else "red"
