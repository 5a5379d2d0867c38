"""The nginx site: what it logs of secrets, whom it answers, and what it says while the portal is away."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pyotp
import pytest

from auth_portal import cli
from auth_portal.bootstrap import create_app
from auth_portal.clock import system_clock
from auth_portal.services.access.api_keys import WRONG_PER_MINUTE
from auth_portal.services.serving import build
from auth_portal.settings import read_settings
from tests.deploy.site import HOST, PAGES, Site, site
from tests.pictures import PNG
from tests.postgres import MASTER_KEY
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.security.test_proxies import CLAIMS
from tests.serving import Server, Visitor, free_port, serving
from tests.world import CONFIG, STANDARD, TOTP_SECRET, configure

SECRET = "qZ7sEcReT4xK"
# Where a secret stands in a request line, and what the access log shows instead.
SECRET_PATHS = {
    f"/j/standard?reference={SECRET}": "/j/standard",
    f"/j/standard/t/{SECRET}?reference={SECRET}": "/j/standard/t/*",
    f"//j//standard//t/{SECRET}": "other",
    f"/credentials/{SECRET}": "/credentials/*",
    f"/admin/join/{SECRET}": "/admin/join/*",
    f"/api/v1/customers/{SECRET}": "/api/v1/customers/*",
    f"/static/{SECRET}": "/static/*",
    f"/{SECRET}": "other",
    f"/J/standard/T/{SECRET}": "other",
    f"/j/{SECRET}/x": "other",
    f"/verify/{SECRET}": "other",
}
HEADERS = f"Host: {HOST}\r\nCookie: __Host-verification={SECRET}\r\nReferer: https://{HOST}/j/a?reference={SECRET}\r\n"


def get(path: str, headers: str = HEADERS) -> str:
    return f"GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"


ANSWERS = {
    "ok": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "unavailable": b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 4\r\n\r\ncalm",
    "error": b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 4\r\n\r\nours",
    "missing": b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlost",
    "silent": b"",
    "not http": b"\x00\x01\x02\r\n\r\n",
    "half": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1000\r\n\r\nok",
    "half head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "wrong header": b"HTTP/1.1 200 OK\r\nA\x00B: 1\r\n\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "wrong chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "hangs": b"",
}


def _length(request: bytes) -> int:
    """How long a request is, as far as its beginning says."""
    head, _, _ = request.partition(b"\r\n\r\n")
    said = re.search(rb"\r\nContent-Length: (\d+)", head, re.IGNORECASE)
    return len(head) + 4 + int(said[1]) if said else 0


class Upstream:
    """A portal that answers each request in a way of its own."""

    def __init__(self) -> None:
        self.kind, self.requests = "ok", list[bytes]()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            request = connection.recv(65536)
            # Closed over a body that nobody read, the connection would lose the answer.
            while len(request) < _length(request) and (more := connection.recv(65536)):
                request += more
            self.requests.append(request)
            if self.kind == "hangs":
                self.over.wait(GIVE_UP_SECONDS)
            connection.sendall(ANSWERS[self.kind])


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    running = Upstream()
    yield running
    running.over.set()


@pytest.fixture(scope="module")
def nginx(upstream: Upstream) -> Iterator[Site]:
    """It gives up a slow body while a test waits."""
    changes = {"client_body_timeout 10s": "client_body_timeout 300ms"}
    with site(f"server 127.0.0.1:{upstream.port} max_fails=0;", changes) as running:
        yield running


HASTY = {"proxy_read_timeout 60s": "proxy_read_timeout 100ms"}


@pytest.fixture(scope="module")
def hasty(upstream: Upstream) -> Iterator[Site]:
    """It gives up an answer while a test waits: only for an upstream that hangs, since any other may be slow as well."""
    with site(f"server 127.0.0.1:{upstream.port} max_fails=0;", HASTY) as running:
        yield running


def logged(running: Site, count: int) -> list[dict[str, object]]:
    """The lines of the access log, once it has so many."""
    path = running.folder / "auth-portal.access.log"
    wait_for(lambda: len(path.read_text().splitlines()) >= count)
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_silent(running: Site) -> None:
    assert SECRET not in running.logs()
    assert running.errors() == ""


@pytest.mark.parametrize("kind", ANSWERS)
def test_no_fault_of_the_portal_puts_a_secret_into_a_log(upstream: Upstream, kind: str) -> None:
    """Each has a log of its own: if a body was left over, nginx writes the line after the connection has ended."""
    upstream.kind = kind
    with site(f"server 127.0.0.1:{upstream.port} max_fails=0;", HASTY if kind == "hangs" else {}) as running:
        for path in SECRET_PATHS:
            answer = running.ask(get(path))
            body = f"POST {path} HTTP/1.1\r\n{HEADERS}Content-Length: 12\r\nConnection: close\r\n\r\n{SECRET}"
            assert running.ask(body)[:12] == answer[:12]
        lines = logged(running, 2 * len(SECRET_PATHS))
        assert [line["path"] for line in lines] == [shown for shown in SECRET_PATHS.values() for _ in range(2)]
        assert_silent(running)
    if kind in ("silent", "half head", "wrong header", "long header", "hangs"):
        for line in lines:  # a program gets one status and JSON, whatever is wrong
            assert line["status"] == ("503" if "/api/" in str(line["path"]) else line["portal_status"])
        assert {line["portal_status"] for line in lines} <= {"502", "504"}


WRONG_REQUESTS = {
    "too large": f"POST /j/a?reference={SECRET} HTTP/1.1\r\n{HEADERS}Content-Length: 99999999\r\n\r\n",
    "a long line": get(f"/j/a?reference={SECRET}{'x' * 40_000}"),
    "a long header": get(f"/j/a?reference={SECRET}", f"{HEADERS}X-Long: {SECRET}{'x' * 40_000}\r\n"),
    "many headers": get(f"/j/a?reference={SECRET}", HEADERS + f"X-Many: {SECRET}{'x' * 7000}\r\n" * 6),
    "no host": get(f"/j/a?reference={SECRET}", f"Cookie: a={SECRET}\r\n"),
    "two hosts": get(f"/j/a?reference={SECRET}", HEADERS + "Host: evil.example\r\n"),
    "a wrong host": get(f"/j/a?reference={SECRET}", "Host: a b/c\r\n"),
    "a wrong line": f"GET /j/a?reference={SECRET}\x01 HTTP/9.9\r\n\r\n",
    "a wrong method": f"{SECRET} /j/a?reference={SECRET} HTTP/1.1\r\n{HEADERS}Connection: close\r\n\r\n",
    "trace": f"TRACE /j/a?reference={SECRET} HTTP/1.1\r\n{HEADERS}Connection: close\r\n\r\n",
    "connect": f"CONNECT {SECRET}:443 HTTP/1.1\r\n{HEADERS}\r\n",
    "out of the folder": get(f"/j/../../{SECRET}"),
    "a wrong length": f"POST /j/a?reference={SECRET} HTTP/1.1\r\n{HEADERS}Content-Length: {SECRET}\r\n\r\n",
    "a wrong chunk": f"POST /j/a?reference={SECRET} HTTP/1.1\r\n{HEADERS}Transfer-Encoding: chunked\r\n\r\n{SECRET}\r\n",
    "two ways to say the length": f"POST /j/a?reference={SECRET} HTTP/1.1\r\n{HEADERS}Transfer-Encoding: chunked\r\n"
    f"Content-Length: 3\r\n\r\n0\r\n\r\n",
    "an absolute line": get(f"https://{HOST}/j/a?reference={SECRET}"),
    "a null": get(f"/j/%00{SECRET}"),
    "a wrong escape": get(f"/j/%zz{SECRET}"),
    "a large customers file": f"POST /admin/imports?x={SECRET} HTTP/1.1\r\n{HEADERS}Content-Length: 99999999\r\n\r\n",
    "a page of nginx": get(f"/auth-portal-pages/unavailable.html?x={SECRET}"),
    "another page of nginx": get(f"/auth-portal-pages/{SECRET}"),
}


@pytest.mark.parametrize("kind", WRONG_REQUESTS)
def test_no_wrong_request_puts_a_secret_into_a_log(nginx: Site, upstream: Upstream, kind: str) -> None:
    upstream.kind = "ok"
    nginx.ask(WRONG_REQUESTS[kind])
    nginx.ask(WRONG_REQUESTS[kind], plain=True)
    assert_silent(nginx)


def test_a_client_that_goes_away_or_is_slow_puts_no_secret_into_a_log(nginx: Site, upstream: Upstream) -> None:
    upstream.kind = "hangs"
    with nginx.connect() as gone:
        gone.sendall(get(f"/j/a?reference={SECRET}").encode())
    upstream.kind = "ok"
    slow = f"POST /j/a?reference={SECRET} HTTP/1.1\r\n{HEADERS}Content-Length: 50\r\n\r\n{SECRET}"
    assert nginx.ask(slow) == ""  # closed after the time that a body may rest
    with nginx.connect() as half:
        half.sendall(f"GET /j/a?reference={SECRET}".encode())
        half.shutdown(socket.SHUT_RDWR)
    assert nginx.ask(get(f"/j/a?reference={SECRET}"), plain=True).startswith("HTTP/1.1 301")
    with socket.create_connection(("127.0.0.1", nginx.port)) as plain:  # http where TLS is expected
        plain.sendall(get(f"/j/a?reference={SECRET}").encode())
        while plain.recv(65536):
            pass
    assert_silent(nginx)


def _missing(running: Site) -> None:
    """The portal has never run on this machine."""


def _left_behind(running: Site) -> None:
    """The portal was killed."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(running.folder / "portal.sock"))


def _denied(running: Site) -> None:
    """Nginx is not in the portal's group."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(running.folder / "portal.sock"))
    listening.listen()
    (running.folder / "portal.sock").chmod(0)


@pytest.mark.parametrize("arrange", [_missing, _left_behind, _denied])
def test_a_socket_that_nginx_cannot_use_puts_no_secret_into_a_log(arrange: Callable[[Site], None]) -> None:
    """The customer gets a page with a way to try again, and a program gets JSON."""
    with site("server unix:{folder}/portal.sock max_fails=0;") as running:
        arrange(running)
        for path in SECRET_PATHS:
            answer = running.ask(get(path))
            assert answer.startswith("HTTP/1.1 503" if "/api/" in path else "HTTP/1.1 502")
            assert "Retry-After: 5" in answer
            assert ("problem:unavailable" if "/api/" in path else "Please try again in a minute") in answer
        assert_silent(running)


def test_a_flood_is_answered_with_429_and_puts_no_secret_into_a_log(upstream: Upstream) -> None:
    upstream.kind = "ok"
    changes = {"rate=100r/s": "rate=1r/s", "burst=300 nodelay": "burst=2 nodelay"}
    with site(f"server 127.0.0.1:{upstream.port} max_fails=0;", changes) as running:
        answers = [running.ask(get(path)) for path in SECRET_PATHS if "/static/" not in path]
        assert [answer[9:12] for answer in answers[:3]] == ["200"] * 3
        assert {answer[9:12] for answer in answers[4:]} == {"429"}
        assert "Please wait a moment" in answers[-1]
        assert_silent(running)
        assert "REJECTED" in running.logs()
    with site(
        f"server 127.0.0.1:{upstream.port} max_fails=0;", {"auth_portal_connections 300": "auth_portal_connections 1"}
    ) as running:
        upstream.kind, before = "hangs", len(upstream.requests)
        with running.connect() as first:
            first.sendall(get(f"/j/a?reference={SECRET}").encode())
            wait_for(lambda: len(upstream.requests) > before)
            upstream.kind = "ok"
            assert wait_for(lambda: "429" in running.ask(get(f"/j/a?reference={SECRET}"))[:15])
        assert_silent(running)


def test_a_disk_without_room_puts_no_secret_into_a_log(upstream: Upstream) -> None:
    upstream.kind = "ok"
    with site(f"server 127.0.0.1:{upstream.port} max_fails=0;") as running:
        shutil.rmtree(running.folder / "uploads")
        body = SECRET * 8000
        request = f"POST /admin/imports?x={SECRET} HTTP/1.1\r\n{HEADERS}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        assert running.ask(request).startswith("HTTP/1.1 503")
        shutil.rmtree(running.folder / "pages")
        upstream.kind = "silent"
        assert running.ask(get(f"/j/a?reference={SECRET}")).startswith("HTTP/1.1 ")
        assert_silent(running)


@pytest.mark.parametrize("host", ["evil.example", f"{HOST}.evil.example", "127.0.0.1", "_"])
def test_whoever_asks_for_another_host_gets_no_answer(nginx: Site, upstream: Upstream, host: str) -> None:
    for is_plain in (False, True):
        assert nginx.ask(get(f"/j/elsewhere?reference={SECRET}", f"Host: {host}\r\n"), plain=is_plain) == ""
    with pytest.raises(ssl.SSLError):
        nginx.connect(name=host)
    assert not [request for request in upstream.requests if b"/j/elsewhere" in request]
    assert_silent(nginx)


def test_only_nginx_says_where_a_request_came_from(nginx: Site, upstream: Upstream) -> None:
    upstream.kind = "ok"
    claims = "".join(
        f"{name}: 198.51.100.9\r\n"
        for name in ("X-Forwarded-For", "X_Forwarded_For", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto")
    )
    assert nginx.ask(get("/", HEADERS + claims)).startswith("HTTP/1.1 200")
    head = upstream.requests[-1].decode()
    assert "198.51.100.9" not in head
    assert "X-Forwarded-For: 127.0.0.1\r\n" in head
    assert f"Host: {HOST}\r\n" in head
    nginx.ask(get("/", f"Host: {HOST}:{nginx.port}\r\n"))
    assert f"Host: {HOST}:{nginx.port}\r\n" in upstream.requests[-1].decode()  # with its port, or the portal refuses it


def test_the_portals_own_pages_pass(nginx: Site, upstream: Upstream) -> None:
    for kind, status, words in (("unavailable", 503, "calm"), ("error", 500, "ours"), ("missing", 404, "lost")):
        upstream.kind = kind
        answer = nginx.ask(get("/verify"))
        assert answer.startswith(f"HTTP/1.1 {status} ")
        assert answer.endswith(words)


def assert_contained(page: str) -> None:
    """It requests nothing, and its one link asks for the same address again."""
    assert re.findall(r'(?:src|srcset|href|action)="(?!data:)([^"]*)"', page) == [""]
    assert not re.search(r"url\(|@import|http-equiv|<script|<form|https?:", page)


LOOK = """[portal]
name = "Bank & Söhne <b>"
language = "ar"
colour = "#7a1f5c"
radius = 3
"""


def write_page(folder: Path, settings: dict[str, str]) -> tuple[int, str]:
    """The status and the words of ``auth-portal pages``."""
    app = create_app()
    cli.register(app, lambda read: build(read, system_clock), system_clock)
    result = app.test_cli_runner().invoke(args=["pages", str(folder)], env=settings)
    return result.exit_code, result.output


@pytest.mark.usefixtures("languages")
@pytest.mark.parametrize(("kind", "status"), [("silent", 502), ("hangs", 504)])
def test_while_no_server_answers_the_page_is_the_banks(
    nginx: Site, hasty: Site, upstream: Upstream, sqlite_url: str, tmp_path: Path, kind: str, status: int
) -> None:
    """With and without its logo, in its language, and without a word of the request."""
    upstream.kind, running = kind, hasty if kind == "hangs" else nginx
    file = running.folder / "unavailable.html"
    portal = {
        "PORTAL_DATABASE_URL": sqlite_url,
        "PORTAL_SECRET_KEYS": MASTER_KEY,
        "PORTAL_PUBLIC_URL": f"https://{HOST}",
        "PORTAL_TRUSTED_PROXIES": "1",
        "PORTAL_INSTANCE": str(tmp_path),
    }
    for logo in (b"", PNG):
        with closing(build(read_settings(portal), system_clock)) as services:
            digest = services.configuration.take_logo(logo)
            services.configuration.import_toml(f'{LOOK}logo = "{digest}"\n', file_name="look.toml", prune=False)
        assert write_page(running.folder, portal) == (0, f"{file}: {file.stat().st_size} bytes\n")
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        for request in (
            get(f"/j/a?reference={SECRET}"),
            f"POST /verify HTTP/1.1\r\n{HEADERS}Content-Length: 0\r\n\r\n",
        ):
            head, _, page = running.ask(request).partition("\r\n\r\n")
            assert head.startswith(f"HTTP/1.1 {status} ")
            assert "Retry-After: 5" in head
            assert "Cache-Control: no-store" in head
            assert page == file.read_text()
            assert '<html lang="ar" dir="rtl">' in page
            assert "<h1>[ar] Please try again in a minute</h1>" in page
            assert "Bank &amp; Söhne &lt;b&gt;" in page
            assert "--b:#7a1f5c;" in page
            assert ("data:image/png;base64," in page) == bool(digest)
            assert HOST in page.replace("<wbr>", "")
            assert_contained(page)
            allowed = dict(
                rule.split(" ", 1) for rule in re.findall(r"-Security-Policy: (.*)", head)[0].strip().split("; ")
            )
            assert allowed.pop("style-src") == "'unsafe-inline'"
            assert allowed.pop("img-src") == "data:"
            assert set(allowed.values()) == {"'none'"}
            assert "default-src" in allowed
    before = file.read_text()
    status, written = write_page(running.folder, {**portal, "PORTAL_SECRET_KEYS": "k" * 64})
    assert (status, "stays as it is" in written) == (1, True)
    assert file.read_text() == before
    file.unlink()


def test_the_delivered_page_is_the_one_that_is_written_without_a_database(tmp_path: Path) -> None:
    """So nginx has one before the first start; it names no host, because it is every portal's."""
    nowhere = {"PORTAL_INSTANCE": str(tmp_path), "PORTAL_PUBLIC_URL": f"https://{HOST}", "PORTAL_TRUSTED_PROXIES": "1"}
    status, written = write_page(tmp_path, nowhere)
    assert (status, "neither the portal's name nor its look" in written) == (0, True)
    own, count = re.subn(r' *<span class="host">.*</span>', "", (tmp_path / "unavailable.html").read_text())
    assert count == 1
    assert own == (PAGES / "unavailable.html").read_text()


def test_every_page_of_nginx_is_complete(nginx: Site, upstream: Upstream) -> None:
    """It needs nothing else, which would be away as well; it tells no one about it, and no cache keeps it."""
    upstream.kind = "silent"
    answer = nginx.ask(get("/verify"))
    head, _, page = answer.partition("\r\n\r\n")
    for header in ("Cache-Control: no-store", "Referrer-Policy: no-referrer", "Content-Security-Policy: default-src 'none'",
                   "Strict-Transport-Security: max-age=63072000", "Content-Type: text/html; charset=utf-8"):  # fmt: skip
        assert header in head
    assert_contained(page)
    assert json.loads(nginx.ask(get("/api/v1/customers")).partition("\r\n\r\n")[2])["status"] == 503
    assert "51 MB" in nginx.ask(WRONG_REQUESTS["a large customers file"])
    assert "nginx/" not in answer


@contextmanager
def portal_behind(folder: Path, sqlite_url: str, receiver: Receiver) -> Iterator[Site]:
    """A real portal behind the site, under the name of this machine."""
    port = free_port()
    settings = {"PORTAL_PUBLIC_URL": f"https://localhost:{port}", "PORTAL_TRUSTED_PROXIES": "1"}
    configure(sqlite_url, receiver, CONFIG + STANDARD)
    with (
        serving(Server(folder, sqlite_url, workers=2, settings=settings)) as server,
        site(f"server 127.0.0.1:{server.port} max_fails=0;", host="localhost", port=port) as running,
    ):
        yield running


def visitor_of(running: Site) -> Visitor:
    visitor = Visitor(running.url)
    visitor.session.verify = str(running.authority)
    return visitor


def test_a_customer_is_verified_behind_the_site(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    with portal_behind(tmp_path, sqlite_url, receiver) as running:
        visitor = visitor_of(running)
        visitor.begin(SECRET, "app")
        style = re.search(r'href="(/look/[^"]+\.css)"', visitor.page.text)
        assert style is not None
        assert visitor.session.get(running.url + style[1]).headers["Cache-Control"].startswith("max-age=31536000")
        visitor.post("/verify", code=pyotp.TOTP(TOTP_SECRET).now())
        assert visitor.page.url.startswith(f"{running.url}/done?v=")
        assert wait_for(lambda: receiver.callbacks)[0].header == SECRET
        assert visitor.page.headers["Strict-Transport-Security"]
        assert_silent(running)


def test_r51_no_header_changes_the_address_behind_the_site(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    with portal_behind(tmp_path, sqlite_url, receiver) as running:
        wrong_key = f"Host: localhost:{running.port}\r\nAuthorization: Bearer wrong\r\n"
        statuses = [running.ask(get("/api/v1/customers", wrong_key))[9:12] for _ in range(WRONG_PER_MINUTE + 1)]
        assert statuses == ["401"] * WRONG_PER_MINUTE + ["429"]
        for number, headers in enumerate(CLAIMS):
            lines = "".join(f"{header}\r\n".format(n=number + 10) for header in headers)
            assert running.ask(get("/api/v1/customers", wrong_key + lines))[9:12] in {"400", "429"}, headers


def test_r50_slow_clients_hold_no_customer_up_behind_the_site(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    """Heads and bodies that stop, on forms and on the upload, and answers that are not read."""
    with portal_behind(tmp_path, sqlite_url, receiver) as running, ExitStack() as stack:
        host = f"Host: localhost:{running.port}\r\n"
        slow = [
            f"POST {path} HTTP/1.1\r\n{host}Content-Length: 60000\r\n\r\na=" for path in ("/j/app", "/admin/imports")
        ]
        slow += [f"GET / HTTP/1.1\r\n{host}X: y", ""]
        for start in slow * 20:
            held = stack.enter_context(running.connect())
            held.sendall(start.encode())
        visitor = visitor_of(running)
        visitor.begin(SECRET, "app")
        took = visitor.get("/verify").elapsed.total_seconds()
        assert took < 10, "the slow ones are let go after 10 s: this page must not wait for that"
        assert_silent(running)
