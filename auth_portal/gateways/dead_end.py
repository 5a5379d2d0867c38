"""A way out that leads nowhere: it takes what would be sent, answers for the other side, and has no socket.

What is given one of these instead of ``Outbound`` cannot reach anybody, whatever addresses it is told.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from auth_portal.gateways.outbound import ANSWER_BYTES, CONNECT_SECONDS, TOTAL_SECONDS, Blocked, HttpAnswer, Outbound


@dataclass(frozen=True)
class Taken:
    """A request that went nowhere."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class DeadEnd(Outbound):
    """Stands where an Outbound is expected; ``answer`` gives the status of each request."""

    def __init__(self, answer: Callable[[Taken], int]) -> None:  # not the parent's: it would read certificates
        self._answer = answer

    def check_origin(self, url: str) -> None:
        """Every address is as good as any other."""

    def check_mail_host(self, host: str, port: int) -> None:
        """The same for mail servers."""

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
        """Takes one request, and answers it as ``answer`` says."""
        return HttpAnswer(self._answer(Taken(url, headers, body)), {}, b"")

    def reach(self, url: str) -> None:
        """Reaches nothing."""
        raise Blocked("Nothing leaves from here.")

    def connect(self, host: str, port: int, *, connect_seconds: float, deadline: float) -> socket.socket:
        """Connects to nothing."""
        raise Blocked("Nothing leaves from here.")
