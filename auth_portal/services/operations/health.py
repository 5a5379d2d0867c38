"""Whether this process can do its job, whether its clock is right, and the numbers that an operator watches."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache, lru_cache
from socket import gethostname
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, literal_column, select, text
from sqlalchemy.exc import SQLAlchemyError

from auth_portal.services import limits
from auth_portal.services.delivery.queues import due_queues
from auth_portal.services.limits import Limit
from auth_portal.store.db import Database, Transactions, Work, dialect_insert, hour_of, table_state
from auth_portal.store.keys import has_data_keys
from auth_portal.store.models import (
    ALL_HOURS,
    CALLBACK,
    EVENT,
    MESSAGE,
    UNSEALED,
    AuditBlock,
    AuditEvent,
    ChannelState,
    Counter,
    Delivery,
    DeliveryState,
    HourlyCount,
    Journey,
    Verification,
    table_of,
)
from auth_portal.telemetry import log_event, logger, metric_of, reason_of

LOOK_SECONDS = 1.5  # that a probe waits for the database; load balancers mostly wait 2 s
HEARTBEAT = "heartbeat:"  # the counters of small writes, by machine
BEAT_SECONDS = 5.0  # between two small writes
SILENT_BEAT_SECONDS = 15  # without one
LOWEST_DISK = 64 * 2**20  # free bytes for SQLite: its log alone may grow to some of that
MOST_WAITING = 10_000  # deliveries, or live verifications, that are counted, so that a backlog makes no count slow
SILENT_SECONDS = 30  # a delivery that has been due for this long shows that no dispatcher is at work


class Health:
    """Answer probes: within LOOK_SECONDS, whatever the database does, and without writing anything.

    What only a write can show, such as a full disk, is known from a small one that ``beat`` makes in the background.
    ``give_memory_back`` is called there, too.
    """

    def __init__(self, transactions: Transactions, give_memory_back: Callable[[], None]) -> None:
        self._transactions = transactions
        self._give_memory_back = give_memory_back
        self._lock = threading.Lock()
        self._look: Future[list[str]] | None = None
        self._look_ends_at = 0.0  # by time.monotonic(): a probe that joins it waits no longer than the first
        self._beaten_at: float | None = None  # by time.monotonic(); None until a first beat
        self._why_no_beat = ""
        self._overdue_seconds = 0.0
        self.is_draining = False  # the process was asked to stop, and only finishes what has begun

    def beat(self) -> bool:
        """Write one row, and what this process has counted. Return False: that is all.

        Raise what the database raises; then the counts are written with the next beat. A process that is killed loses
        those of the last BEAT_SECONDS.
        """
        if self._beaten_at is None:
            self._beaten_at = time.monotonic()
        self._give_memory_back()
        try:
            with self._writing_counts() as work:
                limits.take(work, [Limit(f"{HEARTBEAT}{gethostname()}", sys.maxsize, 60)])
            self._transactions.machine.is_right()
        except Exception as error:
            self._why_no_beat = reason_of(error) or type(error).__name__
            raise
        self._beaten_at, self._why_no_beat = time.monotonic(), ""
        return False

    def write_counts(self) -> None:
        """Write what this process has counted, if the database can be written: the process ends."""
        if self._transactions.counts.is_empty():
            return
        try:
            with self._writing_counts():
                pass
        except (SQLAlchemyError, OSError) as fault:  # a TimeoutError among them
            log_event("counts_lost", level=logging.WARNING, why=reason_of(fault) or type(fault).__name__)

    @contextmanager
    def _writing_counts(self) -> Iterator[Work]:
        """Yield a writing transaction that adds the counts of this process to those of all."""
        counts = self._transactions.counts
        taken = counts.take()
        try:
            with self._transactions.write() as work:
                now = hour_of(work.now)
                rows = [
                    {"of_hour": one, "of_name": key.name, "of_labels": json.dumps(key.labels), "more": value}
                    for key, value in taken.items()
                    for one in (ALL_HOURS, key.hour or now)
                    if one is ALL_HOURS or metric_of(key.name).has_hours
                ]
                if rows:
                    # In the order of their keys, so that no two processes wait for each other.
                    rows.sort(key=lambda row: (row["of_hour"], row["of_name"], row["of_labels"]))
                    work.execute(adding(work.connection.dialect.name), rows)
                yield work
        except BaseException:
            counts.put_back(taken)
            raise

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
        with self.measuring() as measured:
            return max(measured.due_seconds().values())

    @contextmanager
    def measuring(self) -> Iterator[Measurements]:
        """Yield what can be measured, all of it over one connection."""
        with self._transactions.read() as work:
            yield Measurements(work)


class Measurements:
    """The numbers that an operator watches. Each costs a few steps in an index, whatever is stored."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def due_seconds(self) -> dict[str, float]:
        """Return how long the oldest due delivery of each kind has waited, 0 if none is due."""
        work = self.work
        since = {kind: [queue.since for queue in due_queues(work, kind)] for kind in (CALLBACK, MESSAGE)}
        return {
            kind: max(0.0, (work.now - min(times, default=work.now)).total_seconds()) for kind, times in since.items()
        }

    def waiting(self) -> dict[str, int]:
        """Return how many deliveries of each kind are under way, up to MOST_WAITING of each: none hides another."""
        is_pending = Delivery.state == literal_column(f"'{DeliveryState.PENDING}'")  # the words of the index
        return {kind: self._count(is_pending, Delivery.kind == kind) for kind in (CALLBACK, MESSAGE, EVENT)}

    def _count(self, *which: ColumnElement[bool]) -> int:
        some = select(literal_column("1")).where(*which).limit(MOST_WAITING).subquery()
        return self.work.execute(select(func.count()).select_from(some)).scalar_one()

    def audit_unsealed_seconds(self) -> float:
        """Return for how long the oldest audit event that is in no block yet has waited (E4)."""
        work = self.work
        unsealed = select(AuditEvent.at).where(text(UNSEALED)).order_by(AuditEvent.id).limit(1)
        oldest = work.execute(unsealed).scalar()
        return max(0.0, (work.now - oldest).total_seconds()) if oldest else 0.0

    def audit_blocks(self) -> int:
        """Return the number of the newest block of the audit trail."""
        work = self.work
        return work.execute(select(func.max(AuditBlock.number))).scalar() or 0

    def channel_failures(self) -> dict[str, int]:
        """Return the failures in a row of each channel."""
        work = self.work
        found = work.execute(select(ChannelState.name, ChannelState.failures_in_row))
        return {row.name: row.failures_in_row for row in found}

    def totals(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return all that all processes have counted, by the name and by the values of its labels."""
        work = self.work
        counted = select(HourlyCount.name, HourlyCount.labels, HourlyCount.value)
        return _by_name(work.execute(counted.where(HourlyCount.hour == ALL_HOURS)))

    def last_day(self, *names: str) -> dict[str, dict[tuple[str, ...], float]]:
        """Return what was counted under these names in this hour and the 24 before it."""
        work = self.work
        is_recent = HourlyCount.hour >= work.now - timedelta(hours=25), HourlyCount.name.in_(names)
        total = func.sum(HourlyCount.value)
        counted = select(HourlyCount.name, HourlyCount.labels, total).where(*is_recent)
        return _by_name(work.execute(counted.group_by(HourlyCount.name, HourlyCount.labels)))

    def live(self) -> dict[str, int]:
        """Return how many verifications of each journey are live.

        If there are MOST_WAITING or more, return those among the newest MOST_WAITING of each: none hides another.
        """
        work = self.work
        live = select(Verification.slug).where(Verification.outcome.is_(None)).limit(MOST_WAITING).subquery()
        found = work.execute(select(live.c.slug, func.count().label("verifications")).group_by(live.c.slug))
        counts = {row.slug: row.verifications for row in found}
        if sum(counts.values()) < MOST_WAITING:
            return counts
        for slug in work.execute(select(Journey.slug).distinct()).scalars().all():
            newest = select(Verification.outcome).where(Verification.slug == slug).order_by(Verification.id.desc())
            among = newest.limit(MOST_WAITING).subquery()
            number = work.execute(select(func.count()).select_from(among).where(among.c.outcome.is_(None))).scalar_one()
            counts |= {slug: max(number, counts.get(slug, 0))} if number else {}
        return counts


def _by_name(rows: Any) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for name, labels, value in rows:
        found.setdefault(name, {})[_labels(labels)] = value
    return found


@lru_cache(10_000)
def _labels(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


@cache
def adding(dialect: str) -> Any:
    """Return the upsert that adds to a count."""
    counts = table_of(HourlyCount)
    insert = dialect_insert(dialect, counts).values(
        hour=bindparam("of_hour"), name=bindparam("of_name"), labels=bindparam("of_labels"), value=bindparam("more")
    )
    total = counts.c.value + insert.excluded.value
    return insert.on_conflict_do_update(index_elements=["hour", "name", "labels"], set_={"value": total})


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
