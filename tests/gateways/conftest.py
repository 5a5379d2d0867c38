"""Real other sides for the gateways: sockets that misbehave, certificates, mail servers, a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default as parsing_policy
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from auth_portal.gateways.addresses import NetworkPolicy
from auth_portal.gateways.outbound import Outbound

pytest.register_assert_rewrite("tests.gateways.channel_contract")
LOCAL = "127.0.0.1"


class Peer:
    """A TCP server that does with each connection what a test says, and remembers what it was sent."""

    def __init__(self, behave: Callable[[Peer, socket.socket], None]) -> None:
        self.connections = 0
        self.ended = 0  # connections that this side has closed
        self.received = b""  # the newest request
        self.requests: list[bytes] = []
        self._behave = behave
        self._socket = socket.create_server((LOCAL, 0), backlog=100)
        self._threads: list[threading.Thread] = []
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{LOCAL}:{self.port}"
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._behave(self, connection)
        self.ended += 1

    def read_request(self, connection: socket.socket) -> bytes:
        """Takes one request, headers and body, and remembers it."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                break
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        length = int(lengths[0].split(b":")[1]) if lengths else 0
        while len(body) < length and (piece := connection.recv(65536)):
            body, data = body + piece, data + piece
        if data:
            self.received = data
            self.requests.append(data)
        return data

    def drip(self, connection: socket.socket, data: bytes, *, pause_seconds: float = 0.01) -> None:
        """Sends one byte at a time until the data or the test ends."""
        for byte in data:
            connection.sendall(bytes([byte]))
            if self.stop.wait(pause_seconds):
                return

    def close(self) -> None:
        self.stop.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in [self._thread, *self._threads]:
            thread.join(5)


Behaviour = Callable[[Peer, socket.socket], None]


class Peers:
    """Starts peers, and ends them with the test."""

    def __init__(self) -> None:
        self.started: list[Peer] = []

    def __call__(self, behave: Behaviour) -> Peer:
        self.started.append(Peer(behave))
        return self.started[-1]

    def answering(self, *pieces: bytes) -> Peer:
        """A peer that reads the request, then sends this answer and closes."""

        def behave(peer: Peer, connection: socket.socket) -> None:
            peer.read_request(connection)
            connection.sendall(b"".join(pieces))

        return self(behave)


@pytest.fixture
def serve() -> Iterator[Peers]:
    peers = Peers()
    yield peers
    for peer in peers.started:
        peer.close()


class Clock:
    """``time`` for the way out: stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(serve: Peers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr("auth_portal.gateways.outbound.time", clock)
    yield clock
    clock.now += 60  # no connection rests any longer, so that the servers end
    for thread in threading.enumerate():
        if thread.name == "resting":
            thread.join()


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that nobody listens on, kept from others by being bound."""
    with socket.socket() as holder:
        holder.bind((LOCAL, 0))
        yield holder.getsockname()[1]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="session")
def certified(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    """Makes a server's side of TLS with a certificate for these names."""

    def make(*names: str, by: trustme.CA = authority, **details: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        by.issue_cert(*names, **details).configure_cert(context)
        return context

    return make


@pytest.fixture(scope="session")
def local_tls(certified: Callable[..., ssl.SSLContext]) -> ssl.SSLContext:
    """A server's side of TLS with a right certificate for 127.0.0.1."""
    return certified(LOCAL)


@pytest.fixture(scope="session")
def outbound(ca_bundle: Path) -> Outbound:
    """A way out that lets everything through and trusts the tests' authority."""
    return Outbound(NetworkPolicy(allow_private=True, ca_bundle=ca_bundle))


@dataclass
class Mailbox:
    """What a mail server's handler was given, and what it shall answer."""

    messages: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    senders: list[str] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)  # MAIL, RCPT or DATA -> what is answered

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        self.senders.append(address)
        return self.answers.get("MAIL", "250 OK")

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        self.recipients.append(address)
        return self.answers.get("RCPT", "250 OK")

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = cast("bytes", envelope.original_content)
        self.messages.append(BytesParser(policy=parsing_policy).parsebytes(content))
        return self.answers.get("DATA", "250 OK")

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == b"right", handled=False)  # aiosmtpd answers


class MailServer:
    """aiosmtpd in a thread of its own, on a port that the system chose."""

    def __init__(self, tls: ssl.SSLContext | None = None, **options: Any) -> None:
        self.mailbox = Mailbox()
        self._loop = asyncio.new_event_loop()
        listener = socket.create_server((LOCAL, 0))
        self.port: int = listener.getsockname()[1]

        def protocol() -> SMTP:
            return SMTP(
                self.mailbox,
                hostname="mail.example",
                authenticator=self.mailbox.authenticate,
                loop=self._loop,
                **options,
            )

        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(self._loop.create_server(protocol, sock=listener, ssl=tls))

    def _call(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(60)

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


@pytest.fixture
def mail_server() -> Iterator[Callable[..., MailServer]]:
    servers: list[MailServer] = []

    def start(tls: ssl.SSLContext | None = None, **options: Any) -> MailServer:
        servers.append(MailServer(tls, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
