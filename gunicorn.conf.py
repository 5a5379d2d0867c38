"""What gunicorn, the server of the portal, always reads when it is started in this folder."""

import os
from typing import Any

from gunicorn.workers import SUPPORTED_WORKERS

# Headers with an underscore in their name are dropped: in WSGI they would replace those of the proxy. No exceptions,
# although gunicorn makes one for SCRIPT_NAME and PATH_INFO, which a client could send through a proxy on this machine.
header_map = "drop"
forwarder_headers = ""
# Threads as always, but no slow client holds one. Under the usual name, so that no command line can miss it.
SUPPORTED_WORKERS["gthread"] = "auth_portal.web.server.PortalWorker"
worker_class = "gthread"
threads = 4
keepalive = 5  # seconds
control_socket_disable = True  # it would be in the home folder of the user that serves
# gunicorn kills what has not ended so many seconds after SIGTERM: that time begins when the portal has drained.
_DRAIN = os.environ.get("PORTAL_DRAIN_SECONDS", "")
graceful_timeout = 30 + (int(_DRAIN) if _DRAIN.isdecimal() else 0)


def on_starting(arbiter: Any) -> None:
    """Leave a unix socket where it is when the server stops: while it drains, nginx must still reach it.

    The next start replaces it. gunicorn does the same with a socket that systemd has made.
    """
    stop = arbiter.stop

    def stop_and_keep_the_socket(graceful: bool = True) -> None:
        arbiter.systemd = True
        stop(graceful)

    arbiter.stop = stop_and_keep_the_socket
