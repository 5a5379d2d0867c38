"""The threads that empty the outbox and end what nobody looks at. Any number of dispatchers may run side by side.

Messages and callbacks have threads of their own, so that neither waits for the other, and one target takes at most
half of them, so that a dead server or channel slows nobody else (D5). What this very process put into the outbox is
looked for at once; the rest at each poll.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from auth_portal.services.alerts.alerts import Alerts
from auth_portal.services.deliveries import Deliverer
from auth_portal.services.endings import Endings
from auth_portal.services.imports.worker import ImportWorker
from auth_portal.services.loops import Loop
from auth_portal.services.operations.housekeeping import Housekeeping
from auth_portal.services.outbox import CALLBACK, MESSAGE, Claimed, Outbox
from auth_portal.telemetry import logger

THREADS = 8  # for each kind of delivery
SHARE = THREADS // 2  # of them, at most, for one target
INLINE_POLL_SECONDS = 0.5  # beside web workers: waking does the rest
OWN_POLL_SECONDS = 0.1  # `flask dispatch`
SWEEP_SECONDS = 1.0
# A message leaves at a moment by chance within this time, so that the work of sending one never falls into the same
# moment after a beginning: beside web workers, what it slows down would tell that somebody is a customer (R24).
SCATTER_SECONDS = {CALLBACK: 0.0, MESSAGE: 0.1}


class Lane:
    """One kind of delivery: a thread that claims, and threads that deliver."""

    def __init__(self, kind: str, outbox: Outbox, deliverer: Deliverer, poll_seconds: float) -> None:
        self._kind = kind
        self._outbox = outbox
        self._deliverer = deliverer
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"{kind}-delivery")
        self._loop = Loop(f"{kind}-dispatcher", self._round, every_seconds=poll_seconds, fault="dispatcher_fault")

    def start(self) -> None:
        """Begins to look for work, at once."""
        self._loop.start()
        self._loop.wake()

    def wake(self) -> None:
        """Something was put into the outbox."""
        self._loop.wake()

    def stop(self, seconds: float) -> None:
        """Claims nothing more and waits for what is on its way."""
        self._loop.stop(seconds)
        self._pool.shutdown(wait=True)

    def _round(self) -> bool:
        """Claims once and hands out; whether there may be more to claim at once.

        A look comes before the claim: most wakes are for the other lane, and writers queue.
        """
        with self._lock:
            free = THREADS - self._busy.total()
            full = [target for target, count in self._busy.items() if count >= SHARE]
            busiest = max((count for count in self._busy.values() if count < SHARE), default=0)
        if free <= 0 or not self._outbox.has_due(self._kind):
            return False
        time.sleep(random.uniform(0, SCATTER_SECONDS[self._kind]))  # noqa: S311
        most = min(free, SHARE - busiest)  # all that is claimed may be for the busiest
        claimed = self._outbox.claim(self._kind, most, full)
        for delivery in claimed:
            with self._lock:
                self._busy[delivery.target] += 1
            self._pool.submit(self._deliver, delivery)
        return len(claimed) == most

    def _deliver(self, claimed: Claimed) -> None:
        try:
            self._deliverer.deliver(claimed)
        except Exception:
            # The lease brings it back; the attempt stays on record as one of unknown fate.
            logger.exception("delivery_fault")
        finally:
            with self._lock:
                self._busy[claimed.target] -= 1
                if not self._busy[claimed.target]:
                    del self._busy[claimed.target]
            self._loop.wake()


class Dispatcher:
    """Both lanes, the sweep, the work on imports and the housekeeping, in one process."""

    def __init__(
        self, outbox: Outbox, deliverer: Deliverer, endings: Endings, alerts: Alerts, imports: ImportWorker,
        housekeeping: Housekeeping, *, poll_seconds: float,
    ) -> None:  # fmt: skip
        self._lanes = [Lane(kind, outbox, deliverer, poll_seconds) for kind in (CALLBACK, MESSAGE)]
        self._endings = endings
        self._alerts = alerts
        sweeper = Loop("expiry", self._sweep, every_seconds=SWEEP_SECONDS, fault="sweep_fault")
        self._threads: tuple[Lane | Loop | ImportWorker | Housekeeping, ...] = (
            *self._lanes,
            sweeper,
            imports,
            housekeeping,
        )

    def start(self) -> None:
        """Starts every thread; returns at once."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Something was committed to the outbox by this process."""
        for lane in self._lanes:
            lane.wake()

    def stop(self, seconds: float = 10.0) -> None:
        """Stops every thread, after what is on its way."""
        for thread in self._threads:
            thread.stop(seconds)

    def _sweep(self) -> bool:
        if self._endings.expire_due():
            time.sleep(0)  # other writers first
            return True
        self._alerts.evaluate()
        return False
