"""Clients that send and read slowly, or never: they hold no thread, and are refused before their body is read (R50)."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from auth_portal.bootstrap import create_app
from auth_portal.web.admin.frame import PUBLIC, allowed
from auth_portal.web.api.frame import SCOPE_OF
from tests.receiver import GIVE_UP_SECONDS, Receiver
from tests.serving import Server, Visitor, serving
from tests.test_servers import configured

THREADS = 4
FORM = "Content-Type: application/x-www-form-urlencoded"


def paths(*methods: str) -> list[tuple[str, str, str]]:
    """Every method, path and endpoint that takes a body."""
    rules = sorted(create_app().url_map.iter_rules(), key=str)
    return [
        (method, re.sub(r"<[^>]+>", "balance", rule.rule), rule.endpoint)
        for rule in rules
        for method in sorted(set(methods) & (rule.methods or set()))
    ]


def head(method: str, path: str, *headers: str, to: Server | None = None) -> bytes:
    host = f"127.0.0.1:{to.port}" if to else "127.0.0.1"
    return ("\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]) + "\r\n\r\n").encode()


@contextmanager
def connected(server: Server, data: bytes = b"", *, receive_bytes: int = 0) -> Iterator[socket.socket]:
    with socket.socket() as connection:
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(GIVE_UP_SECONDS)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(data)
        yield connection


def answer(connection: socket.socket, until: bytes = b"") -> bytes:
    """What the server sends, until these bytes or the end of the connection."""
    received = b""
    while (not until or until not in received) and (part := connection.recv(65536)):
        received += part
    return received


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path) -> Iterator[Server]:
    folder, receiver = tmp_path_factory.mktemp("slow"), Receiver()
    shutil.copy(_sqlite_template, folder / "portal.db")
    with serving(configured(folder, f"sqlite:///{folder}/portal.db", receiver)) as running:
        yield running
    receiver.close()


def test_r50_slow_clients_hold_no_thread(server: Server) -> None:
    """Bodies that stop on every route, heads that stop, and answers that are not read: a customer passes by them all."""
    length = "Content-Length: 60000"
    slow = [head(method, path, FORM, length, to=server) + b"a=b" for method, path, _ in paths("POST", "PUT", "PATCH")]
    slow += [head("POST", path, FORM, length, to=server) + b"a=b" for path in ("/", "/none", "/healthz", "/admin/none")]
    slow += [head("POST", "/j/app", FORM, "Transfer-Encoding: chunked", to=server) + b"5\r\nabc"] * 10
    slow += [head("POST", "/verify", FORM, "Content-Length: 20", to=server)] * 20
    slow += [b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 5000] * 5
    unread = head("GET", "/?reference=abc", to=server) * 40
    assert len(slow) > 60
    with ExitStack() as stack:
        held = [stack.enter_context(connected(server, data)) for data in slow]
        held += [stack.enter_context(connected(server, unread, receive_bytes=2048)) for _ in range(THREADS * 2)]
        assert requests.get(f"{server.url}/healthz", timeout=GIVE_UP_SECONDS).status_code == 200
        assert requests.get(f"{server.url}/readyz", timeout=GIVE_UP_SECONDS).status_code == 200
        visitor = Visitor(server.url)
        assert visitor.begin("abc", "app").status_code == 200
        assert visitor.page.url.partition("?")[0].endswith("/verify")
        took = visitor.get("/verify").elapsed.total_seconds()
        assert took < 10, "the slow ones are let go after 10 s: this page must not wait for that"
        assert held


def test_r50_what_is_refused_is_refused_unread(server: Server) -> None:
    """Not a byte of a body is needed to refuse an admin's form or an API call without a session or key."""
    of_admins = [
        found for found in paths("POST", "PUT", "PATCH", "DELETE")
        if found[2] in SCOPE_OF or allowed.get(found[2], PUBLIC) or found[2].startswith("drive.")
    ]  # fmt: skip
    assert len(of_admins) > 40
    for method, path, endpoint in of_admins:
        for framing in ("Content-Length: 51000000", "Transfer-Encoding: chunked"):
            request = head(method, path, FORM, framing, "Connection: close", to=server)
            with connected(server, request) as connection:
                status = answer(connection).split(b" ", 2)[1]
                assert status in {b"303", b"401", b"403", b"410", b"404"}, (endpoint, framing, status)


def test_r50_a_body_is_asked_for_and_may_come_in_pieces(server: Server) -> None:
    """The server says when it wants a body: only then does this client send it, in one length or in chunks."""
    visitor = Visitor(server.url)
    visitor.get("/j/app?reference=abc")
    body = "&".join(f"{name}={value}" for name, value in {**visitor.fields("/j/app"), "identifier": "C-1001"}.items())
    body = body.replace("+", "%2B").replace(":", "%3A")
    cookie = "; ".join(f"{cookie.name}={cookie.value}" for cookie in visitor.session.cookies)
    chunks = "".join(f"{len(body[at : at + 7]):x};ext\r\n{body[at : at + 7]}\r\n" for at in range(0, len(body), 7))
    for framing, sent in (
        (f"Content-Length: {len(body)}", body),
        ("Transfer-Encoding: chunked", f"{chunks}0\r\nTrailer: x\r\n\r\n"),
    ):
        request = head("POST", "/j/app", FORM, framing, "Expect: 100-continue", f"Cookie: {cookie}", to=server)
        with connected(server, request) as connection:
            assert answer(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 100 Continue")
            for at in range(0, len(sent), 11):
                connection.sendall(sent[at : at + 11].encode())
            # The connection is good for another request, whose head comes in two pieces.
            assert answer(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 303")
            again = head("GET", "/healthz", "Connection: close")
            connection.sendall(again[:9])
            connection.sendall(again[9:])
            assert answer(connection).endswith(b"ok\n")


def test_r50_requests_in_one_packet_are_answered_in_their_order(server: Server) -> None:
    form = head("POST", "/verify", FORM, "Content-Length: 3", to=server) + b"a=b"
    page = head("GET", "/j/app?reference=abc", to=server)
    with connected(server, page + form + page + head("GET", "/healthz")) as connection:
        statuses = re.findall(rb"HTTP/1.1 (\d+)", answer(connection))
    assert statuses == [b"200", b"303", b"200", b"200"]


BROKEN = [
    (b"GET /?reference=s3cret HTTP/1.1\nHost: x\n\n\r\n\r\n", b"400"),
    (b"GARBAGE?reference=s3cret\r\n\r\n", b"400"),
    (head("POST", "/", "Content-Length: 3", "Content-Length: 4") + b"abc", b"400"),
    (head("POST", "/", "Content-Length: 3", "Transfer-Encoding: chunked") + b"abc", b"400"),
    (head("POST", "/", "Transfer-Encoding: gzip") + b"abc", b"400"),
    (head("GET", "/", "X: " + "y" * 70_000), b"431"),
    (b"G" * 70_000, b"431"),
    (head("POST", "/verify", FORM, "Transfer-Encoding: chunked", "Host:x") + b"zz\r\n", b"400"),
]


def test_r50_what_is_malformed_is_refused_and_not_logged(server: Server) -> None:
    for data, status in BROKEN:
        with connected(server, data) as connection:
            assert answer(connection).split(b" ", 2)[1] == status, data[:80]
    for data in (b"zz\r\n", b"3\r\nabcd\r\n", b"-1\r\n", b"fffffffff\r\n", b"1" * 70_000):
        request = head("POST", "/verify", FORM, "Transfer-Encoding: chunked", to=server)
        with connected(server, request + data) as connection:
            assert answer(connection).split(b" ", 2)[1] == b"400", data[:80]
    large = head("POST", "/verify", FORM, "Transfer-Encoding: chunked", to=server)
    with connected(server, large + b"11000\r\n" + b"x" * 0x11000 + b"\r\n0\r\n\r\n") as connection:
        assert answer(connection).split(b" ", 2)[1] == b"413"
    assert "s3cret" not in server.log.read_text()


@pytest.mark.parametrize(
    "chopped",
    [b"1\r\nx\r\n" * 50_000, b"3\r\na=b\r\n0\r\n" + b"T: x\r\n" * 50_000, b"1;" + b"x" * 30_000 + b"\r\nx\r\n"],
    ids=["chunks of a byte", "trailers", "extensions"],
)
def test_r50_a_body_that_is_mostly_framing_is_refused_while_it_comes(server: Server, chopped: bytes) -> None:
    """Reading all of it would keep every other connection waiting."""
    request = head("POST", "/verify", FORM, "Transfer-Encoding: chunked", to=server)
    with connected(server, request + chopped) as connection:
        assert answer(connection).split(b" ", 2)[1] == b"400"


def test_r50_every_body_has_a_deadline(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    """Silent or slow: a body, a head and a kept connection all end. The deadlines of this server are short."""
    server = configured(tmp_path, sqlite_url, receiver)
    with serving(server, PATIENCE_OF_TEST="1") as running, ExitStack() as stack:
        request = head("POST", "/verify", FORM, "Content-Length: 50", to=running)
        silent = stack.enter_context(connected(running, request))
        slow = stack.enter_context(connected(running, request))
        no_head = stack.enter_context(connected(running, b"GET / HT"))
        nothing = stack.enter_context(connected(running))
        slow.settimeout(0.2)  # the pace at which it sends
        received, sent = b"", 0
        while b"\r\n\r\n" not in received:
            assert sent < 50, "a byte now and then is not enough"
            slow.sendall(b"x")
            sent += 1
            try:
                received += slow.recv(65536)
            except TimeoutError:
                continue
        assert received.startswith(b"HTTP/1.1 408")
        assert answer(silent).startswith(b"HTTP/1.1 408")
        assert (answer(no_head), answer(nothing)) == (b"", b"")
