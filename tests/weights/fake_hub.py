"""A local stand-in for the hub's HTTP interface: one repository in one folder, at one commit."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves `folder` as the repository "owner/name" and remembers what it was asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Repository facts, the tree of files, and the files themselves."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if path.startswith(("/api/models/owner/name/revision/", "/api/models/owner/name/tree/")):
            revision = path.split("/")[6]
            if revision not in ("main", COMMIT):
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            names = sorted(
                str(file.relative_to(self.server.folder)) for file in self.server.folder.rglob("*") if file.is_file()
            )
            if "/tree/" in path:
                rows = [{"type": "file", "path": name, "size": 1, "oid": self.sum(name)} for name in names]
                return self.answer(200, json.dumps(rows).encode())
            facts = {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return self.answer(200, json.dumps(facts | {"private": False, "tags": [], "downloads": 0}).encode())
        if path.startswith(f"/owner/name/resolve/{COMMIT}/"):
            name = path.split("/", 5)[5]
            if not (self.server.folder / name).is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            data = (self.server.folder / name).read_bytes()
            return self.answer(200, data, {"ETag": f'"{self.sum(name)}"', "X-Repo-Commit": COMMIT})
        if path.startswith("/api/models/owner/gated"):
            return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def sum(self, name: str) -> str:
        return hashlib.sha1((self.server.folder / name).read_bytes()).hexdigest()

    def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    """The server, while it runs."""
    server = Hub(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
