"""The one way out of the house. Every HTTP request and every SMTP connection leaves through here.

What it promises (D2, D4): a name is looked up once, its addresses are checked, and exactly those are connected;
nothing lasts beyond its deadline, whatever drips (name look-up, handshake, headers, body); no more than 64 KiB
of an answer is taken; redirects are not followed; certificates are verified; no proxy but the configured one.

What it refuses: addresses that are not public, http where nobody allowed it, headers that HTTP cannot carry,
and sending anything twice. Each request has a connection of its own, so that a connection that died while it
was kept can never look like a lost reply. Measured, that costs 1 ms of CPU and the round trips of a handshake.

Whoever calls gets an answer or one of four errors, which say the one thing that matters for trying again:
whether the other side can have received anything.

    NotReached    certainly not: no such name, no connection, no TLS, refused by the proxy
      Blocked     and never will, because this module does not let it out
      Untrusted   and the certificate is why
    Unclear       it may have
"""

from __future__ import annotations

import ipaddress
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
from urllib.parse import urlsplit

import urllib3.connection
from requests import PreparedRequest, Request
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from auth_portal.errors import Misconfigured
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
)
from auth_portal.settings import Settings

CONNECT_ATTEMPTS = 3  # addresses tried within CONNECT_SECONDS, so that each has a second
SMTP_PORTS = frozenset({25, 465, 587, 2525})  # D4
_PORTS = range(1, 65536)
HEADER_LENGTH = 8190  # characters; what nginx and Apache take in one header line

Resolve = Callable[[str, int], list[str]]
"""Gives the addresses of a host; raises OSError where there are none."""


# --- What may be reached -------------------------------------------------------------------------------------

_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")  # all that is given out as global unicast
# ipaddress.is_global of Python 3.11 lets some of these pass, and later patch levels differ: so all are named.
_CLOSED = [
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carriers' own NAT, and the metadata service of Alibaba Cloud
        "168.63.129.16/32",  # Azure's host agent, at a public address
        "169.254.0.0/16",  # link-local, and most clouds' metadata service
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "64:ff9b::/96",  # NAT64: any IPv4 address, private ones too
        "64:ff9b:1::/48",
        "2001::/23",  # Teredo, ORCHID and other protocols of the IETF
        "2001:db8::/32",
        "2002::/16",  # 6to4: any IPv4 address again
        "3fff::/20",
        "fec0::/10",
    )
]


def is_public(address: str) -> bool:
    """Whether a literal address is public unicast. IPv4 inside IPv6 counts as the IPv4 address."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found not in _GLOBAL_IPV6:
            return False
    return found.is_global and not found.is_multicast and not any(found in network for network in _CLOSED)


def _literal_address(host: str) -> str | None:
    """The address that a host spells out, in the old ways as well (``127.1``, ``0x7f000001``), or None."""
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


@dataclass(frozen=True)
class NetworkPolicy:
    """What the operator allows beyond public https addresses, and which way out there is.

    ``allow_private`` opens everything. ``private_targets`` are (host, port). ``sandbox_origin`` is a URL prefix
    such as ``http://127.0.0.1:8000/sandbox``, empty for none. ``proxy`` is an http(s) URL, empty for none; it
    carries http and https, never SMTP. ``ca_bundle`` is a PEM file used in place of the built-in authorities.
    """

    allow_private: bool = False
    private_targets: frozenset[tuple[str, int]] = frozenset()
    sandbox_origin: str = ""
    proxy: str = ""
    ca_bundle: Path | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The policy that the operator's settings express. Raises Misconfigured where the proxy is no URL."""
        proxy = settings.outbound_proxy
        if proxy and (urlsplit(proxy).scheme not in ("http", "https") or not urlsplit(proxy).hostname):
            raise Misconfigured("PORTAL_OUTBOUND_PROXY must be a URL such as http://proxy.example:3128.")
        return cls(
            allow_private=settings.allow_private_callbacks,
            private_targets=settings.private_targets,
            sandbox_origin=settings.sandbox_url,
            proxy=proxy,
            ca_bundle=settings.ca_bundle,
        )

    def exempts(self, host: str, port: int) -> bool:
        """Whether this host and port may be private and unencrypted."""
        return self.allow_private or (_plain_name(host), port) in self.private_targets


def _plain_name(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


class _Target(NamedTuple):
    """Where a URL leads, read by one strict rule so that no two parsers can disagree about it."""

    host: str
    port: int
    is_exempt: bool
    is_sandbox: bool


_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?:[/?][\x21\x22\x24-\x5b\x5d-\x7e]*)?",  # printable ASCII without # and backslash
    re.IGNORECASE,
)


def _read_target(url: str, policy: NetworkPolicy) -> _Target:
    """Reads a URL and judges all that can be judged without a look-up. Raises Blocked with a sentence."""
    match = _URL.fullmatch(url)
    if match is None:
        raise Blocked("The address must be a URL such as https://flow.example, in ASCII, without user, # or spaces.")
    scheme, host = match["scheme"].lower(), _plain_name(match["host"])
    port = int(match["port"] or (443 if scheme == "https" else 80))
    if not host or port not in _PORTS:
        raise Blocked("The address names no host, or a port that does not exist.")
    is_sandbox = _is_below(url, policy.sandbox_origin)
    is_exempt = is_sandbox or policy.exempts(host, port)
    if scheme == "http" and not is_exempt:
        raise Blocked("The address must begin with https://. Only the operator can allow http.")
    if not is_exempt:
        _check_literal(host)
    return _Target(host, port, is_exempt, is_sandbox)


def _is_below(url: str, prefix: str) -> bool:
    climbs = "/.." in url or "%2e" in url.lower()
    return bool(prefix) and not climbs and (url == prefix or url.startswith(prefix.rstrip("/") + "/"))


def _check_literal(host: str) -> None:
    address = _literal_address(host)
    if address is not None and not is_public(address):
        raise Blocked("The address is not a public one. Only the operator can allow private addresses.")


# --- Sockets with an end -------------------------------------------------------------------------------------


class _Bounded:
    """Makes a socket end: no call on it outlasts ``deadline``, and it yields at most ``allowance`` bytes.

    A time-out set on a socket starts anew with every byte; so it is set before every call, to what is left.
    Deadlines are moments of time.monotonic(): they bound waiting, and say nothing about the product's time.
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


@contextmanager
def _nothing_sent_yet() -> Iterator[None]:
    """Turns every failure on the way to a connection into NotReached."""
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
        raise NotReached(f"no connection: {_short(error)}") from None


def _short(error: BaseException) -> str:
    """What the system or the proxy said, without any address in it."""
    text = getattr(error, "strerror", None) or str(error)
    return text[:100] if re.fullmatch(r"[\w ():,'-]+", text) else type(error).__name__


class _TlsContext(ssl.SSLContext):
    """Verifies certificates, and hands the socket's deadline and allowance on to its encrypted self."""

    sslsocket_class = _TlsSocket

    def wrap_socket(self, sock: socket.socket, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        if not isinstance(sock, _PlainSocket):
            raise TypeError("only sockets of this module have a deadline")
        with _nothing_sent_yet():
            sock._set_time_left()  # OpenSSL takes the socket's time-out as that of the whole handshake
            wrapped = super().wrap_socket(sock, *args, **kwargs)
        assert isinstance(wrapped, _TlsSocket)
        wrapped.deadline, wrapped.allowance = sock.deadline, sock.allowance
        return wrapped


def _tls_context(ca_bundle: Path | None) -> _TlsContext:
    context = _TlsContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(ca_bundle or DEFAULT_CA_BUNDLE_PATH)
    except (OSError, ssl.SSLError):
        raise Misconfigured(f"PORTAL_CA_BUNDLE: {ca_bundle} holds no certificates in PEM form.") from None
    return context


# --- Names and connections -----------------------------------------------------------------------------------


def system_resolve(host: str, port: int) -> list[str]:
    """The addresses of a host in the system's order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Lookups:
    """Name look-ups with a time limit, which the system's own do not have.

    Each runs in a thread that is left behind when it takes too long. One name has at most one look-up under
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


def _in_order_of_trial(addresses: list[str]) -> list[str]:
    """The first address of each family, then the rest: a network without working IPv6 still gets through."""
    leaders = {":" in address: address for address in reversed(addresses)}.values()
    return sorted(addresses, key=lambda address: address not in leaders)[:CONNECT_ATTEMPTS]


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


# --- One request ---------------------------------------------------------------------------------------------


class _Limits(NamedTuple):
    """Two moments of time.monotonic(), and the bytes that may come back."""

    connect_by: float
    deadline: float
    allowance: int

    @classmethod
    def from_now(cls, connect_seconds: float, total_seconds: float, allowance: int) -> Self:
        now = time.monotonic()
        return cls(now + min(connect_seconds, total_seconds), now + total_seconds, allowance)


_Dial = Callable[[str, int], _PlainSocket]


class _Arrived(Exception):
    """The connection stands, and no more was wanted."""


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
        """The context already holds the authorities; requests would load them again for every connection."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        kind = _HttpsConnection if pool.scheme == "https" else _HttpConnection
        pool.ConnectionCls = partial(kind, trip=self._trip)
        return pool


_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"(?:[\x21-\x7e\xa0-\xff](?:[\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa0-\xff])?)?")


def check_header(name: str, value: str) -> None:
    """Raises Blocked for a header that HTTP cannot carry unchanged. Neither name nor value is repeated in it."""
    if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value) or len(value) > HEADER_LENGTH:
        raise Blocked("A header holds characters that HTTP does not carry, or is too long.")


def _prepare(method: str, url: str, headers: Mapping[str, str], body: bytes) -> PreparedRequest:
    for name, value in headers.items():
        check_header(name, value)
    ours = {"Accept-Encoding": "identity", "Connection": "close"}  # a packed answer could unfold to gigabytes
    try:
        return Request(method, url, headers={"User-Agent": "AuthPortal", **headers, **ours}, data=body).prepare()
    except ValueError:  # requests' own errors about URLs and headers are ValueErrors as well
        raise Blocked("The address cannot be used.") from None


def _read_body(raw: Any) -> tuple[bytes, bool]:
    """Takes what comes until the end, the deadline or the allowance; says whether it was the end."""
    body = bytearray()
    try:
        while piece := raw.read1(ANSWER_BYTES, decode_content=False):
            body += piece
    except Exception:  # the status is known, and with it the request's fate: a lost tail changes nothing
        return bytes(body), False
    return bytes(body), True


class Outbound:
    """The guarded way out. Holds no connection and no thread of its own, so it may be shared and forked."""

    def __init__(self, policy: NetworkPolicy, *, resolve: Resolve = system_resolve) -> None:
        """Raises Misconfigured where the policy's CA bundle cannot be read."""
        self.policy = policy
        self._tls = _tls_context(policy.ca_bundle)
        self._lookups = _Lookups(resolve)

    @property
    def tls(self) -> ssl.SSLContext:
        """For STARTTLS and SMTP over TLS on sockets from connect()."""
        return self._tls

    def is_private(self, host: str, port: int) -> bool:
        """Whether the operator declared this server private: then a login may be sent to it in the open."""
        return self.policy.exempts(host, port)

    def check_origin(self, url: str) -> None:
        """Raises Misconfigured with a sentence for the admin where a URL could never be called. No network."""
        try:
            _read_target(url, self.policy)
        except Blocked as refusal:
            raise Misconfigured(refusal.reason) from None

    def check_mail_host(self, host: str, port: int) -> None:
        """The same for an SMTP server."""
        try:
            self._check_mail_host(host, port)
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
    ) -> HttpAnswer:
        """Sends one request once and gives the answer, whatever its status.

        ``answer_bytes`` counts headers and body. A body that is cut by it, by the deadline or by the other side
        is given as far as it came, with ``is_whole`` False. Raises NotReached, Blocked, Untrusted or Unclear,
        and nothing else.
        """
        limits = _Limits.from_now(connect_seconds, total_seconds, answer_bytes)
        target = _read_target(url, self.policy)
        prepared = _prepare(method, url, headers, body)
        return self._travel(_Trip(self._dialler(target, limits)), prepared, target)

    def reach(self, url: str) -> None:
        """Connects as request() would, TLS included, and sends no request. Raises NotReached or its children."""
        limits = _Limits.from_now(CONNECT_SECONDS, TOTAL_SECONDS, ANSWER_BYTES)
        target = _read_target(url, self.policy)
        trip = _Trip(self._dialler(target, limits), only_connect=True)
        with suppress(_Arrived):
            self._travel(trip, _prepare("GET", url, {}, b""), target)

    def connect(self, host: str, port: int, *, connect_seconds: float, deadline: float) -> socket.socket:
        """A connection to an SMTP server, which ends at ``deadline`` (a moment of time.monotonic()).

        It yields 64 KiB at most, and ``self.tls`` can wrap it. Raises NotReached or Blocked.
        """
        self._check_mail_host(host, port)
        limits = _Limits(min(time.monotonic() + connect_seconds, deadline), deadline, ANSWER_BYTES)
        return self._dial(host, port, is_exempt=self.policy.exempts(host, port), limits=limits)

    def _check_mail_host(self, host: str, port: int) -> None:
        if self.policy.exempts(host, port):
            return
        if port not in SMTP_PORTS:
            raise Blocked("The port must be 25, 465, 587 or 2525. Only the operator can allow another one.")
        _check_literal(_plain_name(host))

    def _dialler(self, target: _Target, limits: _Limits) -> _Dial:
        # The proxy is the operator's own choice, so its address needs no guard.
        return partial(self._dial, is_exempt=target.is_exempt or bool(self._proxy(target)), limits=limits)

    def _proxy(self, target: _Target) -> str:
        """The sandbox is this very server, which a proxy outside may not find."""
        return "" if target.is_sandbox else self.policy.proxy

    def _travel(self, trip: _Trip, prepared: PreparedRequest, target: _Target) -> HttpAnswer:
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

    def _dial(self, host: str, port: int, *, is_exempt: bool, limits: _Limits) -> _PlainSocket:
        addresses = self._allowed_addresses(host, port, is_exempt, limits.connect_by)
        sock = _connect_one_of(_in_order_of_trial(addresses), port, limits.connect_by)
        sock.deadline, sock.allowance = limits.deadline, limits.allowance
        return sock

    def _allowed_addresses(self, host: str, port: int, is_exempt: bool, connect_by: float) -> list[str]:
        try:
            found = self._lookups.addresses(host, port, connect_by - time.monotonic())
        except TimeoutError:
            raise NotReached("the name was not resolved in time") from None
        except Exception:  # OSError from the system, UnicodeError from a name that cannot be one
            raise NotReached("the name could not be resolved") from None
        allowed = found if is_exempt else [address for address in found if is_public(address)]
        if found and not allowed:
            raise Blocked("The address is not a public one. Only the operator can allow private addresses.")
        return allowed


def _connect_one_of(addresses: list[str], port: int, connect_by: float) -> _PlainSocket:
    """Tries the addresses in turn, each with its fair part of the time left."""
    failure = NotReached("the name has no address")
    for tried, address in enumerate(addresses):
        seconds = (connect_by - time.monotonic()) / (len(addresses) - tried)
        if seconds <= 0:
            break
        try:
            with _nothing_sent_yet():
                return _open_socket(address, port, seconds)
        except NotReached as refused:
            failure = refused
    raise failure
