"""Files fetched from servers that stall, break off, change their mind or lie: bytes exact, or a typed stop in time.

A file grows under another name beside a note that says how much of it is on the disk, with which sha256, and which
version of the server's file that is (its ETag, else its date). Whoever goes on, in this process or after a kill, checks
that part and asks for the rest of that very version (Range, If-Range; RFC 9110, 13.1.5 and 14). What does not fit is
never mixed in: the file is begun anew. When it is whole it gets its name, and is a source as any other.
"""

import email.utils
import hashlib
import http.client
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from aquatint.base import config, files, growing
from aquatint.base.errors import UserError
from aquatint.training.data.addresses import Address, Answer, Trouble, asked

PIECE = 2**18
_AGAIN = (408, 429, 500, 502, 503, 504)
_GO_ON = "Run it again to go on from there."


@dataclass(frozen=True)
class Limits:
    """What a server may take of our time and disk.

    largest, deadline   bytes and seconds of a whole file
    patience            seconds without a byte, or until an answer begins
    rate, window        bytes a second that come at least, counted over so many seconds
    waits               seconds before each new try; it gives up when as many in a row failed and brought little
    worth               bytes that make a try count as none that failed
    synced              bytes after which the disk is made to hold them: a kill loses less than that
    """

    largest: int = 64 * 2**30
    deadline: float = 6 * 3600.0
    patience: float = 30.0
    rate: int = 16 * 2**10
    window: float = 30.0
    waits: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    worth: int = 2**20
    synced: int = 2**24


@dataclass(frozen=True)
class Note:
    """What is known of a file while and after it is fetched: `size` bytes of `total` are here, with that sha256."""

    url: str
    total: int
    etag: str = ""
    modified: str = ""
    size: int = 0
    sha256: str = hashlib.sha256().hexdigest()

    @property
    def validator(self) -> str:
        """What tells this version of the file from others: the strong ETag, else the date; "" for nothing."""
        return self.etag or self.modified


Tell = Callable[[int, int], None]  # bytes here, bytes of all


def fetch(address: Address, folder: Path, limits: Limits | None = None, tell: Tell | None = None) -> tuple[Path, Note]:
    """A server's file as a file in `folder` (which is there), and what is known of it; a part from before is used.

    Raises UserError when the server, the limits or the digest forbid it. What was fetched stays for the next try.
    """
    limits = limits or Limits()
    part = Part(folder, address)
    until, failed = time.monotonic() + limits.deadline, 0
    while not part.whole:
        had = part.received
        try:
            attempt(part, limits, until, tell)
        except Trouble as trouble:
            failed = 1 if part.received - had >= limits.worth else failed + 1
            if trouble.discard:
                part.begin(None)
            if not trouble.again or failed > len(limits.waits):
                raise _stop(part, trouble.why) from None
            wait = max(limits.waits[failed - 1], trouble.after)
            if time.monotonic() + wait >= until:
                raise _stop(part, f"it was not there within {limits.deadline:g} s ({trouble.why})") from None
            time.sleep(wait)
    return part.finish()


class Part:
    """A file that is being fetched: its bytes, and its note."""

    def __init__(self, folder: Path, address: Address) -> None:
        self.address, self.path = address, folder / address.name
        self.growing, self.noted = folder / f"{address.name}.part", folder / f"{address.name}.json"
        self.received = 0  # bytes that this process took, also those that were dropped again
        self.done = False  # under its own name
        self.begin(None)
        if self.noted.is_file():
            self._resume()

    @property
    def size(self) -> int:
        """Bytes that are here."""
        return self._size

    @property
    def whole(self) -> bool:
        """Whether that is all of them."""
        return self.note is not None and self._size == self.note.total

    def begin(self, note: Note | None) -> None:
        """Begin anew, with what the server says of its file."""
        self.note, self._size, self._unsynced, self._hash = note, 0, 0, hashlib.sha256()
        if note is not None:
            self.keep()

    def append(self, data: bytes, synced: int) -> None:
        """Add what came; the disk holds all but the last `synced` bytes."""
        growing.extend(self.growing, self._size, data)
        self._hash.update(data)
        self._size += len(data)
        self._unsynced += len(data)
        self.received += len(data)
        if self._unsynced >= synced:
            self.keep()

    def keep(self) -> None:
        """Have the disk hold what is here, and then the note that says so."""
        if self.note is not None:
            if self._size:
                growing.sync(self.growing)
            self.note = replace(self.note, size=self._size, sha256=self._hash.hexdigest())
            files.write(self.noted, config.to_json(config.to_data(self.note)))
            self._unsynced = 0

    def finish(self) -> tuple[Path, Note]:
        """Give the file its name, if it has the digest that was asked for."""
        assert self.note is not None, "not whole"
        if not self.done and not self._size:
            growing.extend(self.growing, 0, b"")
        if self.address.sha256 not in ("", self.note.sha256):
            for path in (self.growing, self.path, self.noted):
                if path.exists():
                    files.remove(path)
            raise UserError(
                f'"{self.address.shown}" has the sha256 {self.note.sha256}.',
                f"{self.address.sha256}, as you asked.",
                "It was removed. Check both.",
            )
        if not self.done:
            with files.telling(self.path, "written"):
                os.replace(self.growing, self.path)
                files.sync_folder(self.path.parent)
        return self.path, self.note

    def _resume(self) -> None:
        """Take over the bytes that the note promises, if they have their digest."""
        try:
            note = config.from_data(Note, files.read_json(self.noted))
        except UserError:
            return
        self.done = note.size == note.total and self.path.is_file()
        place = self.path if self.done else self.growing
        digest, left = hashlib.sha256(), note.size
        if place.is_file():
            with files.reading(place, follow=False) as (file, _):
                while left and (piece := file.read(min(left, PIECE))):
                    digest.update(piece)
                    left -= len(piece)
        if left or digest.hexdigest() != note.sha256:
            self.done = False
            return
        self.note, self._size, self._hash = note, note.size, digest


def attempt(part: Part, limits: Limits, until: float, tell: Tell | None) -> None:
    """One question and its answer into the part; Trouble unless the part is whole then."""
    if part.note is not None and not part.note.validator:
        part.begin(None)  # nothing says which version the bytes here are of
    headers = {"User-Agent": "aquatint", "Accept": "*/*", "Accept-Encoding": "identity"}
    if part.note is not None and part.size:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.note.validator}
    try:
        with asked(part.address.url, headers, limits.patience, until) as answer:
            length = _accepted(part, answer, limits)
            _receive(part, answer, length, limits, until, tell)
    except ssl.SSLCertVerificationError as error:
        raise Trouble(f"its certificate is not trusted ({error.verify_message})", again=False) from None
    except socket.gaierror as error:
        raise Trouble("its host has no address", again=error.errno == socket.EAI_AGAIN) from None
    except UnicodeError:
        raise Trouble("its host is no name", again=False) from None
    except TimeoutError:
        raise Trouble("nothing came in time", again=True) from None
    except (OSError, http.client.HTTPException) as error:
        raise Trouble(f"the connection failed ({type(error).__name__})", again=True) from None
    finally:
        part.keep()


def _accepted(part: Part, answer: Answer, limits: Limits) -> int:
    """How many bytes an answer adds to the part; a whole file begins it anew. Trouble for any other answer."""
    status = answer.response.status
    if status in _AGAIN:
        raise Trouble(f"the server answers {status}", again=True, after=_after(answer.header("Retry-After")))
    if status == 416 and part.size:
        raise Trouble("the server's file has become shorter", again=True, discard=True)
    if status not in (200, 206):
        raise Trouble(f"the server answers {status}", again=False)
    said = answer.header("Content-Length")
    if not re.fullmatch("[0-9]{1,15}", said) or answer.header("Transfer-Encoding"):
        raise Trouble("the server does not say how long it is", again=False)
    if answer.header("Content-Encoding") not in ("", "identity"):
        raise Trouble("the server sends it packed", again=False)
    length = int(said)
    etag, modified = answer.header("ETag"), answer.header("Last-Modified")
    total = length + part.size if status == 206 else length
    if total > limits.largest:
        raise Trouble(f"it has {total:,} bytes, and {limits.largest:,} are taken", again=False)
    if status == 206:
        _fits(part, answer.header("Content-Range"), length, etag, modified)
        return length
    etag = etag if re.fullmatch(r'"[!#-~]{0,200}"', etag) else ""  # weak ones (W/) do not promise equal bytes
    modified = modified if re.fullmatch(r"[ -~]{1,60}", modified) else ""
    part.begin(Note(part.address.shown, length, etag, modified))
    return length


def _fits(part: Part, said: str, length: int, etag: str, modified: str) -> None:
    """Trouble unless a part of a file is the rest of ours, to the end."""
    note = part.note
    if note is None or not part.size:
        raise Trouble("the server sends a part where all was asked for", again=True)
    if said != f"bytes {part.size}-{note.total - 1}/{note.total}" or length != note.total - part.size:
        raise Trouble("the server sends another part than was asked for", again=True, discard=True)
    if etag != note.etag if note.etag else modified not in ("", note.modified):
        raise Trouble("the server's file has changed", again=True, discard=True)


def _receive(part: Part, answer: Answer, length: int, limits: Limits, until: float, tell: Tell | None) -> None:
    """A body of `length` bytes into the part; Trouble where it ends before, stalls, or is slow."""
    assert part.note is not None, "an answer that was not accepted"
    began, came = time.monotonic(), 0
    while length:
        left = until - time.monotonic()
        if left <= 0:
            raise Trouble(f"it was not there within {limits.deadline:g} s", again=False)
        answer.sock.settimeout(min(limits.patience, left))
        data = answer.response.read1(min(PIECE, length))
        if not data:
            raise Trouble("the server broke off", again=True)
        part.append(data, limits.synced)
        length -= len(data)
        came += len(data)
        if tell is not None:
            tell(part.size, part.note.total)
        took = time.monotonic() - began
        if length and took >= limits.window:
            if came < limits.rate * took:
                raise Trouble(f"it comes at {came / took:,.0f} bytes/s, and {limits.rate:,} are needed", again=True)
            began, came = time.monotonic(), 0


def _after(said: str) -> float:
    """Seconds of a Retry-After, which may be a date."""
    if re.fullmatch("[0-9]{1,9}", said):
        return float(said)
    with suppress(ValueError, TypeError, OverflowError):
        return max(email.utils.parsedate_to_datetime(said).timestamp() - time.time(), 0.0)
    return 0.0


def _stop(part: Part, why: str) -> UserError:
    total = f" of {part.note.total:,}" if part.note is not None else ""
    here = f"{part.size:,}{total} bytes are here." if part.size else "Nothing of it is here."
    return UserError(f'"{part.address.shown}" was not fetched: {why}.', here, _GO_ON if part.size else "Try it later.")
