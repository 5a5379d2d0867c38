"""What a customer's page takes while 40 slow connections stand on one route, for every route that takes a body (R50).

`python -m bench slow`
"""

from __future__ import annotations

import socket
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from bench.portal import portal
from tests.receiver import Receiver
from tests.security.test_slow_clients import FORM, connected, head, paths
from tests.serving import Visitor, serving

SLOW = 40  # connections
PAGES = 10  # of the customer, for each route
DRIP_SECONDS = 2.0  # between two bytes of each slow connection


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        receiver = Receiver()
        running = portal(Path(name) / "slow", receiver, server="gunicorn", workers=1, PORTAL_DISPATCH="off")
        found: dict[str, list[float]] = {}
        with serving(running):
            visitor = Visitor(running.url)
            visitor.begin("slow", identifier="B-1")
            alone = [visitor.get("/verify").elapsed.total_seconds() * 1000 for _ in range(5 * PAGES)]
            for method, path, _endpoint in paths("POST", "PUT", "PATCH"):
                request = head(method, path, FORM, "Content-Length: 60000", to=running) + b"a=b"
                with ExitStack() as stack:
                    held = [stack.enter_context(connected(running, request)) for _ in range(SLOW)]
                    over = threading.Event()
                    dripping = threading.Thread(target=_drip, args=(held, over))
                    dripping.start()
                    times = []
                    for _ in range(PAGES):
                        began = time.monotonic()
                        assert visitor.get("/verify").ok
                        times.append((time.monotonic() - began) * 1000)
                    found[f"{method} {path}"] = times
                    over.set()
                    dripping.join()
        receiver.close()
    every = sorted(milliseconds for times in found.values() for milliseconds in times)
    worst = max(found, key=lambda route: max(found[route]))
    print(f"A customer's page alone: median {statistics.median(alone):.1f} ms, longest {max(alone):.1f} ms")
    print(f"With {SLOW} slow connections on one route, {len(found)} routes, {PAGES} pages each:")
    print(f"  median {statistics.median(every):.1f} ms, longest {every[-1]:.1f} ms ({worst})")
    return 0


def _drip(held: list[socket.socket], over: threading.Event) -> None:
    while not over.wait(DRIP_SECONDS):
        for connection in held:
            try:
                connection.sendall(b"x")
            except OSError:  # it was refused
                continue
