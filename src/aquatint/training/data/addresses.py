"""Files that a user names by an address, and one question to their servers: http and https, nothing else.

Only what was typed is ever asked for; an address that stands in a data set is text. A question has a time within which
its answer must begin, follows five redirects at most, carries no credentials or cookies, and uses no proxy.
"""

import hashlib
import http.client
import io
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from aquatint.base.errors import LONGEST, UserError

ENDINGS = (".tar", ".parquet")
REDIRECTS = 5
LONGEST_URL = 8192
_MOVED = (301, 302, 303, 307, 308)
_TAKES = "http(s)://HOST/PATH/FILE.tar or .parquet, with #sha256=HEX if you know it."


class Trouble(Exception):
    """Why a try brought no whole file.

    again    whether another try may do better, `after` so many seconds at least
    discard  whether what was fetched so far may not be of the file that is there now
    """

    def __init__(self, why: str, *, again: bool, after: float = 0.0, discard: bool = False) -> None:
        self.why, self.again, self.after, self.discard = why, again, after, discard
        super().__init__(why)


@dataclass(frozen=True)
class Address:
    """A file on a server: its address, and the sha256 that it must have ("" for any)."""

    url: str
    sha256: str = ""

    @property
    def shown(self) -> str:
        """As it is told and kept: without the query, which may hold somebody's key."""
        shown = self.url.partition("?")[0]
        return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}..."

    @property
    def name(self) -> str:
        """What its file is called here: nothing that a server or an address says becomes a path."""
        ending = PurePosixPath(urlsplit(self.url).path).suffix.lower()
        return hashlib.sha256(self.url.encode()).hexdigest() + ending


def given(text: str) -> Path | Address:
    """A source as it was typed: an address where it begins with http:// or https://, else a path."""
    return address(text) if re.match("https?://", text, re.IGNORECASE) else Path(text)


def address(text: str) -> Address:
    """Read an address; UserError for credentials, another ending, another fragment, and what is no address."""
    url, _, fragment = text.partition("#")
    _checked(url)
    if PurePosixPath(urlsplit(url).path).suffix.lower() not in ENDINGS:
        raise UserError(f'"{Address(url).shown}" is no data set by its name.', _TAKES)
    digest = fragment.removeprefix("sha256=").lower()
    if fragment and not (fragment.startswith("sha256=") and re.fullmatch("[0-9a-f]{64}", digest)):
        raise UserError(f'"#{fragment[:100]}" after an address.', "#sha256= and 64 hexadecimal digits, or nothing.")
    return Address(url, digest)


def _checked(url: str) -> None:
    """UserError unless a URL can be asked for."""
    if "@" in re.split("[/?]", url.partition("://")[2])[0]:
        raise UserError("An address with a user's name or password.", _TAKES, "Fetch that file by other means.")
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or len(url) > LONGEST_URL or not re.fullmatch(r"[!-~]+", url):
        raise UserError(f"{url.partition('?')[0][:LONGEST]!a} is no address.", _TAKES, "Other letters as %XX.")


class _Lines(io.BufferedReader):
    """Notes whether what is read by lines, as an answer's head is, came to its end."""

    ended = False

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(-1 if size is None else size)
        self.ended = self.ended or not line
        return line


class _Response(http.client.HTTPResponse):
    """A response that knows whether its head was whole: http.client takes one that broke off for one that ended."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.lines = _Lines(self.fp.detach())
        self.fp = self.lines

    def begin(self) -> None:
        super().begin()
        if self.lines.ended:
            raise ConnectionAbortedError


@dataclass(frozen=True)
class Answer:
    """What a server said: the response, whose body was not read, and the socket, for its time limit."""

    response: http.client.HTTPResponse
    sock: socket.socket

    def header(self, name: str) -> str:
        """A header's value; "" where it is not there."""
        return str(self.response.headers.get(name, ""))


@contextmanager
def asked(url: str, headers: Mapping[str, str], patience: float, until: float) -> Iterator[Answer]:
    """The answer to one question, redirects followed.

    patience   seconds within which each server's answer must begin
    until      when all must be over (time.monotonic)

    Raises Trouble for a redirect that is not followed, OSError and http.client.HTTPException for the network's.
    """
    outward = False  # whether the server that the user named lies outside, and so may not point inside
    for hop in range(REDIRECTS + 1):
        most = max(min(patience, until - time.monotonic()), 0.001)
        with _answered(url, headers, most, outward) as (answer, inside):
            if answer.response.status not in _MOVED:
                yield answer
                return
            outward = not inside if hop == 0 else outward
            url = moved(url, answer.header("Location"))
    raise Trouble(f"it was redirected more than {REDIRECTS} times", again=False)


def moved(url: str, location: str) -> str:
    """Where a redirect leads; Trouble where it must not be followed."""
    try:
        target = urljoin(url, location).partition("#")[0] if location else ""
        _checked(target)
    except (UserError, ValueError):
        raise Trouble("it was redirected to what is no address for a file", again=False) from None
    if (urlsplit(url).scheme, urlsplit(target).scheme) == ("https", "http"):
        raise Trouble("it was redirected from https to http", again=False)
    return target


@contextmanager
def _answered(url: str, headers: Mapping[str, str], most: float, outward: bool) -> Iterator[tuple[Answer, bool]]:
    """One server's answer, begun within `most` seconds, and whether the server lies inside a network of ours."""
    parts = urlsplit(url)
    secure, host = parts.scheme == "https", parts.hostname or ""
    port = parts.port or (443 if secure else 80)
    sock = socket.create_connection((host, port), timeout=most)
    if secure:
        context = ssl.create_default_context()
        sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    watch = threading.Timer(most, _cut, [sock])  # a server that sends a letter a second never times out by itself
    watch.daemon = True
    watch.start()
    connection = http.client.HTTPConnection(host, port)
    connection.response_class = _Response
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        inside = is_inside(sock.getpeername()[0])
        if outward and inside:
            raise Trouble("it was redirected from outside to an address of a private network", again=False)
        connection.sock = sock
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Host": parts.netloc, "Connection": "close", **headers})
        with connection.getresponse() as response:
            watch.cancel()
            yield Answer(response, sock), inside
    finally:
        watch.cancel()
        sock.close()


def is_inside(peer: str) -> bool:
    """Whether an IP address is of this machine or of a private network."""
    found = ipaddress.ip_address(peer)
    found = getattr(found, "ipv4_mapped", None) or found
    return not found.is_global


def _cut(sock: socket.socket) -> None:
    """End whatever waits on a socket, TLS or not."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
