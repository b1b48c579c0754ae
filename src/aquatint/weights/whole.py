"""The sha256 of a model's one file, by which web UIs and sites know it; counted when somebody asks, and then kept."""

from functools import cached_property
from pathlib import Path

from aquatint.base import files
from aquatint.base.errors import UserError


class Whole:
    """A file and its sha256 over all bytes.

    Reading 4 GB again takes seconds (they are in the system's memory by then), so it happens once for an opened model,
    when its first record is written, and not at all where nobody paints.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def sha256(self) -> str:
        """In hexadecimal; "" if the file can no longer be read: a painted picture is not lost for that."""
        try:
            return files.measure(self.path)[1]
        except UserError:
            return ""
