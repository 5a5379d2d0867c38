"""The worker of gunicorn that serves the portal: no slow client holds a thread (R50).

One thread, the loop, owns every connection: it receives heads and bodies, and sends on what a client takes slowly. A
pool of threads runs the app, each thread for no longer than the app itself takes. A request runs as soon as its head is
complete. If the app then reads a body that has not arrived, the run ends there: so far it has only looked who sends it.
The loop collects the body and the request runs again. What the app refuses unread is never collected.

``/healthz`` is answered by the loop, whatever the threads do, and ``/readyz`` has a thread of its own (D10).

``PortalServer`` is all of gunicorn as ``auth-portal serve`` starts it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import re
import selectors
import socket
import ssl
import stat
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NoReturn

from flask import has_request_context, request
from gunicorn import systemd
from gunicorn.app.base import BaseApplication
from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import create
from gunicorn.sock import ssl_wrap_socket
from gunicorn.workers import SUPPORTED_WORKERS
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import PollableMethodQueue

# Nothing of the portal is imported here: without --preload a reload would go on with this old copy of it.
logger = logging.getLogger("auth_portal")
READ_BYTES = 256 * 1024  # at once
LARGEST_HEAD = 64 * 1024  # bytes; gunicorn's own limits are for each line
LARGEST_ANSWER = 1024 * 1024  # bytes held for a slow client; a longer one is streamed by its thread
SMALL_BODY = 64 * 1024  # bytes, as much as any form may have
CHUNK_OVERHEAD = 16 * 1024  # bytes of sizes and trailers, beyond one for each byte of the body
GRACE_SECONDS = 0.1  # a small body that follows its head at once is waited for, so that the request runs once
SILENCE_SECONDS = 10  # without a byte in either direction
TOTAL_SECONDS = 60  # of a head, a body or an answer …
LOWEST_RATE = 64 * 1024  # … unless it is longer than these bytes a second allow
LINGER_SECONDS = 2  # what a refused client still sends is dropped for so long, so that it can read the answer
BOOT_ERROR = 3  # of gunicorn's master
REST_SECONDS = 5.0  # before a worker that cannot start leaves: the master makes another one at once
LOOK_SECONDS = 1.0  # how often deadlines are looked at
LEFT_SECONDS = 5.0  # for which a start waits for the workers of a killed master, which still listen for about a second
SOCKET_MODE = 0o660  # of a unix socket: nginx gets in by its group
HEALTH = (b"GET /healthz ", b"HEAD /healthz ")
READY = (b"GET /readyz ", b"HEAD /readyz ")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[^\r\n]*)?")
_NOT_YET = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class BodyWanted(BaseException):
    """The app has read from a body that has not arrived. Not an Exception, which a view might handle."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.most_bytes = most_bytes


class MissingBody(io.RawIOBase):
    """Stands for a body that has not arrived."""

    def readable(self) -> bool:
        """Return True: it can be asked for."""
        return True

    def readinto(self, _buffer: Any) -> NoReturn:
        """Raise BodyWanted. Every other method of a stream reads by this one, or by ``read`` and ``readline``."""
        limit = request.max_content_length if has_request_context() else None
        raise BodyWanted(limit or SMALL_BODY)

    def read(self, _size: int | None = -1) -> NoReturn:
        """Raise BodyWanted."""
        self.readinto(None)

    def readline(self, _size: int | None = -1) -> NoReturn:
        """Raise BodyWanted."""
        self.readinto(None)


class ChunkedBody:
    """Decodes a body in chunks (RFC 9112, 7.1) as it arrives. Extensions and trailers are dropped."""

    def __init__(self) -> None:
        self.decoded = bytearray()
        self.is_complete = False
        self._overhead = 0  # bytes that are not the body's
        self._left = -1  # bytes of the current chunk; -1 before its size, 0 before the line break after it
        self._is_last = False

    def take(self, received: bytearray, most_bytes: int) -> None:
        """Remove what belongs to the body from ``received``, until it has more than ``most_bytes``.

        Raise ValueError if it is malformed, or so finely chopped that reading it would keep all others waiting.
        """
        while not self.is_complete and len(self.decoded) <= most_bytes:
            if self._left > 0:
                part = received[: self._left]
                self.decoded += part
                del received[: len(part)]
                self._left -= len(part)
                if self._left:
                    return
            line = self._next_line(received)
            if line is None:
                return
            if self._is_last:
                self.is_complete = not line
            elif self._left == 0:
                if line:
                    raise ValueError("a chunk that is longer than its size")
                self._left = -1
            else:
                found = _SIZE_LINE.fullmatch(line)
                if found is None:
                    raise ValueError("not the size of a chunk")
                self._left = int(found[1], 16)
                self._is_last = not self._left
                self._left = self._left or -1

    def _next_line(self, received: bytearray) -> bytes | None:
        """Remove a line of the framing and return it, None if it has not arrived."""
        end = received.find(b"\r\n")
        if end < 0 or end > LARGEST_HEAD:
            if len(received) > LARGEST_HEAD:
                raise ValueError("a line without end")
            return None
        line = bytes(received[:end])
        del received[: end + 2]
        self._overhead += end + 2
        if self._overhead > CHUNK_OVERHEAD + len(self.decoded):
            raise ValueError("more sizes and trailers than body")
        return line


class Connection:
    """One client. Only the loop touches it, except while ``is_running``, when one thread of the pool does."""

    def __init__(self, connection: socket.socket, client: Any, server: Any) -> None:
        self.socket = connection
        self.client = client
        self.server = server
        self.received = bytearray()
        self.outgoing = bytearray()
        self.head = b""
        self.request: Any = None
        self.length = 0  # bytes of the body that the head announces
        self.chunked: ChunkedBody | None = None
        self.most_bytes = 0  # of the body, once the app wants it
        self.is_running = self.is_idle = self.keeps = False
        self.watched = 0  # the events for which the loop asks
        self.act: Callable[[Connection], None] | None = None  # and what it does then
        self.silent_until = self.late_at = 0.0
        self.wants_body = False  # the app waits for it
        self.streamed, self.stream_began_at = 0, 0.0  # of the present answer, if it is too long to be held

    def expect(self, seconds: float, total: float) -> None:
        """Set both deadlines: of silence, and of all that is received or sent now."""
        now = time.monotonic()
        self.silent_until, self.late_at = now + seconds, now + total

    def has_body(self) -> bool:
        """Report whether all of the body has arrived."""
        return len(self.received) >= self.length if self.chunked is None else self.chunked.is_complete

    def take_body(self) -> io.BytesIO:
        """Return the body, which is complete, and forget it: it may be large."""
        if self.chunked is not None:
            return io.BytesIO(self.chunked.decoded)
        with memoryview(self.received) as received:
            body = io.BytesIO(received[: self.length])
        del self.received[: self.length]
        return body

    def sendall(self, data: bytes) -> None:
        """Hold a part of the answer, as gunicorn's Response writes it; send it if it grows too long to be held."""
        self.outgoing += data
        if len(self.outgoing) > LARGEST_ANSWER:
            self.stream_began_at = self.stream_began_at or time.monotonic()
            self.socket.settimeout(SILENCE_SECONDS)
            try:
                while self.outgoing:
                    sent = self.socket.send(self.outgoing[:READ_BYTES])
                    del self.outgoing[:sent]
                    self.streamed += sent
                    if time.monotonic() > self.stream_began_at + TOTAL_SECONDS + self.streamed / LOWEST_RATE:
                        raise TimeoutError("a client that takes a long answer too slowly")
            finally:
                self.socket.setblocking(False)

    def send(self) -> None:
        """Send what the client takes now. Raise OSError if it has gone."""
        with contextlib.suppress(*_NOT_YET):
            while self.outgoing:
                del self.outgoing[: self.socket.send(self.outgoing)]


class ReadSettings:
    """gunicorn's settings, each of which is looked up once: it asks for twenty of them in each request."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        """Return a setting, and keep it: they never change in a worker."""
        value = getattr(self._settings, name)
        setattr(self, name, value)
        return value


class Threads:
    """So many threads, each of which runs one request after the other.

    An executor does the same for twice the work: no one waits for its futures.
    """

    def __init__(self, name: str, count: int, run: Callable[[Connection], None]) -> None:
        self._run = run
        self._waiting: SimpleQueue[Connection | None] = SimpleQueue()
        self._count = count
        for number in range(count):
            Thread(target=self._work, name=f"{name}_{number}").start()

    def submit(self, conn: Connection) -> None:
        """Let the next free thread run a request."""
        self._waiting.put(conn)

    def shut_down(self) -> None:
        """End each thread once no request waits."""
        for _ in range(self._count):
            self._waiting.put(None)

    def _work(self) -> None:
        while (conn := self._waiting.get()) is not None:
            self._run(conn)


class PortalWorker(Worker):  # type: ignore[misc]
    """Serves with ``--threads`` threads and one loop."""

    def init_process(self) -> None:
        """Start the loop; return when the worker has stopped."""
        self.settings = ReadSettings(self.cfg)
        self.poller = selectors.DefaultSelector()
        self.queue = PollableMethodQueue()
        self.queue.init()
        self.connections: dict[socket.socket, Connection] = {}
        self.in_grace: set[Connection] = set()
        self.look_at = 0.0
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the app. A worker that replaces another one never stops the server: the others go on.

        gunicorn stops for good where a worker leaves with 3, as one also does that fails to load. That is right for the
        first workers, after a start with a wrong setting.
        """
        is_first = self.age <= self.cfg.workers
        try:
            super().load_wsgi()
        except SystemExit as misconfigured:
            if is_first:
                raise SystemExit(BOOT_ERROR) from None
            time.sleep(REST_SECONDS)
            raise misconfigured from None
        except Exception:
            logger.exception("start_fault")
            if is_first:
                raise
            time.sleep(REST_SECONDS)
            raise SystemExit(os.EX_SOFTWARE) from None

    def handle_exit(self, sig: int, frame: object) -> None:
        """Stop gracefully (SIGTERM): finish what has begun."""
        self.alive = False
        self.queue.defer(lambda: None)

    def run(self) -> None:
        """Serve until the worker is stopped or its parent has gone, then finish what has begun."""
        self.poller.register(self.queue.fileno(), selectors.EVENT_READ, self.queue.run_callbacks)
        for listener in self.sockets:
            listener.setblocking(False)
            self.poller.register(listener, selectors.EVENT_READ, self._accept)
        self.pool, self.probes = Threads("request", self.cfg.threads, self._run), Threads("probe", 1, self._run)
        try:
            while self.alive and self.ppid == os.getppid():
                self._turn()
            self.finish_all()
        finally:
            self.pool.shut_down()
            self.probes.shut_down()

    def _turn(self) -> None:
        """Act on what has happened, and on the deadlines that have passed."""
        for key, _events in self.poller.select(GRACE_SECONDS / 4 if self.in_grace else LOOK_SECONDS):
            try:
                key.data(key.fileobj)
            except Exception:  # the fault of one connection must not end all others
                logger.exception("connection_fault")
                if key.fileobj in self.connections:
                    self._close(self.connections[key.fileobj])
        now = time.monotonic()
        for conn in [conn for conn in self.in_grace if now > conn.silent_until]:
            self._start(conn)
        if now >= self.look_at:
            self.look_at = now + LOOK_SECONDS
            self.notify()  # the master, which would take a silent worker for one that hangs
            for conn in list(self.connections.values()):
                if not conn.is_running and now > min(conn.silent_until, conn.late_at):
                    self._refuse(conn, "408 Request Timeout") if conn.wants_body else self._close(conn)

    # -- receiving

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, client = listener.accept()
        except (*_NOT_YET, ConnectionAbortedError):
            return
        except OSError:  # this process has no file left
            if not self._evict():
                time.sleep(LOOK_SECONDS / 20)  # or it would ask again at once, and keep the threads waiting
            return
        if len(self.connections) >= self.cfg.worker_connections and not self._evict():
            accepted.close()
            return
        accepted.setblocking(False)
        if self.cfg.is_ssl:
            accepted = ssl_wrap_socket(accepted, self.cfg)
        conn = Connection(accepted, client, listener.getsockname())
        self.connections[accepted] = conn
        self._await_head(conn)

    def _evict(self) -> bool:
        """Close the connection that has kept us waiting longest: many slow ones do not keep others out.

        Return False if there is none, because a thread is at work for each.
        """
        waiting = [conn for conn in self.connections.values() if not conn.is_running]
        if waiting:
            self._close(min(waiting, key=lambda conn: conn.late_at))
        return bool(waiting)

    def _await_head(self, conn: Connection, *, is_idle: bool = False) -> None:
        conn.is_idle, conn.request = is_idle, None
        conn.streamed, conn.stream_began_at = 0, 0.0
        idle_seconds = self.settings.keepalive if self.alive else LINGER_SECONDS
        conn.expect(idle_seconds if is_idle else SILENCE_SECONDS, TOTAL_SECONDS)
        self._watch(conn, selectors.EVENT_READ, self._receive_head)

    def _watch(self, conn: Connection, events: int, act: Callable[[Connection], None]) -> None:
        """Call ``act`` whenever the connection is ready."""
        conn.act = act
        if conn.watched != events:
            change = self.poller.modify if conn.watched else self.poller.register
            change(conn.socket, events, partial(self._act, conn))
            conn.watched = events

    def _act(self, conn: Connection, _socket: object) -> None:
        if conn.act is not None:
            conn.act(conn)

    def _ignore(self, conn: Connection) -> None:
        if conn.watched:
            self.poller.unregister(conn.socket)
            conn.watched = 0

    def _receive(self, conn: Connection) -> bool:
        """Receive what has come; return False if there was nothing, or the connection has ended and was closed."""
        try:
            data = conn.socket.recv(READ_BYTES)
        except _NOT_YET:
            return False
        except OSError:
            data = b""
        if not data:
            self._close(conn)
            return False
        conn.received += data
        conn.silent_until = time.monotonic() + SILENCE_SECONDS
        return True

    def _receive_head(self, conn: Connection) -> None:
        if not self._receive(conn):
            return
        if conn.is_idle:
            conn.is_idle = False
            conn.expect(SILENCE_SECONDS, TOTAL_SECONDS)
        self._read_head(conn)

    def _read_head(self, conn: Connection) -> None:
        """Look for a complete head in what was received, and go on with its body."""
        start = 2 if conn.received[:2] == b"\r\n" else 0  # as gunicorn does
        end = conn.received.find(b"\r\n\r\n", start)
        if end < 0 or end > LARGEST_HEAD:
            if len(conn.received) > LARGEST_HEAD:
                self._refuse(conn, "431 Request Header Fields Too Large")
            return
        conn.head = bytes(conn.received[start : end + 4])
        del conn.received[: end + 4]
        if conn.head.startswith(HEALTH):
            self._answer_plainly(conn, "200 OK", getattr(self.wsgi, "config", {}).get("HEALTHZ", "ok\n"))
            return
        try:
            conn.request = next(RequestParser(self.settings, [conn.head], conn.client))
        except (LimitRequestLine, LimitRequestHeaders):
            self._refuse(conn, "431 Request Header Fields Too Large")
            return
        except Exception:  # it says what was wrong, which may contain a reference
            self._refuse(conn, "400 Bad Request")
            return
        reader = conn.request.body.reader
        conn.length = reader.length if isinstance(reader, LengthReader) else 0
        conn.chunked = ChunkedBody() if isinstance(reader, ChunkedReader) else None
        conn.most_bytes = SMALL_BODY
        if conn.chunked is None and len(conn.received) < conn.length <= SMALL_BODY:
            self.in_grace.add(conn)
            conn.silent_until = time.monotonic() + GRACE_SECONDS
            self._watch(conn, selectors.EVENT_READ, self._receive_early)
            return
        self._start(conn)

    def _receive_early(self, conn: Connection) -> None:
        until = conn.silent_until
        if self._receive(conn):
            conn.silent_until = until
            if len(conn.received) >= conn.length:
                self._start(conn)

    def await_body(self, conn: Connection, most_bytes: int) -> None:
        """Collect the body that the app has asked for, then run the request again."""
        if conn.length > most_bytes:
            self._refuse(conn, "413 Content Too Large")
            return
        conn.most_bytes = most_bytes
        conn.wants_body = True
        conn.expect(SILENCE_SECONDS, max(TOTAL_SECONDS, (conn.length or most_bytes) / LOWEST_RATE))
        if conn.request._expected_100_continue:
            conn.outgoing += b"HTTP/1.1 100 Continue\r\n\r\n"
            with contextlib.suppress(OSError):
                conn.send()
            conn.request._expected_100_continue = False
        self._watch(conn, selectors.EVENT_READ, self._receive_body)
        self._read_body(conn)

    def _receive_body(self, conn: Connection) -> None:
        if self._receive(conn):
            self._read_body(conn)

    def _read_body(self, conn: Connection) -> None:
        if conn.chunked is not None:
            try:
                conn.chunked.take(conn.received, conn.most_bytes)
            except ValueError:
                self._refuse(conn, "400 Bad Request")
                return
            if len(conn.chunked.decoded) > conn.most_bytes:
                self._refuse(conn, "413 Content Too Large")
                return
        if conn.has_body():
            self._start(conn)

    # -- running

    def _start(self, conn: Connection) -> None:
        """Run the request in a thread."""
        conn.act = self._ignore  # what comes meanwhile waits; mostly nothing does, so the loop need not be changed
        self.in_grace.discard(conn)
        conn.is_running, conn.wants_body = True, False
        pool = self.probes if conn.head.startswith(READY) else self.pool
        pool.submit(conn)

    def _run(self, conn: Connection) -> None:
        """Run the request in this thread, and let the loop go on with what came of it."""
        wanted, fault = None, None
        try:
            wanted = self.run_request(conn)
        except BaseException as raised:
            fault = raised
        self.queue.defer(self.go_on, conn, wanted, fault)

    def run_request(self, conn: Connection) -> int | None:
        """Run the request in this thread, and send what the client takes at once.

        Return the most bytes of its body if the app wants one that has not arrived.
        """
        body = conn.take_body() if conn.has_body() else None
        has_waited = conn.request._expected_100_continue
        conn.request._expected_100_continue = False  # the loop sends it, if the body is wanted
        response, environ = create(conn.request, conn, conn.client, conn.server, self.settings)
        environ |= {"wsgi.input": MissingBody() if body is None else body, "wsgi.multithread": True}
        environ["gunicorn.socket"] = conn.socket
        if body is not None and conn.chunked is not None:
            environ["CONTENT_LENGTH"] = str(len(conn.chunked.decoded))
            environ.pop("HTTP_TRANSFER_ENCODING", None)
        if body is None or not self.alive:
            response.force_close()
        try:
            answered = self.wsgi(environ, response.start_response)
            try:
                for part in answered:
                    response.write(part)
                response.close()
            finally:
                if hasattr(answered, "close"):
                    answered.close()
        except BodyWanted as wanted:
            conn.request._expected_100_continue = has_waited
            return wanted.most_bytes
        conn.keeps = not response.should_close()
        conn.send()
        return None

    def go_on(self, conn: Connection, wanted: int | None, fault: BaseException | None) -> None:
        """Go on with a connection whose request has run, up to the body that it wants or a fault."""
        conn.is_running = False
        if fault is not None:
            if not isinstance(fault, OSError):  # else the client has gone
                logger.error("request_fault", exc_info=fault)
            self._close(conn)
        elif wanted is not None:
            self.await_body(conn, wanted)
        else:
            self._send(conn)

    # -- sending

    def _answer_plainly(self, conn: Connection, status: str, text: str) -> None:
        conn.keeps = False
        conn.outgoing += (
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}\r\n"
            f"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        ).encode()
        if not conn.head.startswith(b"HEAD "):
            conn.outgoing += text.encode()
        self._send(conn)

    def _refuse(self, conn: Connection, status: str) -> None:
        self._answer_plainly(conn, status, f"{status.partition(' ')[2]}.\n")

    def _send(self, conn: Connection) -> None:
        """Send the rest of an answer; then wait for the next request, or close."""
        conn.wants_body = False
        conn.expect(SILENCE_SECONDS, max(TOTAL_SECONDS, len(conn.outgoing) / LOWEST_RATE))
        if conn.outgoing:
            self._watch(conn, selectors.EVENT_WRITE, self._send_more)
        self._send_more(conn)

    def _send_more(self, conn: Connection) -> None:
        before = len(conn.outgoing)
        try:
            conn.send()
        except OSError:
            self._close(conn)
            return
        if len(conn.outgoing) < before:
            conn.silent_until = time.monotonic() + SILENCE_SECONDS
        if conn.outgoing:
            return
        if conn.keeps:
            self._await_head(conn, is_idle=not conn.received)
            self._read_head(conn)
            return
        # Closing at once would reset the connection if more arrives, and the client might never see the answer.
        with contextlib.suppress(OSError):
            conn.socket.shutdown(socket.SHUT_WR)
        conn.expect(LINGER_SECONDS, LINGER_SECONDS)
        self._watch(conn, selectors.EVENT_READ, self._drop)

    def _drop(self, conn: Connection) -> None:
        try:
            if not conn.socket.recv(READ_BYTES):
                self._close(conn)
        except _NOT_YET:
            pass
        except OSError:
            self._close(conn)

    def _close(self, conn: Connection) -> None:
        self._ignore(conn)
        self.in_grace.discard(conn)
        self.connections.pop(conn.socket, None)
        with contextlib.suppress(OSError):
            conn.socket.close()

    # -- stopping

    def finish_all(self) -> None:
        """Answer what has begun, what waits in the listeners, and what idle clients may be sending at this moment.

        Before that, go on for as long as the portal's settings say, while probes hear that this process stops.
        """
        process = getattr(self.wsgi, "extensions", {}).get("auth_portal_process")
        serves_until = time.monotonic() + (process.drain() if process is not None else 0)
        while time.monotonic() < serves_until and self.ppid == os.getppid():
            self._turn()
        for listener in self.sockets:
            before = -1
            while before != len(self.connections):
                before = len(self.connections)
                self._accept(listener)
            self.poller.unregister(listener)
            listener.close()
        until = time.monotonic() + self.cfg.graceful_timeout
        for conn in self.connections.values():
            if not conn.is_running and conn.request is None and not conn.received:
                conn.silent_until = min(conn.silent_until, time.monotonic() + LINGER_SECONDS)
        while self.connections and time.monotonic() < until:
            self._turn()
        if process is not None:
            process.stop()


def gunicorn_settings(drain_seconds: int = 0) -> dict[str, Any]:
    """Return the settings that gunicorn has however it is started."""
    # Threads as always, but no slow client holds one. Under the usual name, so that no command line can miss it.
    SUPPORTED_WORKERS["gthread"] = f"{__name__}.PortalWorker"
    return {
        # Headers with an underscore in their name are dropped: in WSGI they would replace those of the proxy. No
        # exceptions, although gunicorn makes one for SCRIPT_NAME and PATH_INFO, which a client could send through a
        # proxy on this machine.
        "header_map": "drop",
        "forwarder_headers": "",
        "worker_class": "gthread",
        "threads": 4,
        "keepalive": 5,  # seconds
        "control_socket_disable": True,  # it would be in the home folder of the user that serves
        "umask": 0o777 & ~SOCKET_MODE,
        # gunicorn kills what has not ended so many seconds after SIGTERM, which begin when the portal has drained.
        "graceful_timeout": 30 + drain_seconds,
        "on_starting": on_starting,
        "when_ready": when_ready,
    }


class PortalServer(BaseApplication):  # type: ignore[misc]
    """gunicorn with the settings of the portal and no others: it reads no file, variable or command line.

    ``load`` returns the app. It is called once, before anything listens, and the workers share what it made.
    """

    def __init__(self, load: Callable[[], Any], drain_seconds: int, **settings: Any) -> None:
        self.load = load
        self._settings = {**gunicorn_settings(drain_seconds), "loglevel": "warning", **settings}
        super().__init__()

    def load_config(self) -> None:
        """Hand the settings to gunicorn."""
        for name, value in self._settings.items():
            self.cfg.set(name, value)


def on_starting(arbiter: Any) -> None:
    """Claim the addresses, load the app of a PortalServer, and see to it that a unix socket stays in its place."""
    arbiter.claims = []
    if not arbiter.master_pid and not systemd.listen_fds(unset_environment=False):  # nothing was handed over
        arbiter.claims = [lock for address in arbiter.cfg.address for lock in claim(address)]
    if isinstance(arbiter.app, PortalServer):
        arbiter.app.wsgi()
    stop = arbiter.stop

    def stop_and_keep_the_socket(graceful: bool = True) -> None:
        """Leave a unix socket where it is: while the server drains, nginx must still reach it.

        The next start replaces it. gunicorn does the same with a socket that systemd has made.
        """
        arbiter.systemd = True
        stop(graceful)

    arbiter.stop = stop_and_keep_the_socket


def when_ready(arbiter: Any) -> None:
    """Give up the locks: from now on it shows that a server listens."""
    for lock in arbiter.claims:
        os.close(lock)


def claim(address: Any) -> list[int]:
    """Make sure that no living server listens at an address; return the locks that keep others from starting there.

    gunicorn itself would take the place of a living server's unix socket. Leave with 75 if the address is in use, with
    78 if no server can ever listen there.
    """
    is_unix = isinstance(address, str)
    place = f"unix:{address}" if is_unix else "{}:{}".format(*address[:2])
    until = time.monotonic() + LEFT_SECONDS
    while True:
        try:
            return [claim_socket(Path(address))] if is_unix else claim_port(*address[:2])
        except OSError as taken:
            is_in_use = taken.errno in (errno.EADDRINUSE, errno.EWOULDBLOCK)
            if not is_in_use or time.monotonic() > until:
                sys.stderr.write(f"auth-portal: {place} cannot be listened on: {taken.strerror}.\n")
                raise SystemExit(os.EX_TEMPFAIL if is_in_use else os.EX_CONFIG) from None
        time.sleep(LOOK_SECONDS / 10)


def claim_port(host: str, port: int) -> list[int]:
    """Raise OSError if this process cannot listen at a port. The system itself lets only one server have it."""
    family, kind, protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    return []


def claim_socket(path: Path) -> int:
    """Lock the folder of a unix socket. Raise OSError if a living server has it, or if no socket can be made there."""
    lock = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        refuse_living(path)
    except OSError:
        os.close(lock)
        raise
    return lock


def refuse_living(path: Path) -> None:
    """Raise OSError unless a unix socket can be made at a path, where one may be left that no server listens on."""
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"{path.parent} cannot be written")
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise FileExistsError(errno.EEXIST, "there is something that is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
    raise OSError(errno.EADDRINUSE, "another server listens there")
