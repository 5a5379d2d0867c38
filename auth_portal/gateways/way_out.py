"""What gateways ask of the network, whoever answers: the guarded way out, or a dead end.

Bounds of a request, what comes back of it, and how it can fail are the same for both.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

CONNECT_SECONDS = 3.0  # D2: looking up the name and connecting
TOTAL_SECONDS = 8.0  # D2: all of a request, from the name to the last byte of the answer
ANSWER_BYTES = 64 * 1024  # D2: status line, headers and body together


class OutboundError(Exception):
    """Nothing usable came back. ``reason`` is short, safe to log and to show to an admin."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotReached(OutboundError):
    """The other side has certainly received nothing."""


class Blocked(NotReached):
    """Not allowed out: the address, the scheme, the port or a header. Trying again cannot help."""


class Untrusted(NotReached):
    """The other side's certificate could not be verified."""


class Unclear(OutboundError):
    """The request may have been received and acted upon; the answer was lost, late or unreadable."""


@dataclass(frozen=True)
class HttpAnswer:
    """What came back. ``body`` is what was taken of it; ``is_whole`` says whether that is all there was."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True

    @property
    def is_success(self) -> bool:
        """Whether the status is one of 2xx."""
        return self.status in range(200, 300)


class WayOut(Protocol):
    """The way to other servers. ``outbound.Outbound`` says what each promises; nothing else goes out."""

    @property
    def tls(self) -> ssl.SSLContext:
        """For TLS on what ``connect`` gave."""

    def is_private(self, host: str, port: int) -> bool:
        """Whether the operator declared this server private."""

    def check_origin(self, url: str) -> None:
        """Raises Misconfigured where a URL could never be called."""

    def check_mail_host(self, host: str, port: int) -> None:
        """Raises Misconfigured where a mail server could never be reached."""

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
    ) -> HttpAnswer:
        """One request and its answer. Raises OutboundError."""

    def reach(self, url: str) -> None:
        """Connects and sends nothing. Raises OutboundError."""

    def connect(self, host: str, port: int, *, connect_seconds: float, deadline: float) -> socket.socket:
        """A connection to a mail server. Raises OutboundError."""
