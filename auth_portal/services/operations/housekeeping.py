"""Keeps retention (E3) without anybody asking: once an hour, in whichever process dispatches.

The first process to look in an hour has the turn; the others find it taken. What an older version left incomplete is
completed too, which is a look into an index once it is done. Nothing waits for this thread, and it stops between two
short batches.
"""

from __future__ import annotations

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.services import limits
from auth_portal.services.directory import phone_countries
from auth_portal.services.limits import HOUR, Limit
from auth_portal.services.loops import Loop
from auth_portal.services.operations.retention import prune
from auth_portal.store.db import Database
from auth_portal.telemetry import log_event

LOOK_SECONDS = 60.0
TURN = Limit("prune-turn", 1, HOUR)


class Housekeeping:
    """One thread that removes what has been kept for long enough, and completes what an older version wrote."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._loop = Loop("housekeeping", self._round, every_seconds=LOOK_SECONDS, fault="housekeeping_fault")

    def start(self) -> None:
        """Begins to look, a minute from now: a start has other things to do."""
        self._loop.start()

    def stop(self, seconds: float) -> None:
        """Stops after the batch that is under way."""
        self._loop.stop(seconds)

    def _round(self) -> bool:
        self.complete()
        self.tidy()
        return False

    def complete(self) -> None:
        """Learns the countries of phones that an older version wrote without them."""
        if learned := phone_countries.learn(self._database, self._keyring, is_stopping=self._loop.is_stopping):
            log_event("phone_countries_learned", customers=learned)

    def tidy(self) -> None:
        """Prunes where nobody has within the hour."""
        with self._database.write() as connection:
            (taken,) = limits.take(connection, self._clock(), [TURN])
        if taken.is_over:
            return
        removed = prune(self._database, self._clock, is_stopping=self._loop.is_stopping)
        if any(removed.values()):
            log_event("pruned", **{kind.replace(" ", "_").replace("'", ""): count for kind, count in removed.items()})
