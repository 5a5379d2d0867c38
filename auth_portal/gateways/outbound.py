"""The only exit: every HTTP request and every SMTP connection leaves through here, on sockets with bounds.

What it guarantees (D2, D4): a name is looked up once, its addresses are checked, and exactly those are connected;
nothing lasts beyond its deadline, however slowly the bytes arrive (name look-up, handshake, headers, body); no more
than 64 KiB of an answer is read; redirects are not followed; certificates are verified; no proxy but the configured
one.

What it refuses: addresses that the policy does not allow (``addresses``), headers that HTTP cannot carry, and sending
anything twice.

A request that asks for it leaves its connection open for the next one to the same origin, for a second and in this
process only. A new connection costs four times the CPU and the round trips of a handshake; but one that has died
unnoticed makes a request look like a lost reply, and servers close what rests for longer. So every doubt closes it: an
answer of unclear length, bytes after its end, any sign that the server closes. All others have their own connection.

The first request on a connection goes through requests and urllib3, which know proxies and tunnels. Those that follow
on it leave without them, as the same bytes, and the answer that is usual is read at once; any other one is left to
http.client and urllib3.
"""

from __future__ import annotations

import io
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple, Self

import urllib3.connection
from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPHeaderDict

from auth_portal.errors import Misconfigured
from auth_portal.gateways.addresses import NetworkPolicy, Target
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
REST_SECONDS = 1.0  # between two requests on one connection: gunicorn closes it after 2, uvicorn and Node.js after 5
LIFE_SECONDS = 10.0  # of a connection in all: how soon a changed DNS record or certificate counts
MOST_RESTING = 64  # connections of one process that wait for another request
KNOWN_URLS = 64  # one for each contract and server of Flow

Resolve = Callable[[str, int], list[str]]
"""Returns the addresses of a host; raises OSError if there are none."""


def system_resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host in the system's order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Outbound:
    """The guarded exit. What it holds open belongs to one process, so it may be shared and forked."""

    def __init__(self, policy: NetworkPolicy, *, resolve: Resolve = system_resolve) -> None:
        """Raise Misconfigured if the policy's CA bundle cannot be read."""
        self.policy = policy
        self._target = lru_cache(maxsize=KNOWN_URLS)(policy.target)
        self._tls = _TlsContext.trusting(policy.ca_bundle)
        self._lookups = _Lookups(resolve)
        self._resting = _RestingLines()

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
            self._target(url)
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
        keeps_alive: bool = False,
    ) -> HttpAnswer:
        """Send one request once and return the answer, whatever its status.

        It ends after ``total_seconds``, and not later than at ``deadline``, a value of time.monotonic(): a caller that
        may be suspended takes it before it decides to send. ``answer_bytes`` counts headers and body. A body that is
        cut by it, by the deadline or by the other side is returned as far as it arrived, with ``is_whole`` False.
        ``keeps_alive`` takes over the connection of such a request to the same origin, and leaves it to the next one.
        Raise NotReached, Blocked, Untrusted or Unclear, and nothing else.
        """
        left = total_seconds if deadline is None else min(total_seconds, deadline - time.monotonic())
        bounds = _Bounds.from_now(connect_seconds, left, answer_bytes)
        target = self._target(url) if keeps_alive else self.policy.target(url)
        request = _Request.checked(method, url, headers, body, keeps_alive=keeps_alive)
        origin = (*url.split("/", 3)[:3], target)
        line = self._resting.take(origin) if keeps_alive else None
        if line is None:
            line = self._new_line(origin, target)
        try:
            return line.carry(request, bounds)
        finally:
            if not (keeps_alive and line.may_rest and self._resting.put(line)):
                line.close()

    def reach(self, url: str) -> None:
        """Connect as request() would, TLS included, and send no request. Raise NotReached or its children."""
        bounds = _Bounds.from_now(CONNECT_SECONDS, TOTAL_SECONDS, ANSWER_BYTES)
        target = self.policy.target(url)
        line = self._new_line((), target)
        line.only_connects = True
        with closing(line), suppress(_Arrived):
            line.carry(_Request.checked("GET", url, {}, b"", keeps_alive=False), bounds)

    def connect(self, host: str, port: int, *, connect_seconds: float, deadline: float) -> socket.socket:
        """Return a connection to an SMTP server, which ends at ``deadline`` (a value of time.monotonic()).

        It yields 64 KiB at most, and ``self.tls`` can wrap it. Raise NotReached or Blocked.
        """
        self.policy.check_mail_host(host, port)
        bounds = _Bounds(min(time.monotonic() + connect_seconds, deadline), deadline, ANSWER_BYTES)
        return self._dial(host, port, is_exempt=self.policy.exempts(host, port), bounds=bounds)

    def _new_line(self, origin: _Origin, target: Target) -> _Line:
        proxy = "" if target.is_sandbox else self.policy.proxy  # the sandbox is this very server
        # The proxy is the operator's own choice, so its address needs no guard.
        dial = partial(self._dial, is_exempt=target.is_exempt or bool(proxy))
        return _Line(origin, dial, self._tls, proxy)

    def _dial(self, host: str, port: int, *, is_exempt: bool, bounds: _Bounds) -> _PlainSocket:
        try:
            found = self._lookups.addresses(host, port, bounds.connect_by - time.monotonic())
        except TimeoutError:
            raise NotReached("the name was not resolved in time") from None
        except Exception:  # OSError from the system, UnicodeError from a name that cannot be one
            raise NotReached("the name could not be resolved") from None
        sock = _connect_one_of(found if is_exempt else self.policy.allowed_ones(found), port, bounds.connect_by)
        sock.bounds = bounds
        return sock


def to_one(host: str, port: int, ca_bundle: Path | None, certificate: Path | None = None) -> Outbound:
    """Return an exit to a server that the operator chose, private or not, over TLS, to use with ``connect``.

    ``certificate`` is a PEM file with our own and its key. Raise Misconfigured if a file cannot be used.
    """
    found = Outbound(NetworkPolicy(private_targets=frozenset({(host.lower(), port)}), ca_bundle=ca_bundle))
    if certificate is not None:
        try:
            found.tls.load_cert_chain(certificate)
        except (OSError, ssl.SSLError):
            words = f"{certificate} has no certificate with its key in PEM form"
            raise Misconfigured(f"PORTAL_AUDIT_SYSLOG_CERT: {words}.") from None
    return found


class _Request(NamedTuple):
    """A request that HTTP can carry, before any library makes it."""

    method: str
    url: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def checked(cls, method: str, url: str, headers: Mapping[str, str], body: bytes, *, keeps_alive: bool) -> Self:
        """Raise Blocked if HTTP cannot carry it."""
        for name, value in headers.items():
            check_header(name, value)
        ours = {"Accept-Encoding": "identity"}  # a packed answer could unfold to gigabytes
        if not keeps_alive:
            ours["Connection"] = "close"
        try:
            usual, path = (_usual_url if keeps_alive else _usual_url.__wrapped__)(url)
        except ValueError:  # requests' own errors about URLs are ValueErrors as well
            raise Blocked("The address cannot be used.") from None
        return cls(method, usual, path, {"User-Agent": "AuthPortal", **headers, **ours}, body)

    def prepared(self) -> PreparedRequest:
        """Return it as requests takes it. Raise Blocked."""
        prepared = PreparedRequest()
        try:
            prepared.prepare_method(self.method)
            prepared.url = self.url
            prepared.prepare_headers(self.headers)
            prepared.prepare_body(self.body, None)
        except ValueError:
            raise Blocked("A header cannot be used.") from None
        return prepared

    def written(self, host_line: bytes) -> bytes:
        """Return the bytes of a POST as http.client would write them."""
        named = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        head = f"{named}Content-Length: {len(self.body)}\r\n\r\n".encode("latin-1")
        return b"%b %b HTTP/1.1\r\n%b\r\n%b%b" % (self.method.encode(), self.path.encode(), host_line, head, self.body)


@lru_cache(maxsize=KNOWN_URLS)
def _usual_url(url: str) -> tuple[str, str]:
    """Return a URL as requests writes it, and what follows its host. Raise ValueError."""
    prepared = PreparedRequest()
    prepared.prepare_url(url, None)
    return str(prepared.url), prepared.path_url


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


@dataclass
class _Bounds:
    """Two values of time.monotonic(), the bytes that may still come back, and what became of one request."""

    connect_by: float
    deadline: float
    allowance: int
    has_sent: bool = False  # the system took a byte of the request
    has_surplus: bool = False  # bytes came after the end of the answer

    @classmethod
    def from_now(cls, connect_seconds: float, total_seconds: float, allowance: int) -> Self:
        now = time.monotonic()
        return cls(now + min(connect_seconds, total_seconds), now + total_seconds, allowance)


class _Bounded:
    """Bound a socket: no call on it outlasts its deadline, and it yields at most the bytes that are allowed.

    The time-out of a socket starts again with every byte; so it is set before every call, to what is left.
    Deadlines are values of time.monotonic(): they bound waiting, and say nothing about the product's time.
    """

    bounds = _Bounds(0.0, 0.0, 0)
    ahead = b""  # bytes that were read and come again

    def _set_time_left(self) -> None:
        left = self.bounds.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for this connection is over")
        self.settimeout(left)  # type: ignore[attr-defined]

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        if self.ahead:
            piece, self.ahead = self.ahead[: nbytes or len(buffer)], self.ahead[nbytes or len(buffer) :]
            memoryview(buffer)[: len(piece)] = piece
            return len(piece)
        size = min(nbytes or len(buffer), self.bounds.allowance)
        if size == 0:
            raise OSError("the other side sent more than is taken")
        self._set_time_left()
        taken: int = super().recv_into(buffer, size, flags)  # type: ignore[misc]
        self.bounds.allowance -= taken
        return taken

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        buffer = bytearray(buflen)
        return bytes(buffer[: self.recv_into(buffer, buflen, flags)])

    def send(self, data: Any, flags: int = 0) -> int:
        self._set_time_left()
        sent: int = super().send(data, flags)  # type: ignore[misc]
        self.bounds.has_sent = True
        return sent

    def sendall(self, data: Any, flags: int = 0) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.send(rest, flags) :]

    def makefile(self, mode: str = "r", buffering: int | None = None, **options: Any) -> Any:
        if mode != "rb":
            return super().makefile(mode, buffering, **options)  # type: ignore[misc]
        return _Reader(super().makefile(mode, 0), self.bounds)  # type: ignore[misc]


class _Reader(io.BufferedReader):
    """Notice at the end of an answer if more was read from the socket, which would be lost without a trace."""

    def __init__(self, raw: io.RawIOBase, bounds: _Bounds) -> None:
        super().__init__(raw)
        self._bounds = bounds

    def close(self) -> None:
        if not self.closed:
            allowance, self._bounds.allowance = self._bounds.allowance, 0  # peek() shall not read the socket
            with suppress(OSError, ValueError):
                self._bounds.has_surplus |= bool(self.peek())
            self._bounds.allowance = allowance
        super().close()


class _PlainSocket(_Bounded, socket.socket):
    def pending(self) -> int:
        """Return 0, where a _TlsSocket returns how many bytes are decrypted and not read."""
        return 0


class _TlsSocket(_Bounded, ssl.SSLSocket):
    pass


class _TlsContext(ssl.SSLContext):
    """Verify certificates, and hand the socket's bounds on to its encrypted self."""

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
        wrapped.bounds = sock.bounds
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
        with suppress(ValueError):
            return [str(ipaddress.ip_address(host))]  # nothing to look up, so no thread either
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
    failure = NotReached("no connection in time" if ordered else "the name has no address")
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


# --- Requests through requests and urllib3 -------------------------------------------------------------------

_HTTP_1_1 = 11  # as http.client writes it
_PIECE_BYTES = 8192  # more than an answer of Flow has
# The head of an answer that needs no library: nothing interim, nothing without a body, one field in each line.
_USUAL_HEAD = re.compile(
    rb"HTTP/1\.1 (?!204|304)([2-4][0-9]{2})(?: [\x20-\x7e]*)?\r\n((?:[\w-]{1,64}:[\x20-\x7e\t]*\r\n){1,50})\r\n"
)
_STATUSES_OF_REUSE = range(200, 500)  # none that is interim, or that switches protocols, or of a server in trouble
_Origin = tuple[object, ...]
_Dial = Callable[..., _PlainSocket]


class _Arrived(Exception):
    """The connection stands, and nothing else was asked for."""


class _GuardedConnection:
    """A urllib3 connection whose socket is opened by us."""

    def __init__(self, *args: Any, line: _Line, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = line
        self._held: list[bytes] | None = None  # pieces of a request that leaves as one

    def _new_conn(self) -> socket.socket:
        return self._line.dial(self._dns_host, self.port, bounds=self._line.bounds)  # type: ignore[attr-defined]

    def connect(self) -> None:
        with _nothing_sent_yet():
            super().connect()  # type: ignore[misc]  # TCP, the proxy's CONNECT and TLS
        self._line.arrive(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._held = []
        super().request(*args, **kwargs)  # type: ignore[misc]
        self._line.host_line = self._held[0].split(b"\r\n", 2)[1]
        whole, self._held = b"".join(self._held), None
        self.send(whole)

    def send(self, data: Any) -> None:
        if self._held is None:
            super().send(data)  # type: ignore[misc]
        else:
            self._held.append(data)


class _HttpConnection(_GuardedConnection, urllib3.connection.HTTPConnection):
    pass


class _HttpsConnection(_GuardedConnection, urllib3.connection.HTTPSConnection):
    pass


class _Line(HTTPAdapter):
    """requests' adapter for one connection to one origin: opened by us, with our TLS, no retries.

    It carries one request at a time. ``may_rest`` says whether it can carry another one: whether the last answer has
    ended without any doubt.
    """

    def __init__(self, origin: _Origin, dial: _Dial, context: ssl.SSLContext, proxy: str) -> None:
        self.origin = origin
        self.dial = dial
        self.only_connects = False
        self.may_rest = False
        self.rests_from = self._stands_from = 0.0
        self.host_line = b""  # of its requests, as http.client wrote the first one
        self._context = context
        self._proxies = {"http": proxy, "https": proxy} if proxy else {}
        self._pool: Any = None
        self._connection: Any = None
        super().__init__(pool_connections=1, pool_maxsize=1)

    def carry(self, request: _Request, bounds: _Bounds) -> HttpAnswer:
        """Send one request. Connect first, unless a connection stands and the other side has sent nothing on it."""
        self.bounds, self.may_rest = bounds, False
        sock = self._connection.sock if self._connection is not None else None
        if sock is not None:
            sock.bounds = bounds
        try:
            if sock is not None and request.method == "POST" and not self._proxies and self._connection.is_connected:
                return self._carry_next(request.written(self.host_line), sock)
            # Not through a session: that would look for proxies, cookies, .netrc and redirects.
            return self._answered(self.send(request.prepared(), stream=True, proxies=self._proxies))
        except (OutboundError, _Arrived):
            raise
        except Exception as error:  # whatever a library raises, all that matters is what may have been sent
            if bounds.has_sent:
                raise Unclear("the answer was lost or did not come in time") from error
            raise NotReached("no connection") from error

    def _carry_next(self, request: bytes, sock: Any) -> HttpAnswer:
        """Send a POST on a connection that stands."""
        sock.sendall(request)
        piece = sock.recv(_PIECE_BYTES)
        if usual := _USUAL_HEAD.match(piece):
            status, headers, body = int(usual[1]), HTTPHeaderDict(), piece[usual.end() :]
            for line in usual[2].decode("ascii").split("\r\n")[:-1]:
                name, _, value = line.partition(":")
                headers.add(name, value.lstrip())
            if headers.get("Content-Length") == str(len(body)) and "Transfer-Encoding" not in headers:
                self.may_rest = self.goes_on_after(_HTTP_1_1, status, headers)
                return HttpAnswer(status, headers, body)
        sock.ahead = piece
        found = HTTPResponse(sock, method="POST")
        HTTPResponse.begin(found)
        return self._answered(
            urllib3.HTTPResponse(
                found,
                HTTPHeaderDict(found.headers.items()),
                found.status,
                found.version,
                preload_content=False,
                original_response=found,
                request_method="POST",
            )
        )

    def _answered(self, answer: Any) -> HttpAnswer:
        """Read urllib3's answer to its end."""
        with closing(answer):
            body, is_whole = _read_body(answer)
            self.may_rest = is_whole and self.goes_on_after(answer.version, answer.status, answer.headers)
            return HttpAnswer(answer.status, answer.headers, body, is_whole)

    def goes_on_after(self, version: int, status: int, headers: Mapping[str, str]) -> bool:
        """Return True if an answer said where it ends, nothing followed, and the server does not close.

        Equal headers are joined by commas.
        """
        sock, header = self._connection.sock, headers.get
        return (
            isinstance(sock, (_PlainSocket, _TlsSocket))
            and not (sock.pending() or self.bounds.has_surplus)
            and version == _HTTP_1_1
            and status in _STATUSES_OF_REUSE
            and re.fullmatch("[0-9]+,|,chunked", f"{header('Content-Length', '')},{header('Transfer-Encoding', '')}")
            is not None
            and header("Connection", "keep-alive").lower() == "keep-alive"
            and re.search(r"timeout=[01]\b", header("Keep-Alive", "")) is None
        )

    def arrive(self, connection: Any) -> None:
        if self.only_connects:
            raise _Arrived
        self._connection, self._stands_from = connection, time.monotonic()
        self.bounds.has_sent = False  # a proxy was sent its CONNECT

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._pool = self._connection = None  # which refer to this line in turn
        super().close()

    def is_fresh(self, now: float) -> bool:
        return now - self.rests_from < REST_SECONDS and now - self._stands_from < LIFE_SECONDS

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)  # type: ignore[no-untyped-call,unused-ignore]

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(  # type: ignore[no-untyped-call,unused-ignore]
            proxy, ssl_context=self._context, proxy_ssl_context=self._context, **kwargs
        )

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the context has the authorities; requests would load them again for every connection."""

    def request_url(self, request: PreparedRequest, proxies: Any) -> str:
        return super().request_url(request, proxies) if self._proxies else request.path_url

    def build_response(self, req: PreparedRequest, resp: Any) -> Any:
        """Return urllib3's answer: nothing here reads what requests would add, such as cookies."""
        return resp

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
            kind = _HttpsConnection if self._pool.scheme == "https" else _HttpConnection
            self._pool.ConnectionCls = partial(kind, line=self)
        return self._pool


class _RestingLines:
    """Open connections that wait for another request to their origin: for a second, and in one process."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._lines: list[_Line] = []
        self._is_watched = False

    def take(self, origin: _Origin) -> _Line | None:
        """Return the line that has rested least, which is the caller's alone then."""
        if self._process != os.getpid():  # what a fork copied is the parent's: its sockets, its lock, its thread
            for line in self._lines:
                line.close()
            self._begin()
        now = time.monotonic()
        with self._lock:
            for line in reversed(self._lines):
                if line.origin == origin and line.is_fresh(now):
                    self._lines.remove(line)
                    return line
        return None

    def put(self, line: _Line) -> bool:
        """Let a line rest. Return False if it cannot."""
        line.rests_from = time.monotonic()
        with self._lock:
            if not self._is_watched:
                try:
                    threading.Thread(target=self.close_rested, name="resting", daemon=True).start()
                except RuntimeError:  # no more threads
                    return False
                self._is_watched = True
            self._lines.append(line)
            surplus = self._lines.pop(0) if len(self._lines) > MOST_RESTING else None
        if surplus is not None:
            surplus.close()
        return True

    def close_rested(self) -> None:
        """Close what has rested long enough, until nothing rests."""
        goes_on = True
        while goes_on:
            threading.Event().wait(REST_SECONDS / 4)
            now = time.monotonic()
            with self._lock:
                over = [line for line in self._lines if not line.is_fresh(now)]
                self._lines = [line for line in self._lines if line.is_fresh(now)]
                goes_on = self._is_watched = bool(self._lines)
            for line in over:
                line.close()
