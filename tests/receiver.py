"""A strict stand-in for Flow and for message providers, on a real socket, with faults on demand.

It answers 200 only to a callback that Flow could match: header equals body, JSON as the OpenAPI file says.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, TypeVar

GIVE_UP_SECONDS = 100  # of a loaded machine: only a test that fails waits that long
Answer = int | str  # a status, or "close", "hang", "accept-close"


@dataclass
class Callback:
    path: str
    header: str
    raw: bytes
    at: float
    status: int | None = None

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)


class Listens(Protocol):
    """Somewhere that callbacks and messages can be sent to."""

    @property
    def origin(self) -> str:
        """Its address."""


@dataclass
class Receiver:
    answers: list[Answer] = field(default_factory=list)  # for the next callbacks, then 200
    sms_answers: list[Answer] = field(default_factory=list)
    callbacks: list[Callback] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    platform: list[dict[str, Any]] = field(default_factory=list)  # requests to Clickatell's message API
    lock: threading.Lock = field(default_factory=threading.Lock)
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                receiver._handle(self, body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer((self.host, 0), Handler)
        self.server.socket.listen(512)  # ten dispatchers come at the same moment; with the usual 5 some posts are lost
        self.server.daemon_threads = True
        self._listening = threading.Thread(target=self._accept, daemon=True)
        self._listening.start()

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.server.server_port}"

    def close(self) -> None:
        self.server.socket.shutdown(socket.SHUT_RDWR)  # at once, where serve_forever() ends with its next poll
        self._listening.join()
        self.server.server_close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                self.server.process_request(*self.server.get_request())

    def _handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if handler.path in ("/sms", "/mail"):
            self._message(handler, body)
            return
        if handler.path == "/v1/message":
            self._clickatell(handler, body)
            return
        callback = Callback(handler.path, handler.headers.get("reference", ""), body, time.monotonic())
        with self.lock:
            self.callbacks.append(callback)
            answer = self.answers.pop(0) if self.answers else (202 if handler.path == "/chat/callback" else 200)
        if isinstance(answer, int) and answer < 300 and not _is_sound(callback):
            answer = 400
        self._answer(handler, answer, callback)

    def _message(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        with self.lock:
            answer = self.sms_answers.pop(0) if self.sms_answers else 200
            if answer in (200, "accept-close"):
                self.messages.append({"kind": handler.path[1:], **json.loads(body)})
        self._answer(handler, answer, None)

    def _clickatell(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self.platform.append({"authorization": handler.headers["Authorization"], "body": body})
        answer = json.dumps({"messages": [{"apiMessageId": "1", "accepted": True, "to": "", "error": None}]}).encode()
        handler.send_response(202)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    @staticmethod
    def _answer(handler: BaseHTTPRequestHandler, answer: Answer, callback: Callback | None) -> None:
        if answer == "hang":
            time.sleep(12)
            answer = "close"
        if answer in ("close", "accept-close"):
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        assert isinstance(answer, int)
        if callback is not None:
            callback.status = answer
        handler.send_response(answer)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def code_for(self, to: str) -> str:
        """The newest code that was sent to a number or mailbox."""
        message = next(message for message in reversed(self.messages) if message["to"] == to)
        return message["text"].split()[0]


def _is_sound(callback: Callback) -> bool:
    try:
        body = callback.body
    except ValueError:
        return False
    data = body.get("data", {})
    return (
        callback.header == body.get("reference")
        and isinstance(body.get("result"), str)
        and all(isinstance(key, str) and isinstance(value, str) for key, value in data.items())
    )


T = TypeVar("T")


def wait_for(look: Callable[[], T | None], seconds: float = GIVE_UP_SECONDS) -> T:
    """What ``look`` gives as soon as it is true; fails loudly when that does not happen."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)
    return found
