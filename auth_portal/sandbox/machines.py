"""The endpoints that the portal's server talks to: Flow's two callbacks, and the phone networks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, make_response, request

from auth_portal.clock import iso
from auth_portal.sandbox.asking import Refusal
from auth_portal.sandbox.callbacks import BODY_BYTES, PATHS, Arrival, Callbacks
from auth_portal.sandbox.contract import Contract, Fault
from auth_portal.sandbox.documents import read_json
from auth_portal.sandbox.inbox import Inbox, read_message

SLOW_SECONDS = 6.0
SILENT_SECONDS = 10.0  # longer than the 8 s that the portal waits
INBOX_JSON = 200
MESSAGE_BYTES = 64 * 1024  # as much as the portal takes in any request


class Patience:
    """Holds a request up for a simulated fault, in a public sandbox only so many at once."""

    def __init__(self, sleep: Callable[[float], None], at_once: int | None) -> None:
        self._sleep = sleep
        self._places = threading.BoundedSemaphore(at_once) if at_once else None

    def hold(self, seconds: float) -> None:
        """Waits, or goes on at once where all places are taken."""
        if self._places is None:
            self._sleep(seconds)
        elif self._places.acquire(blocking=False):
            try:
                self._sleep(seconds)
            finally:
                self._places.release()


class FlowSide:
    """Flow's two endpoints."""

    def __init__(self, callbacks: Callbacks, patience: Patience) -> None:
        self._callbacks = callbacks
        self._patience = patience

    def add_rules(self, found: Blueprint) -> None:
        """Flow's addresses."""
        found.add_url_rule(PATHS["external_link"], "external_link", self.external_link, methods=["POST"])
        found.add_url_rule(PATHS["wait_for_callback"], "wait_for_callback", self.wait_for_callback, methods=["POST"])

    def external_link(self) -> Response:
        """The External Link node's callback."""
        return self._receive("external_link")

    def wait_for_callback(self) -> Response:
        """The Wait for Callback node's."""
        return self._receive("wait_for_callback")

    def _receive(self, contract: Contract) -> Response:
        body = request.stream.read(BODY_BYTES + 1)
        arrival = Arrival(contract, request.headers.get("reference"), request.mimetype, body)
        if self._callbacks.fault_for(arrival.header) is Fault.SLOW:
            self._patience.hold(SLOW_SECONDS)
        answer = self._callbacks.receive(arrival)
        if answer.is_silent and not hang_up(request.environ):
            self._patience.hold(SILENT_SECONDS)
        return Response(status=answer.status)


def hang_up(environ: Mapping[str, Any]) -> bool:
    """Closes the connection without an answer, where the server hands out its socket and no proxy stands between.

    A proxy would turn it into a 502, which is an answer; there, silence loses the reply more truly.
    """
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if connection is None or "HTTP_X_FORWARDED_FOR" in environ:
        return False
    connection.shutdown(socket.SHUT_RDWR)
    return True


class Phones:
    """The phone networks' and mail servers' end: what the ``inbox`` channel posts to, and what scripts read."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def add_rules(self, found: Blueprint) -> None:
        """The inbox's addresses for machines."""
        found.add_url_rule("/messages", "keep_message", self.keep, methods=["POST"])
        found.add_url_rule("/inbox.json", "inbox_json", self.inbox_json)

    def keep(self) -> Response:
        """Takes one message; a second time the same ``message_id`` changes nothing."""
        body = request.stream.read(MESSAGE_BYTES + 1)
        try:
            fields = read_message(read_json(body) if len(body) <= MESSAGE_BYTES else None)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        is_new = self._inbox.keep(fields)
        return make_response(jsonify(is_new=is_new), 202)

    def inbox_json(self) -> Response:
        """The newest messages first, those of one recipient where ``to`` is given."""
        found = self._inbox.newest(INBOX_JSON, request.args.get("to", ""))
        return jsonify(
            messages=[
                {
                    "message_id": message.message_id,
                    "to": message.to,
                    "kind": message.kind,
                    "subject": message.subject,
                    "text": message.text,
                    "html": message.html,
                    "at": iso(message.at),
                }
                for message in found
            ]
        )
