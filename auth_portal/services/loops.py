"""Work of the background: one thread that does one piece of it, again and again, until it is told to stop.

It knows nothing of what is done. A fault of the work ends a round, never the thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from auth_portal.telemetry import logger

REST_SECONDS = 2.0  # after a fault, mostly of the database: it needs no thread that asks at once again


class Loop:
    """``work`` at each wake, and ``every_seconds`` without one; it says whether there may be more to do at once.

    The first round comes after the first wake or the first wait, so that a start stays quick. ``fault`` names the log
    event of a round that raised; ``rest_seconds`` is how long the thread leaves the work alone after that.
    """

    def __init__(
        self, name: str, work: Callable[[], bool], *, every_seconds: float, fault: str,
        rest_seconds: float = REST_SECONDS,
    ) -> None:  # fmt: skip
        self._work = work
        self._every_seconds = every_seconds
        self._fault = fault
        self._rest_seconds = rest_seconds
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread; returns at once."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to do; a wake during a round brings another round."""
        self._woken.set()

    def is_stopping(self) -> bool:
        """Whether it was told to stop; long work asks between two batches."""
        return self._stopping.is_set()

    def stop(self, seconds: float) -> None:
        """No round more; waits ``seconds`` at most for the one under way. Safe where nothing was started."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self.is_stopping():
            self._woken.wait(self._every_seconds)
            self._woken.clear()
            try:
                while not self.is_stopping() and self._work():
                    pass
            except Exception:
                logger.exception(self._fault, extra={"portal_fields": {"thread": self._thread.name}})
                self._stopping.wait(self._rest_seconds)
