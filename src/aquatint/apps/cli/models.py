"""`aquatint models`: which models there are."""

from typing import Annotated

from cyclopts import Parameter

from aquatint.apps.cli.lists import Json, table


def models(
    folder: Annotated[str | None, Parameter(help="A folder; else yours (AQUATINT_HOME) and the hub's cache.")] = None,
    /,
    *,
    json: Json = False,
) -> None:
    """The models of a folder: family, format and size, from their heads; what cannot be read is named, with why."""
    from aquatint.base import config
    from aquatint.pipelines.catalogue import catalogue, own_folders

    folders = own_folders() if folder is None else [folder]
    found = [config.to_data(entry) for one in folders for entry in catalogue(one)]
    if not found:
        print("[]" if json else "There are none.")
        return
    rows = found if json else [row | {"size": _bytes(row["size"])} for row in found]
    table(rows, json)


def _bytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
