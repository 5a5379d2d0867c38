"""What a portal does under eight connections, beside a bare Flask hello on the same server in the same run.

Requests are prepared before a round and sent by one cheap client. Rounds of each kind take turns, hello among them, and
CPU is that of the whole process tree, PostgreSQL's processes included. A code that was right counts only if the
database says `verified`, and with sending only if Flow has the result.
`python -m bench load [--database sqlite|postgresql] [--server gunicorn|granian]`
"""

from __future__ import annotations

import os
import selectors
import socket
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from sqlalchemy import make_url, text

from auth_portal.store.db import Database
from bench.drain import Drain, draining
from bench.lists import a_database
from bench.portal import Quick, cpu_seconds, phone, portal, postgres_cpu
from tests.postgres import make_database
from tests.receiver import Listens, Receiver, wait_for
from tests.serving import Server, serving

CONNECTIONS = 8
ROUNDS = 3
WORKERS = 2
PAGES = 2_000  # requests of a round of hello and of landing pages
CHECKS = 300  # of a round of codes, and of pages of a visit
PACED, A_SECOND = 500, 50  # right codes, and how many a second, whose way to Flow is measured
WARM = 40  # requests before the first round
TIME_OUT_SECONDS = 60
BELOW_BRAKE = 10  # people who begin before what the brake on SMS counted is forgotten


@dataclass
class Round:
    """What one round took."""

    requests: int
    seconds: float
    cpu_seconds: float
    milliseconds: list[float]


@dataclass
class Kind:
    """One kind of request: how a round of it is made, and what must be true after each."""

    name: str
    server: Server
    prepare: Callable[[int], Sequence[bytes]]  # of the number of a round, 0 to warm up
    expects: bytes
    proves: Callable[[int], None] = lambda _count: None  # asked with how many answers came in this round
    rounds: list[Round] = field(default_factory=list)


# --- The client


class _Wire:
    """One kept-alive connection with at most one request on it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.began = 0.0
        self.read = b""
        self.open()

    def open(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port), TIME_OUT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        self.read, self.began = b"", time.perf_counter()
        self.socket.sendall(request)

    def take(self) -> bytes | None:
        """The whole answer, or None while a part of it is missing."""
        self.read += self.socket.recv(65536)
        head, end, body = self.read.partition(b"\r\n\r\n")
        if not end:
            return None
        at = head.lower().find(b"content-length:")
        assert at >= 0, head
        return self.read if len(body) >= int(head[at + 15 :].split(b"\r\n", 1)[0]) else None


def send(port: int, requests: Sequence[bytes], expects: bytes, connections: int = CONNECTIONS) -> list[float]:
    """Send all requests over so many connections; return milliseconds of each. Raise AssertionError for a wrong one."""
    waiting, taken = deque(requests), []
    with selectors.DefaultSelector() as selector:
        for _ in range(min(connections, len(waiting))):
            wire = _Wire(port)
            selector.register(wire.socket, selectors.EVENT_READ, wire)
            wire.send(waiting.popleft())
        while selector.get_map():
            ready = selector.select(TIME_OUT_SECONDS)
            assert ready, "no answer came"
            for key, _events in ready:
                found: _Wire = key.data
                answer = found.take()
                if answer is None:
                    continue
                taken.append((time.perf_counter() - found.began) * 1000)
                assert answer.startswith(expects), answer[:2000].decode(errors="replace")
                is_over = b"\r\nconnection: close" in answer[:1000].lower()
                if waiting and not is_over:
                    found.send(waiting.popleft())
                    continue
                selector.unregister(found.socket)
                found.socket.close()
                if waiting:
                    found.open()
                    selector.register(found.socket, selectors.EVENT_READ, found)
                    found.send(waiting.popleft())
    return taken


def get(port: int, path: str, cookies: str = "") -> bytes:
    """A request for a page."""
    cookie = f"Cookie: {cookies}\r\n" if cookies else ""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{cookie}\r\n".encode()


def post(port: int, path: str, fields: dict[str, str], cookies: str) -> bytes:
    """A form."""
    body = urlencode(fields)
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookies}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


# --- What is measured


def measure(kind: Kind, number: int, cpu: Callable[[Server], float]) -> None:
    """Play one round; 0 warms up and counts for nothing."""
    requests = kind.prepare(number)
    before, began = cpu(kind.server), time.perf_counter()
    taken = send(kind.server.port, requests, kind.expects)
    seconds = time.perf_counter() - began
    kind.proves(len(taken))
    used = cpu(kind.server) - before  # with what was sent because of them
    if number:
        kind.rounds.append(Round(len(taken), seconds, used, sorted(taken)))


class Visits:
    """Customers who stand before the code page, each with a right code."""

    def __init__(self, receiver: Receiver, url: str) -> None:
        self._receiver, self._url = receiver, url
        self._forms: list[tuple[dict[str, str], str]] = []

    def begin(self, server: Server, count: int) -> None:
        """Let so many customers begin."""
        quick = Quick(server.port)
        first = len(self._forms)
        for number in range(first, first + count):
            if number % BELOW_BRAKE == 0:
                wait_for(lambda: len(self._receiver.messages) >= len(self._forms) - first)
                forget_senders(self._url)
            quick.fresh()
            fields = quick.begin(f"load-{number}", number)
            self._forms.append((fields, "; ".join(f"{name}={value}" for name, value in quick.cookies().items())))
        wait_for(lambda: len(self._receiver.messages) >= count)
        codes = {message["to"]: message["text"].split()[0] for message in self._receiver.messages}
        self._receiver.messages.clear()
        for number in range(first, first + count):
            self._forms[number][0]["code"] = codes[phone(number)]

    def pages(self, port: int, numbers: range) -> list[bytes]:
        """Requests for their code pages."""
        return [get(port, "/verify", self._forms[number % len(self._forms)][1]) for number in numbers]

    def checks(self, port: int, numbers: range) -> list[bytes]:
        """Their forms with the right code."""
        return [post(port, "/verify", *self._forms[number]) for number in numbers]


def forget_senders(url: str) -> None:
    """Empty the counters of the brake on SMS (R49): so many who ask for a code and wait with it look like pumping."""
    with closing(Database(url)) as database, database.write() as connection:
        connection.execute(text("DELETE FROM counters"))


def verified(url: str) -> int:
    """How many customers the database says are verified."""
    with closing(Database(url)) as database, database.read() as connection:
        return int(
            connection.execute(text("SELECT count(*) FROM verifications WHERE outcome = 'verified'")).scalar_one()
        )


def _prover(url: str, drain: Drain | None) -> Callable[[int], None]:
    """What fails unless each right code led to a verification, and with a drain to a result that Flow has."""
    known = [verified(url), drain.count if drain else 0]

    def prove(count: int) -> None:
        known[0] += count
        assert verified(url) == known[0]
        if drain is not None:
            known[1] += count
            wait_for(lambda: drain.count >= known[1])
            assert drain.count == known[1]

    return prove


@contextmanager
def kinds(folder: Path, urls: Sequence[str], server: str, drain: Drain) -> Iterator[list[Kind]]:
    """All kinds of requests, with the servers that answer them: one portal sends nothing, the other what is due."""
    with closing(Receiver()) as receiver, ExitStack() as stack:
        quiet, sending = (
            CodePages(folder / name, url, server, receiver, drain) for name, url in zip("qs", urls, strict=True)
        )
        for one in (quiet, sending):
            with serving(one.server, PORTAL_DISPATCH="inline"):
                one.visits.begin(one.server, WARM + ROUNDS * CHECKS)
        hello = Server(folder / "q", "sqlite://", server=server, workers=WORKERS, app="bench.hello:app")
        stack.enter_context(serving(hello))
        stack.enter_context(serving(quiet.server, PORTAL_DISPATCH="off"))
        stack.enter_context(serving(sending.server, PORTAL_DISPATCH="inline"))
        yield [
            Kind("hello", hello, lambda n: [get(hello.port, "/hello") for _ in some(n, PAGES)], b"HTTP/1.1 200"),
            Kind("landing page", quiet.server, quiet.landings, b"HTTP/1.1 200"),
            Kind("code page", quiet.server, quiet.pages, b"HTTP/1.1 200"),
            Kind("code check", quiet.server, quiet.checks, b"HTTP/1.1 303", _prover(urls[0], None)),
            Kind("code check, sent", sending.server, sending.checks, b"HTTP/1.1 303", _prover(urls[1], drain)),
        ]


def some(number: int, count: int) -> range:
    """The numbers of the requests of a round."""
    return range(WARM + (number - 1) * count, WARM + number * count) if number else range(WARM)


class CodePages:
    """A portal with customers who stand before the code page."""

    def __init__(
        self, folder: Path, url: str, server: str, receiver: Receiver, drain: Listens, rounds: int = ROUNDS
    ) -> None:
        rows = "\n".join(f"B-{number},{phone(number)}" for number in range(WARM + rounds * CHECKS))
        self.visits = Visits(receiver, url)
        self.server = portal(
            folder, receiver, server=server, workers=WORKERS, customers=f"customer_id,phone\n{rows}\n", url=url,
            results_to=drain.origin,
        )  # fmt: skip

    def landings(self, number: int) -> list[bytes]:
        """Requests for landing pages without a cookie."""
        return [get(self.server.port, f"/?reference=r{one}") for one in some(number, PAGES)]

    def pages(self, number: int) -> list[bytes]:
        """Requests for code pages."""
        return self.visits.pages(self.server.port, some(number, CHECKS))

    def checks(self, number: int) -> list[bytes]:
        """Forms with the right code."""
        return self.visits.checks(self.server.port, some(number, CHECKS))


def to_callback(folder: Path, url: str, server: str) -> list[float]:
    """Milliseconds from the right code to the callback's arrival while so many a second are sent, sorted."""
    with closing(Receiver()) as receiver, closing(Receiver()) as flow:
        one = CodePages(folder / "paced", url, server, receiver, flow)
        with serving(one.server, PORTAL_DISPATCH="inline"), ThreadPoolExecutor(CONNECTIONS) as senders:
            one.visits.begin(one.server, WARM + PACED)
            sent: dict[str, float] = {}

            def check(number: int, request: bytes) -> None:
                sent[f"load-{number}"] = time.monotonic()
                send(one.server.port, [request], b"HTTP/1.1 303", 1)

            began = time.monotonic()
            for number, request in enumerate(one.visits.checks(one.server.port, range(WARM + PACED))):
                time.sleep(max(0.0, began + number / A_SECOND - time.monotonic()))
                senders.submit(check, number, request)
            wait_for(lambda: len(flow.callbacks) == WARM + PACED)
        taken = [(call.at - sent[call.header]) * 1000 for call in flow.callbacks]
    return sorted(taken[WARM:])


def main(databases: Sequence[str], server: str) -> int:
    """Measure and print one table for each database."""
    for name in databases:
        with tempfile.TemporaryDirectory(prefix="bench-load-") as folder, a_database(name, Path(folder)) as url:
            _measure(name, Path(folder), url, server)
    return 0


def _measure(name: str, folder: Path, url: str, server: str) -> None:
    of_database, urls = (
        postgres_cpu(url),
        [f"sqlite:///{folder / database}.db" for database in ("quiet", "sending", "paced")],
    )
    if name == "postgresql":
        for database in ("quiet", "sending", "paced"):
            make_database(url, database, "template0")
        urls = [make_url(url).set(database=database, drivername="postgresql+psycopg").render_as_string(False)
                for database in ("quiet", "sending", "paced")]  # fmt: skip
    with draining() as drain, kinds(folder, urls[:2], server, drain) as all_kinds:

        def cpu(one: Server) -> float:
            return cpu_seconds(one) + of_database()

        for number in range(ROUNDS + 1):
            for kind in all_kinds:
                measure(kind, number, cpu)
        _print(f"{name}, {server} with {WORKERS} workers, {CONNECTIONS} connections", all_kinds)
    taken = to_callback(folder, urls[2], server)
    p50, p99 = (taken[int(len(taken) * share)] for share in (0.5, 0.99))
    print(f"  right code to callback at {A_SECOND} a second: p50 {p50:.1f} ms, p99 {p99:.1f} ms", flush=True)


def _print(title: str, all_kinds: Sequence[Kind]) -> None:
    load = os.getloadavg()[0]
    print(f"{title}, median of {ROUNDS} rounds, load {load:.1f} ({datetime.now(UTC):%Y-%m-%d})")
    print("                    a second   p50 ms   p99 ms   CPU ms   x hello")
    of_hello = _cpu_ms(all_kinds[0])
    for kind in all_kinds:
        rate = statistics.median(one.requests / one.seconds for one in kind.rounds)
        p50, p99 = (
            statistics.median(one.milliseconds[int(len(one.milliseconds) * share)] for one in kind.rounds)
            for share in (0.5, 0.99)
        )
        used = _cpu_ms(kind)
        print(f"  {kind.name:17} {rate:8.0f} {p50:8.1f} {p99:8.1f} {used:8.2f} {used / of_hello:9.1f}", flush=True)


def _cpu_ms(kind: Kind) -> float:
    return statistics.median(one.cpu_seconds / one.requests * 1000 for one in kind.rounds)
