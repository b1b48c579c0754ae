"""A server on this machine that does to each connection what a test says."""

import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Act = Callable[["Asked"], None]


@dataclass
class Server:
    """Where it listens, what it holds, what it was asked, and the bytes of bodies that it sent."""

    port: int
    data: bytes
    etag: str = '"one"'
    heads: list[str] = field(default_factory=list)
    served: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/set.tar"


@dataclass
class Asked:
    """One connection: its number, the first byte that is wanted, and ways to answer."""

    server: Server
    sock: socket.socket
    number: int
    head: str

    @property
    def start(self) -> int:
        """Where the wanted part begins, if it is of this version; else 0."""
        wanted = re.search(r"Range: bytes=(\d+)-\r\n", self.head)
        same = f"If-Range: {self.server.etag}\r\n" in self.head
        return int(wanted[1]) if wanted and same else 0

    def begin(self, status: str, *headers: str) -> None:
        self.sock.sendall("\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode())

    def body(self, data: bytes) -> None:
        self.sock.sendall(data)
        self.server.served += len(data)

    def good(self, most: int | None = None, *, said: int | None = None) -> None:
        """What is right, but no more than `most` bytes of it, and `said` as the length."""
        data, start = self.server.data, self.start
        length = f"Content-Length: {len(data) - start if said is None else said}"
        whole = f"Content-Range: bytes {start}-{len(data) - 1}/{len(data)}"
        etag = [f"ETag: {self.server.etag}"] if self.server.etag else []
        self.begin(*(("206 Partial Content", whole) if start else ("200 OK",)), length, *etag)
        self.body(data[start:][: len(data) if most is None else most])

    def reset(self) -> None:
        time.sleep(0.02)  # that what was sent is read before
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def wait(self) -> None:
        """Until the other side is tired of it."""
        self.sock.settimeout(5)
        self.sock.recv(1)


@contextmanager
def serving(data: bytes, act: Act, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server that does `act` for each connection, in a thread each."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener.getsockname()[1], data)

    def answer(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            if tls is not None:
                sock = tls.wrap_socket(sock, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                if not (more := sock.recv(65536)):
                    return
                head += more
            server.heads.append(head.decode())
            act(Asked(server, sock, len(server.heads), head.decode()))

    def listen() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
