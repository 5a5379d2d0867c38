"""The thread that works on imports, in whichever process dispatches. One at a time has an import's lease."""

from __future__ import annotations

import logging
import threading
import time

from auth_portal.services.imports.states import LostLease
from auth_portal.services.imports.work import ImportWork, Stopped
from auth_portal.telemetry import log_event

POLL_SECONDS = 1.0  # beside the process that asked for an import; that one wakes it
TIDY_SECONDS = 60.0
FAULT_SECONDS = 5.0  # how long it rests after a fault; the import waits for its lease anyway


class ImportWorker:
    """One thread, so that of a server's cores imports never take more than the one."""

    def __init__(self, work: ImportWork) -> None:
        self._work = work
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._tidy_at = 0.0
        self._thread = threading.Thread(target=self._run, name="imports", daemon=True)
        work.stop_when(self._stopping.is_set)

    def start(self) -> None:
        """Begins to look for imports."""
        self._thread.start()

    def wake(self) -> None:
        """An import has work to be done."""
        self._woken.set()

    def stop(self, seconds: float) -> None:
        """Gives up after the batch that is under way; the next process goes on."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.wait(POLL_SECONDS)
            self._woken.clear()
            try:
                while not self._stopping.is_set() and self._work.work_once():
                    pass
                self._tidy()
            except Stopped:
                return
            except LostLease:
                log_event("import_taken_over")
            except Exception:
                logging.getLogger("auth_portal").exception("import_fault")
                self._stopping.wait(FAULT_SECONDS)

    def _tidy(self) -> None:
        if time.monotonic() >= self._tidy_at and not self._stopping.is_set():
            self._tidy_at = time.monotonic() + TIDY_SECONDS
            self._work.tidy()
