"""One callback to Flow: post it once, and report what became of it.

When and how often to try again is the outbox's business; so are identical bytes. The reference is a credential: it is
sent, and appears in no log, error or reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

from auth_portal.errors import Misconfigured
from auth_portal.gateways.way_out import Blocked, NotReached, Unclear, WayOut

# The two servers of Flow's callback specification, without its trailing slash: //callback is not found there.
SERVERS = {
    "production": "https://flow-callback.clickatell.com",
    "uat": "https://control-callback-uat.payd.co",
}
PATHS = {"external_link": "/callback", "wait_for_callback": "/chat/callback"}

REACHABLE = "reachable"

_INTERIM = range(100, 200)  # never the final answer, so that was lost
_SUCCESS = range(200, 300)
_SERVER_ERRORS = range(500, 600)
_RETRIED = frozenset({408, 425, 429})
_UPSTREAM_UNKNOWN = frozenset({502, 504})  # a gateway that asked Flow and does not know what Flow did
_NAMES_A_WAIT = frozenset({429, 503})


class Fate(StrEnum):
    """What became of one attempt."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # final
    RETRY = "retry"  # not taken, and worth another attempt
    UNCLEAR = "unclear"  # perhaps taken: only the identical bytes may follow


@dataclass(frozen=True)
class CallbackAnswer:
    """What Flow answered. ``reason`` is safe to log and show; ``retry_after_seconds`` is None if Flow named no wait."""

    fate: Fate
    status: int | None
    reason: str
    retry_after_seconds: float | None = None


class FlowGateway:
    """Post callbacks to the servers of Flow, to its stand-in, and to origins that an admin configured."""

    def __init__(self, outbound: WayOut, *, sandbox_url: str) -> None:
        self._outbound = outbound
        self._sandbox_url = sandbox_url

    def origin_of(self, server: str) -> str:
        """Return the base URL of ``production``, ``uat``, ``sandbox`` or an origin, without a trailing slash.

        Raise Misconfigured for the sandbox while it is off, and for a text that is neither a name nor a URL.
        """
        if server == "sandbox" and not self._sandbox_url:
            raise Misconfigured("The server is the sandbox, and the sandbox is off.")
        base = SERVERS.get(server) or (self._sandbox_url if server == "sandbox" else server)
        if "?" in base:
            raise Misconfigured("The server must be an origin such as https://flow.example, without a question mark.")
        self._outbound.check_origin(base)
        return base.rstrip("/")

    def send(
        self,
        server: str,
        contract: str,
        reference: str,
        body: bytes,
        *,
        now: datetime | None = None,
        deadline: float | None = None,
    ) -> CallbackAnswer:
        """Post one callback once. ``contract`` is a key of PATHS. Raise nothing that the network could cause.

        A Retry-After with a date is counted from ``now``; without it such a date is ignored. Nothing is sent after
        ``deadline``, a value of time.monotonic().
        """
        path = PATHS[contract]
        headers = {"reference": reference, "Content-Type": "application/json", "User-Agent": "AuthPortal"}
        try:
            answer = self._outbound.request(
                "POST", self.origin_of(server) + path, headers=headers, body=body, deadline=deadline, keeps_alive=True
            )
        except Misconfigured as error:
            return CallbackAnswer(Fate.REFUSED, None, f"address not allowed: {error}")
        except Blocked as error:
            return CallbackAnswer(Fate.REFUSED, None, f"address not allowed: {error.reason}")
        except NotReached as error:
            return CallbackAnswer(Fate.RETRY, None, f"not reached: {error.reason}")
        except Unclear as error:
            return CallbackAnswer(Fate.UNCLEAR, None, error.reason)
        wait = retry_after(answer.headers.get("Retry-After", ""), now) if answer.status in _NAMES_A_WAIT else None
        return CallbackAnswer(fate_of(answer.status), answer.status, f"HTTP {answer.status}", wait)

    def ping(self, server: str) -> str:
        """Return REACHABLE, or why not. Connect with TLS and post nothing."""
        try:
            self._outbound.reach(self.origin_of(server))
        except Misconfigured as error:
            return str(error)
        except NotReached as error:
            return error.reason
        return REACHABLE


def fate_of(status: int) -> Fate:
    """Return what an HTTP status says about the fate of a callback."""
    if status in _SUCCESS:
        return Fate.ACCEPTED
    if status in _UPSTREAM_UNKNOWN or status in _INTERIM:
        return Fate.UNCLEAR
    if status in _RETRIED or status in _SERVER_ERRORS:
        return Fate.RETRY
    return Fate.REFUSED


def retry_after(text: str, now: datetime | None) -> float | None:
    """Return the seconds to wait, from either form of Retry-After (RFC 9110, 10.2.3); None if it cannot be read."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])  # more than 30 years make no difference
    if now is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
