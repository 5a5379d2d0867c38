"""What gateways ask of the network: the guarded connection to other servers, or a dead end in its place.

The bounds of a request, its answer and the ways in which it can fail are the same for both. A caller gets an answer or
one of four errors, which say the one thing that matters for trying again: whether the other side can have received
anything.

    NotReached    certainly not: no such name, no connection, no TLS, refused by the proxy
      Blocked     and never will, because the policy does not allow it
      Untrusted   and the certificate is why
    Unclear       it may have
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

CONNECT_SECONDS = 3.0  # D2: looking up the name and connecting
MAIL_SECONDS = 10.0  # all of a conversation with a mail server, from its name on
TOTAL_SECONDS = 8.0  # D2: all of a request, from the name to the last byte of the answer
ANSWER_BYTES = 64 * 1024  # D2: status line, headers and body together
HEADER_LENGTH = 8190  # characters; what nginx and Apache take in one header line

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"(?:[\x21-\x7e\xa0-\xff](?:[\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa0-\xff])?)?")


class OutboundError(Exception):
    """Nothing usable came back. ``reason`` is short, safe to log and to show to an admin."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotReached(OutboundError):
    """The other side has certainly received nothing."""


class Blocked(NotReached):
    """Not allowed: the address, the scheme, the port or a header. Trying again cannot help."""


class Untrusted(NotReached):
    """The other side's certificate could not be verified."""


class Unclear(OutboundError):
    """The request may have been received and acted upon; the answer was lost, late or unreadable."""


def check_header(name: str, value: str) -> None:
    """Raise Blocked for a header that HTTP cannot carry unchanged; the message repeats neither name nor value."""
    if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value) or len(value) > HEADER_LENGTH:
        raise Blocked("A header contains characters that HTTP cannot carry, or is too long.")


@dataclass(frozen=True)
class HttpAnswer:
    """An answer. ``body`` is what was read of it; ``is_whole`` says whether that is all there was."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True

    @property
    def is_success(self) -> bool:
        """Report whether the status is 2xx."""
        return self.status in range(200, 300)


class WayOut(Protocol):
    """The only connection to other servers. ``outbound.Outbound`` documents what each method guarantees."""

    @property
    def tls(self) -> ssl.SSLContext:
        """Return the context for TLS on a socket that ``connect`` returned."""

    def is_private(self, host: str, port: int) -> bool:
        """Return True if the operator declared this server private."""

    def check_origin(self, url: str) -> None:
        """Raise Misconfigured for a URL that could never be called."""

    def check_mail_host(self, host: str, port: int) -> None:
        """Raise Misconfigured for a mail server that could never be reached."""

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        connect_seconds: float = CONNECT_SECONDS,
        total_seconds: float = TOTAL_SECONDS,
        answer_bytes: int = ANSWER_BYTES,
        deadline: float | None = None,
        keeps_alive: bool = False,
    ) -> HttpAnswer:
        """Send one request and return its answer. Raise OutboundError."""

    def reach(self, url: str) -> None:
        """Connect and send nothing. Raise OutboundError."""

    def connect(self, host: str, port: int, *, connect_seconds: float, deadline: float) -> socket.socket:
        """Return a connection to a mail server. Raise OutboundError."""


@dataclass(frozen=True)
class CapturedRequest:
    """A request that went nowhere."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class DeadEnd:
    """A WayOut that leads nowhere: it has no socket, captures each request, and answers with ``answer``'s status.

    A test drive gets one, so that it cannot reach any server, whatever addresses it is given.
    """

    def __init__(self, answer: Callable[[CapturedRequest], int]) -> None:
        self._answer = answer

    @property
    def tls(self) -> ssl.SSLContext:
        """Raise Blocked: there is no connection to encrypt."""
        raise Blocked("Nothing leaves from here.")

    def is_private(self, host: str, port: int) -> bool:
        """Return True: nothing is sent, so nothing is sent unencrypted."""
        return True

    def check_origin(self, url: str) -> None:
        """Accept every address."""

    def check_mail_host(self, host: str, port: int) -> None:
        """Accept every mail server."""

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes, **_bounds: float | None
    ) -> HttpAnswer:
        """Capture one request and return ``answer``'s status."""
        return HttpAnswer(self._answer(CapturedRequest(url, headers, body)), {}, b"")

    def reach(self, url: str) -> None:
        """Raise Blocked."""
        raise Blocked("Nothing leaves from here.")

    def connect(self, host: str, port: int, *, connect_seconds: float, deadline: float) -> socket.socket:
        """Raise Blocked."""
        raise Blocked("Nothing leaves from here.")
