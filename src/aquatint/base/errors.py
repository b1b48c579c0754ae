"""The one error that a user is shown without a traceback."""

import difflib
from collections.abc import Iterable

LONGEST = 200  # letters of a name that a message repeats


class UserError(Exception):
    """A mistake in what we were given, told in three parts.

    got     what arrived, in the user's own words ('sampler "dpmpp2m" is not known.')
    takes   what would have been accepted ("Known: ddim, euler, ...")
    remedy  what to do now ('Did you mean "dpmpp_2m"?'); may be empty
    """

    def __init__(self, got: str, takes: str = "", remedy: str = "") -> None:
        self.got, self.takes, self.remedy = got, takes, remedy
        super().__init__(" ".join(part for part in (got, takes, remedy) if part))


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a table: lists the table and the nearest name in it.

    The name may come from a file: of a long one the beginning is shown, and nothing near is looked for.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1) if len(name) <= LONGEST else []
    name = name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
    return UserError(
        f'{kind} "{name}" is not known.',
        f"Known: {', '.join(names)}.",
        f'Did you mean "{near[0]}"?' if near else "",
    )
