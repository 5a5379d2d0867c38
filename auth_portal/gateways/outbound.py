"""The only exit: every HTTP request and every SMTP connection leaves through here, on sockets with bounds.

What it guarantees (D2, D4): a name is looked up once, its addresses are checked, and exactly those are connected;
nothing lasts beyond its deadline, however slowly the bytes arrive (name look-up, handshake, headers, body); no more
than 64 KiB of an answer is read; redirects are not followed; certificates are verified; no proxy but the configured
one.

What it refuses: addresses that the policy does not allow (``addresses``), headers that HTTP cannot carry, and sending
anything twice. Each request has its own connection, so that an idle connection that has died can never look like a
lost reply. Measured, that costs 1 ms of CPU and the round trips of a handshake.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Self

import urllib3.connection
from requests import PreparedRequest, Request
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from auth_portal.errors import Misconfigured
from auth_portal.gateways.addresses import NetworkPolicy, Target, public_ones
from auth_portal.gateways.way_out import (
    ANSWER_BYTES,
    CONNECT_SECONDS,
    TOTAL_SECONDS,
    Blocked,
    HttpAnswer,
    NotReached,
    OutboundError,
    Unclear,
    Untrusted,
    check_header,
)

CONNECT_ATTEMPTS = 3  # addresses tried within CONNECT_SECONDS, so that each has a second

Resolve = Callable[[str, int], list[str]]
"""Returns the addresses of a host; raises OSError if there are none."""


def system_resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host in the system's order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Outbound:
    """The guarded exit. Holds no connection and no thread, so it may be shared and forked."""

    def __init__(self, policy: NetworkPolicy, *, resolve: Resolve = system_resolve) -> None:
        """Raise Misconfigured if the policy's CA bundle cannot be read."""
        self.policy = policy
        self._tls = _TlsContext.trusting(policy.ca_bundle)
        self._lookups = _Lookups(resolve)

    @property
    def tls(self) -> ssl.SSLContext:
        """Return the context for STARTTLS and SMTP over TLS on sockets from connect()."""
        return self._tls

    def is_private(self, host: str, port: int) -> bool:
        """Return True if the operator declared this server private: then a login may be sent to it unencrypted."""
        return self.policy.exempts(host, port)

    def check_origin(self, url: str) -> None:
        """Raise Misconfigured with a sentence for the admin if a URL could never be called. No network."""
        try:
            self.policy.target(url)
        except Blocked as refusal:
            raise Misconfigured(refusal.reason) from None

    def check_mail_host(self, host: str, port: int) -> None:
        """Raise Misconfigured with a sentence for the admin if an SMTP server could never be reached. No network."""
        try:
            self.policy.check_mail_host(host, port)
        except Blocked as refusal:
            raise Misconfigured(refusal.reason) from None

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
    ) -> HttpAnswer:
        """Send one request once and return the answer, whatever its status.

        It ends after ``total_seconds``, and not later than at ``deadline``, a value of time.monotonic(): a caller that
        may be suspended takes it before it decides to send. ``answer_bytes`` counts headers and body. A body that is
        cut by it, by the deadline or by the other side is returned as far as it arrived, with ``is_whole`` False.
        Raise NotReached, Blocked, Untrusted or Unclear, and nothing else.
        """
        left = total_seconds if deadline is None else min(total_seconds, deadline - time.monotonic())
        bounds = _Bounds.from_now(connect_seconds, left, answer_bytes)
        target = self.policy.target(url)
        prepared = _prepare(method, url, headers, body)
        return self._travel(_Trip(self._dialler(target, bounds)), prepared, target)

    def reach(self, url: str) -> None:
        """Connect as request() would, TLS included, and send no request. Raise NotReached or its children."""
        bounds = _Bounds.from_now(CONNECT_SECONDS, TOTAL_SECONDS, ANSWER_BYTES)
        target = self.policy.target(url)
        trip = _Trip(self._dialler(target, bounds), only_connect=True)
        with suppress(_Arrived):
            self._travel(trip, _prepare("GET", url, {}, b""), target)

    def connect(self, host: str, port: int, *, connect_seconds: float, deadline: float) -> socket.socket:
        """Return a connection to an SMTP server, which ends at ``deadline`` (a value of time.monotonic()).

        It yields 64 KiB at most, and ``self.tls`` can wrap it. Raise NotReached or Blocked.
        """
        self.policy.check_mail_host(host, port)
        bounds = _Bounds(min(time.monotonic() + connect_seconds, deadline), deadline, ANSWER_BYTES)
        return self._dial(host, port, is_exempt=self.policy.exempts(host, port), bounds=bounds)

    def _dialler(self, target: Target, bounds: _Bounds) -> _Dial:
        # The proxy is the operator's own choice, so its address needs no guard.
        return partial(self._dial, is_exempt=target.is_exempt or bool(self._proxy(target)), bounds=bounds)

    def _proxy(self, target: Target) -> str:
        """Return the proxy for a target: none for the sandbox, which is this very server."""
        return "" if target.is_sandbox else self.policy.proxy

    def _dial(self, host: str, port: int, *, is_exempt: bool, bounds: _Bounds) -> _PlainSocket:
        try:
            found = self._lookups.addresses(host, port, bounds.connect_by - time.monotonic())
        except TimeoutError:
            raise NotReached("the name was not resolved in time") from None
        except Exception:  # OSError from the system, UnicodeError from a name that cannot be one
            raise NotReached("the name could not be resolved") from None
        sock = _connect_one_of(found if is_exempt else public_ones(found), port, bounds.connect_by)
        sock.deadline, sock.allowance = bounds.deadline, bounds.allowance
        return sock

    def _travel(self, trip: _Trip, prepared: PreparedRequest, target: Target) -> HttpAnswer:
        proxy = self._proxy(target)
        proxies = {"http": proxy, "https": proxy} if proxy else {}
        adapter = _TripAdapter(trip, self._tls)
        try:
            # Straight to the adapter: a session would look for proxies, cookies, .netrc and redirects.
            with adapter.send(prepared, stream=True, proxies=proxies) as answer:
                body, is_whole = _read_body(answer.raw)
                return HttpAnswer(answer.status_code, answer.headers, body, is_whole)
        except (OutboundError, _Arrived):
            raise
        except Exception as error:  # whatever a library raises, all that matters is what may have been sent
            if trip.is_connected:
                raise Unclear("the answer was lost or did not come in time") from error
            raise NotReached("no connection") from error
        finally:
            adapter.close()


def _prepare(method: str, url: str, headers: Mapping[str, str], body: bytes) -> PreparedRequest:
    for name, value in headers.items():
        check_header(name, value)
    ours = {"Accept-Encoding": "identity", "Connection": "close"}  # a packed answer could unfold to gigabytes
    try:
        return Request(method, url, headers={"User-Agent": "AuthPortal", **headers, **ours}, data=body).prepare()
    except ValueError:  # requests' own errors about URLs and headers are ValueErrors as well
        raise Blocked("The address cannot be used.") from None


def _read_body(raw: Any) -> tuple[bytes, bool]:
    """Read until the end, the deadline or the allowance; return the body and whether it was the end."""
    body = bytearray()
    try:
        while piece := raw.read1(ANSWER_BYTES, decode_content=False):
            body += piece
    except Exception:  # the status is known, and with it the request's fate: a lost tail changes nothing
        return bytes(body), False
    return bytes(body), True


# --- Sockets with bounds -------------------------------------------------------------------------------------


class _Bounds(NamedTuple):
    """Two values of time.monotonic(), and the bytes that may come back."""

    connect_by: float
    deadline: float
    allowance: int

    @classmethod
    def from_now(cls, connect_seconds: float, total_seconds: float, allowance: int) -> Self:
        now = time.monotonic()
        return cls(now + min(connect_seconds, total_seconds), now + total_seconds, allowance)


class _Bounded:
    """Bound a socket: no call on it outlasts ``deadline``, and it yields at most ``allowance`` bytes.

    The time-out of a socket starts again with every byte; so it is set before every call, to what is left.
    Deadlines are values of time.monotonic(): they bound waiting, and say nothing about the product's time.
    """

    deadline = 0.0
    allowance = 0

    def _set_time_left(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for this connection is over")
        self.settimeout(left)  # type: ignore[attr-defined]

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        size = min(nbytes or len(buffer), self.allowance)
        if size == 0:
            raise OSError("the other side sent more than is taken")
        self._set_time_left()
        taken: int = super().recv_into(buffer, size, flags)  # type: ignore[misc]
        self.allowance -= taken
        return taken

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        buffer = bytearray(buflen)
        return bytes(buffer[: self.recv_into(buffer, buflen, flags)])

    def send(self, data: Any, flags: int = 0) -> int:
        self._set_time_left()
        sent: int = super().send(data, flags)  # type: ignore[misc]
        return sent

    def sendall(self, data: Any, flags: int = 0) -> None:
        self._set_time_left()
        super().sendall(data, flags)  # type: ignore[misc]


class _PlainSocket(_Bounded, socket.socket):
    pass


class _TlsSocket(_Bounded, ssl.SSLSocket):
    pass


class _TlsContext(ssl.SSLContext):
    """Verify certificates, and hand the socket's deadline and allowance on to its encrypted self."""

    sslsocket_class = _TlsSocket

    @classmethod
    def trusting(cls, ca_bundle: Path | None) -> Self:
        """Return a context with these authorities, or the built-in ones. Raise Misconfigured."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(ca_bundle or DEFAULT_CA_BUNDLE_PATH)
        except (OSError, ssl.SSLError):
            raise Misconfigured(f"PORTAL_CA_BUNDLE: {ca_bundle} contains no certificates in PEM form.") from None
        return context

    def wrap_socket(self, sock: socket.socket, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        if not isinstance(sock, _PlainSocket):
            raise TypeError("only sockets of this module have a deadline")
        with _nothing_sent_yet():
            sock._set_time_left()  # OpenSSL takes the socket's time-out as that of the whole handshake
            wrapped = super().wrap_socket(sock, *args, **kwargs)
        assert isinstance(wrapped, _TlsSocket)
        wrapped.deadline, wrapped.allowance = sock.deadline, sock.allowance
        return wrapped


@contextmanager
def _nothing_sent_yet() -> Iterator[None]:
    """Turn every failure before a connection is complete into NotReached, without any address in its reason."""
    try:
        yield
    except OutboundError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise Untrusted(f"the certificate could not be verified: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise NotReached(f"no TLS connection: {(error.reason or 'handshake failed').lower()}") from None
    except TimeoutError:
        raise NotReached("no connection in time") from None
    except (OSError, HTTPException, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        is_plain = re.fullmatch(r"[\w ():,'-]+", text)
        raise NotReached(f"no connection: {text[:100] if is_plain else type(error).__name__}") from None


class _Lookups:
    """Name look-ups with a time limit, which the system's own do not have.

    Each runs in a thread that is left behind if it takes too long. One name has at most one look-up under
    way, so that a dead name server holds no more threads than there are names in the configuration.
    """

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._lock = threading.Lock()
        self._under_way: dict[tuple[int, str, int], Future[list[str]]] = {}

    def addresses(self, host: str, port: int, seconds: float) -> list[str]:
        key = (os.getpid(), host, port)  # a look-up begun before a fork never ends in the child
        with self._lock:
            future = self._under_way.get(key)
            if future is None:
                future = Future()
                threading.Thread(target=self._look_up, args=(key, future), name="lookup", daemon=True).start()
                self._under_way[key] = future
        return future.result(seconds)

    def _look_up(self, key: tuple[int, str, int], future: Future[list[str]]) -> None:
        try:
            future.set_result(self._resolve(key[1], key[2]))
        except Exception as error:  # whatever it is, it belongs to the threads that wait
            future.set_exception(error)
        finally:
            with self._lock:
                del self._under_way[key]


def _connect_one_of(addresses: list[str], port: int, connect_by: float) -> _PlainSocket:
    """Try the addresses in turn, each with its fair part of the time left; return the first connection.

    First of each family, then the rest: a network without working IPv6 still gets through.
    """
    leaders = {":" in address: address for address in reversed(addresses)}.values()
    ordered = sorted(addresses, key=lambda address: address not in leaders)[:CONNECT_ATTEMPTS]
    failure = NotReached("the name has no address")
    for tried, address in enumerate(ordered):
        seconds = (connect_by - time.monotonic()) / (len(ordered) - tried)
        if seconds <= 0:
            break
        try:
            with _nothing_sent_yet():
                return _open_socket(address, port, seconds)
        except NotReached as refused:
            failure = refused
    raise failure


def _open_socket(address: str, port: int, seconds: float) -> _PlainSocket:
    sock = _PlainSocket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(seconds)
        sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


# --- One request through requests and urllib3 ----------------------------------------------------------------

_Dial = Callable[[str, int], _PlainSocket]


class _Arrived(Exception):
    """The connection stands, and nothing else was asked for."""


@dataclass
class _Trip:
    """One request under way: how its socket is opened, and whether anything can have been sent on it."""

    dial: _Dial
    only_connect: bool = False
    is_connected: bool = field(default=False, init=False)

    def arrive(self) -> None:
        if self.only_connect:
            raise _Arrived
        self.is_connected = True


class _GuardedConnection:
    """A urllib3 connection whose socket is opened by us."""

    def __init__(self, *args: Any, trip: _Trip, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._trip = trip

    def _new_conn(self) -> socket.socket:
        return self._trip.dial(self._dns_host, self.port)  # type: ignore[attr-defined]

    def connect(self) -> None:
        with _nothing_sent_yet():
            super().connect()  # type: ignore[misc]  # TCP, the proxy's CONNECT and TLS
        self._trip.arrive()


class _HttpConnection(_GuardedConnection, urllib3.connection.HTTPConnection):
    pass


class _HttpsConnection(_GuardedConnection, urllib3.connection.HTTPSConnection):
    pass


class _TripAdapter(HTTPAdapter):
    """requests' adapter for a single trip: our connections, our TLS, no retries."""

    def __init__(self, trip: _Trip, context: ssl.SSLContext) -> None:
        self._trip = trip
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)  # type: ignore[no-untyped-call,unused-ignore]

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(  # type: ignore[no-untyped-call,unused-ignore]
            proxy, ssl_context=self._context, proxy_ssl_context=self._context, **kwargs
        )

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the context has the authorities; requests would load them again for every connection."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        kind = _HttpsConnection if pool.scheme == "https" else _HttpConnection
        pool.ConnectionCls = partial(kind, trip=self._trip)
        return pool
