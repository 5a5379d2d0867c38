"""The thread that works on imports, in whichever process dispatches. One at a time has an import's lease."""

from __future__ import annotations

import time

from auth_portal.services.imports.states import LostLease
from auth_portal.services.imports.work import ImportWork, Stopped
from auth_portal.services.loops import Loop
from auth_portal.telemetry import log_event

POLL_SECONDS = 1.0  # beside the process that asked for an import; that one wakes it
TIDY_SECONDS = 60.0
FAULT_SECONDS = 5.0  # how long it rests after a fault; the import waits for its lease anyway


class ImportWorker:
    """One thread, so that of a server's cores imports never take more than the one."""

    def __init__(self, work: ImportWork) -> None:
        self._work = work
        self._tidy_at = 0.0
        self._loop = Loop(
            "imports", self._round, every_seconds=POLL_SECONDS, fault="import_fault", rest_seconds=FAULT_SECONDS
        )
        work.stop_when(self._loop.is_stopping)

    def start(self) -> None:
        """Begins to look for imports."""
        self._loop.start()

    def wake(self) -> None:
        """An import has work to be done."""
        self._loop.wake()

    def stop(self, seconds: float) -> None:
        """Gives up after the batch that is under way; the next process goes on."""
        self._loop.stop(seconds)

    def _round(self) -> bool:
        try:
            if self._work.work_once():
                return True
            self._tidy()
        except LostLease:
            log_event("import_taken_over")
        except Stopped:
            pass  # the loop knows: it is what stopped the work
        return False

    def _tidy(self) -> None:
        if time.monotonic() >= self._tidy_at and not self._loop.is_stopping():
            self._tidy_at = time.monotonic() + TIDY_SECONDS
            self._work.tidy()
