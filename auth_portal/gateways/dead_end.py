"""A way out that leads nowhere: it takes what would be sent, answers for the other side, and has no socket.

What is given one of these for a ``WayOut`` cannot reach anybody, whatever addresses it is told.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from auth_portal.gateways.way_out import Blocked, HttpAnswer


@dataclass(frozen=True)
class Taken:
    """A request that went nowhere."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class DeadEnd:
    """A WayOut; ``answer`` gives the status of each request."""

    def __init__(self, answer: Callable[[Taken], int]) -> None:
        self._answer = answer

    @property
    def tls(self) -> ssl.SSLContext:
        """Needed by nobody who has no connection."""
        raise Blocked("Nothing leaves from here.")

    def is_private(self, host: str, port: int) -> bool:
        """Nothing is sent, so nothing is sent in the open."""
        return True

    def check_origin(self, url: str) -> None:
        """Every address is as good as any other."""

    def check_mail_host(self, host: str, port: int) -> None:
        """The same for mail servers."""

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes, **_bounds: float
    ) -> HttpAnswer:
        """Takes one request, and answers it as ``answer`` says."""
        return HttpAnswer(self._answer(Taken(url, headers, body)), {}, b"")

    def reach(self, url: str) -> None:
        """Reaches nothing."""
        raise Blocked("Nothing leaves from here.")

    def connect(self, host: str, port: int, *, connect_seconds: float, deadline: float) -> socket.socket:
        """Connects to nothing."""
        raise Blocked("Nothing leaves from here.")
