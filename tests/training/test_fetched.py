"""Files from bad servers: bytes exact, only the rest fetched again, or a typed stop in time."""

import io
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from tests.training.bad_server import Asked, serving
from tests.training.sets import picture, pictures

from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.training.data.addresses import Address, Trouble, address, given, is_inside, moved
from aquatint.training.data.fetched import Limits, fetch
from aquatint.training.data.prepare import prepare
from aquatint.training.data.prepared import Prepared

DATA = bytes(Noise([6], [0]).integers((50_000,), 256)[0].tolist())
OTHER = DATA[::-1]
HALF = len(DATA) // 2
QUICK = Limits(
    largest=2**20,
    deadline=20.0,
    patience=0.25,
    rate=50_000,
    window=0.2,
    waits=(0.01, 0.02, 0.03),
    worth=2**20,
    synced=8192,
)


def stall(asked: Asked) -> None:
    asked.good(HALF)
    asked.wait()


def silent(asked: Asked) -> None:
    asked.wait()


def reset(asked: Asked) -> None:
    asked.good(HALF)
    asked.reset()


def short(asked: Asked) -> None:
    asked.good(HALF)


def refused(asked: Asked) -> None:
    asked.begin("500 Sorry", "Content-Length: 5")
    asked.body(b"Sorry")


def busy(asked: Asked) -> None:
    asked.begin("429 Slowly", "Content-Length: 0", "Retry-After: 0")


def long(asked: Asked) -> None:
    """Says that there is more than comes."""
    asked.good(said=len(DATA) + 10_000)


def gibberish(asked: Asked) -> None:
    asked.sock.sendall(b"\0\1\2 hello\r\n\r\n")


def slow(asked: Asked) -> None:
    """1 KiB a second, in drops."""
    asked.good(HALF)
    for start in range(HALF, len(DATA), 20):
        asked.body(DATA[start : start + 20])
        time.sleep(0.02)


def dripping(asked: Asked) -> None:
    """A head that never ends; each letter comes in time."""
    for letter in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500:
        asked.sock.sendall(bytes([letter]))
        time.sleep(0.02)


def headless(asked: Asked) -> None:
    """A head that breaks off where its length reads 0."""
    asked.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0")


BAD = (stall, silent, reset, short, refused, busy, long, gibberish, slow, dripping, headless)
KEEPS = (stall, reset, short, slow)  # what leaves half of the file


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_one_bad_answer_then_good_ones_give_the_bytes(tmp_path: Path, bad: Callable[[Asked], None]) -> None:
    with serving(DATA, lambda asked: bad(asked) if asked.number == 1 else asked.good()) as server:
        path, note = fetch(address(server.url), tmp_path, QUICK)
        assert path.read_bytes() == DATA
        assert (note.size, note.sha256, note.etag) == (len(DATA), sha256(DATA).hexdigest(), '"one"')
        rest = server.heads[1]
        assert ("Range: bytes=" in rest) == (bad in (*KEEPS, long))
        if bad in (stall, reset, short):
            assert f"Range: bytes={HALF}-" in rest
            assert server.served == len(DATA)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted((path.name, f"{path.name}.json"))


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_bad_answers_for_good_stop_in_time_and_keep_what_came(tmp_path: Path, bad: Callable[[Asked], None]) -> None:
    limits = replace(QUICK, deadline=0.3)
    broken = bad if bad not in KEEPS else (lambda asked: bad(asked) if asked.number == 1 else silent(asked))
    with serving(DATA, broken) as server:
        began = time.monotonic()
        with pytest.raises(UserError) as told:
            fetch(address(server.url), tmp_path, limits)
        assert time.monotonic() - began < 2.0
        assert "was not fetched" in told.value.got
        assert told.value.takes
        assert told.value.remedy
    assert not list(tmp_path.glob("*.tar"))
    if bad in KEEPS:
        assert f"{HALF:,} of" in told.value.takes or bad is slow
        assert next(tmp_path.glob("*.part")).read_bytes()[:HALF] == DATA[:HALF]


def test_a_deadline_stops_what_comes_at_a_good_rate(tmp_path: Path) -> None:
    def steady(asked: Asked) -> None:
        asked.good(0)
        for start in range(0, len(DATA), 100):
            asked.body(DATA[start : start + 100])
            time.sleep(0.01)

    with serving(DATA, steady) as server, pytest.raises(UserError, match=r"not there within 0\.3 s"):
        fetch(address(server.url), tmp_path, replace(QUICK, deadline=0.3, rate=1))


def test_a_file_that_changed_is_begun_anew(tmp_path: Path) -> None:
    """Between tries; told by 200, by 206 with another ETag, without one, by another length, and by 416."""

    def partly(head: str, *more: str) -> Callable[[Asked], None]:
        def act(asked: Asked) -> None:
            if asked.number == 1:
                return asked.good(HALF)
            asked.server.data, asked.server.etag = OTHER, '"two"'
            if asked.number > 2 or not head:
                return asked.good()
            asked.begin(head, *more, f"Content-Length: {len(DATA) - HALF}")
            return asked.body(OTHER[HALF:])

        return act

    whole = f"Content-Range: bytes {HALF}-{len(DATA) - 1}/{len(DATA)}"
    longer = f"Content-Range: bytes {HALF}-{len(DATA) - 1}/{len(DATA) + 5}"
    for number, act in enumerate((
        partly(""), partly("206 Part", whole, 'ETag: "two"'), partly("206 Part", whole),
        partly("206 Part", longer, 'ETag: "one"'), partly("416 No", "ETag: x"),
    )):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        with serving(DATA, act) as server:
            path, note = fetch(address(server.url), folder, QUICK)
        assert (path.read_bytes(), note.etag) == (OTHER, '"two"'), number


RANGES = [
    "bytes 0-24999/50000",
    "bytes 25001-49999/50000",
    "bytes 25000-49998/50000",
    "bytes 25000-49999/*",
    "bytes */50000",
    "bytes 25000-49999/50000, bytes 0-1/50000",
    "items 25000-49999/50000",
    "bytes -1-49999/50000",
    "",
]


@pytest.mark.parametrize("said", RANGES)
def test_another_range_than_was_asked_for_is_never_mixed_in(tmp_path: Path, said: str) -> None:
    def act(asked: Asked) -> None:
        if asked.number != 2:
            return asked.good(HALF if asked.number == 1 else None)
        asked.begin("206 Part", f"Content-Range: {said}", f"Content-Length: {HALF}", 'ETag: "one"')
        return asked.body(OTHER[:HALF])

    with serving(DATA, act) as server:
        assert fetch(address(server.url), tmp_path, QUICK)[0].read_bytes() == DATA
        assert "Range:" not in server.heads[2].replace("If-Range", "")


def test_more_than_was_said_is_not_read(tmp_path: Path) -> None:
    def act(asked: Asked) -> None:
        if asked.number == 1:
            return asked.good(HALF)
        asked.good()
        return asked.body(b"more" * 100)

    with serving(DATA, act) as server:
        assert fetch(address(server.url), tmp_path, QUICK)[0].read_bytes() == DATA


def test_without_a_validator_nothing_is_pieced_together(tmp_path: Path) -> None:
    """No ETag, or a weak one: begun anew each time; with a date, that date is sent."""
    date = "Sun, 29 Nov 2026 08:00:00 GMT"
    for number, (etag, more) in enumerate((("", ()), ('W/"one"', ()), ("", (f"Last-Modified: {date}",)))):
        folder = tmp_path / str(number)
        folder.mkdir()

        def act(asked: Asked, etag: str = etag, more: tuple[str, ...] = more) -> None:
            asked.begin("200 OK", f"Content-Length: {len(DATA)}", *((f"ETag: {etag}",) if etag else ()), *more)
            asked.body(DATA[: HALF if asked.number == 1 else None])

        with serving(DATA, act) as server:
            assert fetch(address(server.url), folder, QUICK)[0].read_bytes() == DATA
            assert (f"If-Range: {date}\r\n" in server.heads[1]) == bool(more)
            assert ("Range: bytes=" in server.heads[1]) == bool(more)


ANSWERS = [
    ("404 No", "Content-Length: 0"),
    ("403 No", "Content-Length: 0"),
    ("204 Nothing",),
    ("206 Part", "Content-Length: 5"),
    ("200 OK",),
    ("200 OK", "Transfer-Encoding: chunked"),
    ("200 OK", "Content-Length: -5"),
    ("200 OK", "Content-Length: 5, 6"),
    ("200 OK", f"Content-Length: {2**20 + 1}"),
    ("200 OK", "Content-Length: 5", "Content-Encoding: gzip"),
    ("301 Go", "Location: /set.tar"),
    ("302 Go", "Location: file:///etc/passwd"),
    ("302 Go", "Location: ftp://127.0.0.1/a.tar"),
    ("302 Go", "Location: http://a:b@127.0.0.1/a.tar"),
    ("302 Go", "Location: http://[::1"),
    ("302 Go", "Content-Length: 0"),
    ("503 Later", "Content-Length: 0", "Retry-After: 3600"),
    ("503 Later", "Retry-After: Fri, 01 Jan 2100 00:00:00 GMT"),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: " ".join(answer)[:40])
def test_what_another_try_would_not_change_stops_at_once(tmp_path: Path, answer: tuple[str, ...]) -> None:
    with serving(DATA, lambda asked: asked.begin(*answer)) as server:
        with pytest.raises(UserError, match="was not fetched"):
            fetch(address(server.url), tmp_path, QUICK)
        assert len(server.heads) == (6 if "301" in answer[0] else 4 if "206" in answer[0] else 1)
    assert not list(tmp_path.iterdir())


def test_five_redirects_are_followed_and_where_they_may_lead(tmp_path: Path) -> None:
    def act(asked: Asked) -> None:
        if asked.number <= 5:
            return asked.begin("307 On", f"Location: /{asked.number}.bin?x=1")
        return asked.good()

    with serving(DATA, act) as server:
        path, note = fetch(address(server.url), tmp_path, QUICK)
        assert path.read_bytes() == DATA
        assert server.heads[5].startswith("GET /5.bin?x=1 HTTP/1.1")
        assert note.url == server.url
    with pytest.raises(Trouble, match="https to http"):
        moved("HTTPS://example.org/a.tar", "http://example.org/a.tar")
    assert moved("http://example.org/a/b.tar", "../c.tar") == "http://example.org/c.tar"
    inside = ("127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:127.0.0.1")
    assert [is_inside(peer) for peer in inside] == [True] * 6
    assert not is_inside("8.8.8.8")


def test_over_tls_a_certificate_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate")
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=here"
    places = ("-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate"))
    subprocess.run(
        ["openssl", *made.split(), "-addext", "subjectAltName=IP:127.0.0.1", *places], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    (tmp_path / "out").mkdir()
    with serving(DATA, lambda asked: (stall if asked.number == 1 else Asked.good)(asked), context) as server:
        url = server.url.replace("http", "https")
        with pytest.raises(UserError, match="certificate is not trusted"):
            fetch(address(url), tmp_path / "out", QUICK)
        assert not server.heads
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate"))
        assert fetch(address(url), tmp_path / "out", QUICK)[0].read_bytes() == DATA
        assert f"Range: bytes={HALF}-" in server.heads[1]
    with serving(DATA, silent) as server:  # which never shakes hands
        began = time.monotonic()
        with pytest.raises(UserError, match="was not fetched"):
            fetch(address(server.url.replace("http", "https")), tmp_path / "out", replace(QUICK, deadline=0.4))
        assert time.monotonic() - began < 2.0


def test_addresses() -> None:
    digest = "ab" * 32
    assert given("HTTPS://example.org/a%20b.TAR?key=1#sha256=" + digest) == Address(
        "HTTPS://example.org/a%20b.TAR?key=1", digest
    )
    assert given("photos/http") == Path("photos/http")
    found = address("http://example.org/../../etc/passwd%2f..%2fx.parquet?key=secret")
    assert Path(found.name).name == found.name == sha256(found.url.encode()).hexdigest() + ".parquet"
    assert "secret" not in found.shown
    for bad in (
        "http://user:pass@example.org/a.tar", "http://user@example.org/a.tar", "http://e.org/a.zip", "http:///a.tar",
        "http://e.org/a.tar#x", "http://e.org/a.tar#sha256=12", "http://e.org:0/a.tar", "http://[::1/a.tar",
        "http://e.org:99999/a.tar", "http://e.org/a b.tar", "http://exämple.org/a.tar", "http://e/a.tar\r\nX: y",
        f"http://e.org/{'a' * 9000}.tar", "http://u:pass@[::1/a.tar",
    ):  # fmt: skip
        with pytest.raises(UserError) as told:
            given(bad)
        assert "pass@" not in str(told.value)


def test_a_digest_is_checked_before_the_file_is_used(tmp_path: Path) -> None:
    with serving(DATA, Asked.good) as server:
        with pytest.raises(UserError, match="as you asked"):
            fetch(Address(server.url, "00" * 32), tmp_path, QUICK)
        assert not list(tmp_path.iterdir())
        path, _ = fetch(Address(server.url, sha256(DATA).hexdigest()), tmp_path, QUICK)
        assert path.read_bytes() == DATA


def test_what_is_here_is_used_if_it_is_what_was_fetched(tmp_path: Path) -> None:
    """A whole file is not asked for again; a damaged one, a damaged part and a damaged note are fetched anew."""
    with serving(DATA, Asked.good) as server:
        path, note = fetch(address(server.url), tmp_path, QUICK)
        assert fetch(address(server.url), tmp_path, QUICK) == (path, note)
        assert len(server.heads) == 1
        path.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
        assert fetch(address(server.url), tmp_path, QUICK)[0].read_bytes() == DATA
        tmp_path.joinpath(f"{path.name}.json").write_text("{}")
        assert fetch(address(server.url), tmp_path, QUICK)[0].read_bytes() == DATA
        assert len(server.heads) == 3
    broken = tmp_path / "part"
    broken.mkdir()
    with serving(DATA, lambda asked: (short if asked.number == 1 else Asked.good)(asked)) as server:
        with pytest.raises(UserError, match="broke off"):
            fetch(address(server.url), broken, replace(QUICK, waits=()))
        part = next(broken.glob("*.part"))
        part.write_bytes(OTHER[:HALF])
        assert fetch(address(server.url), broken, QUICK)[0].read_bytes() == DATA
        assert "Range:" not in server.heads[1]


def test_the_bound_on_size_holds_for_the_rest_too(tmp_path: Path) -> None:
    with serving(DATA, lambda asked: (short if asked.number == 1 else Asked.good)(asked)) as server:
        for limits in (replace(QUICK, waits=()), replace(QUICK, largest=len(DATA) - 1)):
            with pytest.raises(UserError, match=r"broke off|50,000 bytes, and 49,999 are taken"):
                fetch(address(server.url), tmp_path, limits)
        assert fetch(address(server.url), tmp_path, replace(QUICK, largest=len(DATA)))[0].read_bytes() == DATA
        assert "Range: " in server.heads[2]


def test_an_empty_file_is_whole(tmp_path: Path) -> None:
    with serving(b"", Asked.good) as server:
        assert fetch(address(server.url), tmp_path, QUICK)[0].read_bytes() == b""


KILLED = """
import sys
from pathlib import Path
from aquatint.training.data.addresses import address
from aquatint.training.data.fetched import Limits, fetch
fetch(address(sys.argv[1]), Path(sys.argv[2]), Limits(synced=8192))
"""


def test_after_a_kill_only_the_rest_is_fetched(tmp_path: Path) -> None:
    synced = 8192
    with serving(DATA, lambda asked: stall(asked) if asked.number == 1 else asked.good()) as server:
        process = subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(tmp_path)])
        note = tmp_path / f"{address(server.url).name}.json"
        until = time.monotonic() + 30
        while not note.is_file() or json.loads(note.read_text())["size"] <= HALF - synced:
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        here = json.loads(note.read_text())["size"]
        path, _ = fetch(address(server.url), tmp_path, QUICK)
        assert path.read_bytes() == DATA
        assert f'Range: bytes={here}-\r\nIf-Range: "one"' in server.heads[1]
        assert server.served == HALF + len(DATA) - here < len(DATA) + synced


def shard(count: int, port: int = 1) -> bytes:
    """An archive as img2dataset writes it; its JSON says where each picture came from."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number in range(count):
            held = io.BytesIO()
            picture(number).save(held, "jpeg")
            facts = json.dumps({"url": f"http://127.0.0.1:{port}/never.jpg", "caption": f"picture {number}"}).encode()
            for name, data in ((f"{number:05}.jpg", held.getvalue()), (f"{number:05}.json", facts)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_an_archive_on_a_server_is_prepared_and_addresses_in_it_are_text(tmp_path: Path) -> None:
    with serving(b"", Asked.good) as server:
        server.data = shard(6, server.port)
        again: list[tuple[int, int]] = []
        out = tmp_path / "out"
        report = prepare([address(server.url)], out, fetching=lambda have, total: again.append((have, total)))
        assert [head.split(" ")[1] for head in server.heads] == ["/set.tar"]
        assert again[-1] == (len(server.data), len(server.data))
    told = {"file": address(server.url).name, "url": server.url, "total": len(server.data), "size": len(server.data)}
    assert report["fetched"][0].items() >= (told | {"sha256": sha256(server.data).hexdigest(), "etag": '"one"'}).items()
    assert report["kept"] == 6
    assert Prepared(out).read(0).caption == "picture 0"
    assert Prepared(out).read(0).facts["url"].endswith("/never.jpg")
    files.verify(out)
    assert not (out / "parts").exists()


def test_a_table_of_addresses_fetches_nothing(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    source = pictures(tmp_path / "in", 2)
    with serving(DATA, Asked.good) as server:
        rows = {"image": [server.url, server.url], "url": [server.url] * 2, "caption": ["a", "b"]}
        parquet.write_table(pyarrow.table(rows), source / "list.parquet")
        (source / "metadata.jsonl").write_text(json.dumps({"file_name": server.url, "text": server.url}))
        (source / "000.json").write_text(json.dumps({"url": server.url, "image": server.url}))
        report = prepare([source], tmp_path / "out")
        assert (report["kept"], report["dropped"]) == (2, {"no picture": 2})
        assert "fetched" not in report
        assert not server.heads


def test_a_preparation_goes_on_where_its_server_broke_off(tmp_path: Path) -> None:
    data = shard(6)
    with serving(data, lambda asked: asked.good(len(data) // 2 if asked.number == 1 else None)) as server:
        with pytest.raises(UserError, match="broke off"):
            prepare([address(server.url)], tmp_path / "out", limits=replace(QUICK, waits=()))
        assert prepare([address(server.url)], tmp_path / "out", limits=QUICK)["kept"] == 6
        assert server.served == len(data)
