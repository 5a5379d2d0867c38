#!/usr/bin/env python3
"""Exit with 0 if the server of this container answers on PORTAL_BIND: the health check of the image."""

import os
import socket
import sys
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

SECONDS = 4  # less than the time-out of HEALTHCHECK


class Server(HTTPConnection):
    """A connection to the server, on its port or its unix socket."""

    def connect(self) -> None:
        """Connect as PORTAL_BIND says; to every address means to the local one as well."""
        bind = os.environ["PORTAL_BIND"]
        if bind.startswith("unix:"):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(SECONDS)
            self.sock.connect(bind.removeprefix("unix:"))
            return
        host, _, port = bind.rpartition(":")
        local = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 - only compared
        self.sock = socket.create_connection((local, int(port)), SECONDS)


def main() -> str | None:
    """Return why the server is not healthy, None if it is."""
    try:
        server = Server("localhost", timeout=SECONDS)
        server.request("GET", "/healthz")
        status = server.getresponse().status
    except (OSError, HTTPException) as fault:
        return f"{type(fault).__name__}: {fault}"
    return None if status == HTTPStatus.OK else f"/healthz answers with {status}"


sys.exit(main())
