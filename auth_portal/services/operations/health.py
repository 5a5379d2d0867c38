"""Whether this process can do its job, whether its clock is right, and the numbers that an operator watches."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from concurrent.futures import Future
from datetime import datetime, timedelta
from socket import gethostname
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from auth_portal.services import limits
from auth_portal.services.delivery.queues import due_queues
from auth_portal.services.limits import Limit
from auth_portal.store.db import Database, Transactions, table_state
from auth_portal.store.keys import has_data_keys
from auth_portal.store.models import (
    CALLBACK,
    MESSAGE,
    UNSEALED,
    AuditBlock,
    AuditEvent,
    ChannelState,
    Counter,
    Delivery,
    Verification,
)
from auth_portal.telemetry import logger, reason_of

LOOK_SECONDS = 1.5  # that a probe waits for the database; load balancers mostly wait 2 s
HEARTBEAT = "heartbeat:"  # the counters of small writes, by machine
BEAT_SECONDS = 5.0  # between two small writes
SILENT_BEAT_SECONDS = 15  # without one
LOWEST_DISK = 64 * 2**20  # free bytes for SQLite: its log alone may grow to some of that
SILENT_SECONDS = 30  # a delivery that has been due for this long shows that no dispatcher is at work


class Health:
    """Answer probes: within LOOK_SECONDS, whatever the database does, and without writing anything.

    What only a write can show, such as a full disk, is known from a small one that ``beat`` makes in the background.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._lock = threading.Lock()
        self._look: Future[list[str]] | None = None
        self._look_ends_at = 0.0  # by time.monotonic(): a probe that joins it waits no longer than the first
        self._beaten_at: float | None = None  # by time.monotonic(); None until a first beat
        self._why_no_beat = ""
        self._overdue_seconds = 0.0
        self.is_draining = False  # the process was asked to stop, and only finishes what has begun

    def beat(self) -> bool:
        """Write one row and commit. Return False: that is all. Raise what the database raises."""
        if self._beaten_at is None:
            self._beaten_at = time.monotonic()
        try:
            with self._transactions.write() as work:
                limits.take(work, [Limit(f"{HEARTBEAT}{gethostname()}", sys.maxsize, 60)])
            self._transactions.machine.is_right()
        except Exception as error:
            self._why_no_beat = reason_of(error) or type(error).__name__
            raise
        self._beaten_at, self._why_no_beat = time.monotonic(), ""
        return False

    def faults(self) -> list[str]:
        """Return why the portal cannot serve; empty if it can."""
        if self.is_draining:
            return ["draining: this process was asked to stop and takes no new customers"]
        with self._lock:
            if self._look is None or self._look.done():
                self._look, self._look_ends_at = Future(), time.monotonic() + LOOK_SECONDS
                threading.Thread(target=self._answer, args=(self._look,), name="readiness", daemon=True).start()
        try:
            found = self._look.result(max(0.0, self._look_ends_at - time.monotonic()))
        except TimeoutError:
            found = [f"database: no answer within {LOOK_SECONDS:g} s"]
        return found + self.write_faults() + self.disk_faults()

    def _answer(self, look: Future[list[str]]) -> None:
        try:
            look.set_result(self.database_faults())
        except Exception as error:
            logger.exception("readiness_fault")
            look.set_result([f"database: {type(error).__name__}"])

    def database_faults(self) -> list[str]:
        """Return what a look at the database finds; it takes as long as the database does."""
        try:
            with self._transactions.read() as work:
                outdated = table_state(work.connection).fault()
                has_keys = has_data_keys(work.connection)
            self._overdue_seconds = self.oldest_due_seconds()
            fault = self._transactions.machine.fault()
        except (SQLAlchemyError, OSError) as error:
            return [f"database: {reason_of(error)}"]
        if outdated:
            return [f"migrations: {outdated}"]
        if not has_keys:
            return ["keys: the database has no data keys"]
        return [fault] if fault else []

    def write_faults(self) -> list[str]:
        """Return why nothing can be written, as far as the background knows."""
        if self._why_no_beat:
            return [f"database: nothing can be written: {self._why_no_beat}"]
        age = time.monotonic() - self._beaten_at if self._beaten_at is not None else 0.0
        return [f"database: nothing was written for {age:.0f} s"] if age > SILENT_BEAT_SECONDS else []

    def disk_faults(self) -> list[str]:
        """Return that SQLite's disk is nearly full."""
        path = self._transactions.database.file
        if path is None:
            return []
        free = shutil.disk_usage(path.parent).free
        return [f"disk: {free // 2**20} MiB left in {path.parent}"] if free < LOWEST_DISK else []

    def warnings(self) -> list[str]:
        """Return what an operator should look at although the portal serves."""
        return _warnings(self.oldest_due_seconds())

    def last_warnings(self) -> list[str]:
        """Return the warnings that ``faults`` has just found."""
        return _warnings(self._overdue_seconds)

    def clock_fault(self) -> str:
        """Return why a command must not judge time here, or an empty text. Raise SQLAlchemyError."""
        return self._transactions.machine.fault()

    def clock_ahead_seconds(self) -> float:
        """Return by how much this machine's clock is ahead of the database's; negative if it is behind."""
        return self._transactions.machine.seconds_ahead()

    def oldest_due_seconds(self) -> float:
        """Return how long the oldest due delivery has waited."""
        with self._transactions.read() as work:
            ages = [work.now - queue.since for kind in (CALLBACK, MESSAGE) for queue in due_queues(work, kind)]
        return max(ages, default=timedelta()).total_seconds()

    def audit_unsealed_seconds(self) -> float:
        """Return for how long the oldest audit event that is in no block yet has waited (E4)."""
        with self._transactions.read() as work:
            oldest = work.execute(select(func.min(AuditEvent.at)).where(text(UNSEALED))).scalar()
        return max(0.0, (work.now - oldest).total_seconds()) if oldest else 0.0

    def audit_blocks(self) -> int:
        """Return the number of the newest block of the audit trail."""
        with self._transactions.read() as work:
            return work.execute(select(func.max(AuditBlock.number))).scalar() or 0

    def counts(self) -> dict[str, dict[tuple[str, ...], int]]:
        """Return deliveries by kind and state, and verifications by journey and outcome, of the last 24 hours."""
        with self._transactions.read() as work:
            since = work.now - timedelta(days=1)
            deliveries: Any = work.execute(
                select(Delivery.kind, Delivery.state, func.count())
                .where(Delivery.created_at > since)
                .group_by(Delivery.kind, Delivery.state)
            ).all()
            verifications: Any = work.execute(
                select(Verification.slug, Verification.outcome, func.count())
                .where(Verification.began_at > since)
                .group_by(Verification.slug, Verification.outcome)
            ).all()
            channels: Any = work.execute(select(ChannelState.name, ChannelState.failures_in_row)).all()
        return {
            "deliveries": {(kind, state): count for kind, state, count in deliveries},
            "verifications": {(slug, outcome or "live"): count for slug, outcome, count in verifications},
            "channel_failures": {(name,): failures for name, failures in channels},
        }


def machine_at_work(database: Database, now: datetime) -> str:
    """Return the name of a machine on which a process of the portal is at work, "" if there is none.

    If one was within the last minute, this looks for the time of two of its small writes.
    """
    is_recent = Counter.ends_at > now - timedelta(seconds=SILENT_BEAT_SECONDS)
    counted = select(Counter.key, Counter.events, Counter.ends_at).where(Counter.key.startswith(HEARTBEAT), is_recent)

    def beats() -> dict[str, Any]:
        with database.read() as connection:
            return {row.key: row for row in connection.execute(counted)}

    before, until = beats(), time.monotonic() + 2 * BEAT_SECONDS + 1
    while before and time.monotonic() < until:
        time.sleep(BEAT_SECONDS / 10)
        for key, row in beats().items():
            if before.get(key) != row:
                return str(key.removeprefix(HEARTBEAT))
    return ""


def _warnings(overdue_seconds: float) -> list[str]:
    is_silent = overdue_seconds > SILENT_SECONDS
    return [f"dispatcher: a delivery has been due for {overdue_seconds:.0f} s"] if is_silent else []
