"""A network in front of PostgreSQL that falls silent, or is cut, when a test says so."""

from __future__ import annotations

import contextlib
import socket
import threading

from sqlalchemy import make_url

from tests.serving import free_port


class Relay:
    """Passes bytes between a port of this machine and the server's socket."""

    def __init__(self, database_url: str) -> None:
        self._target = make_url(database_url)
        self.port = free_port()
        self.url = self._target.set(host="127.0.0.1", port=self.port, query={}).render_as_string(hide_password=False)
        self._is_open = threading.Event()  # cleared while the network is silent: nothing arrives, nothing is refused
        self._is_open.set()
        self._connections: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def start(self) -> Relay:
        """Accept connections, from now on or again."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def cut(self) -> None:
        """Refuse connections, and end those that there are."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def fall_silent(self) -> None:
        """Pass nothing on."""
        self._is_open.clear()

    def go_on(self) -> None:
        """Pass on what has waited."""
        self._is_open.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(f"{self._target.query['host']}/.s.PGSQL.{self._target.port or 5432}")
            self._connections += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._is_open.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
