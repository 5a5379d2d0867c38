"""What /metrics and /readyz cost with 1,000,000 verifications and 13 months of counts, on SQLite and PostgreSQL; and
what a verification would pay if its counts were written in its own transaction.

Takes about two minutes. `python -m bench metrics [--database sqlite|postgresql]`
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from sqlalchemy import insert, text

from auth_portal.clock import system_clock
from auth_portal.services.operations.health import adding
from auth_portal.store.db import Database
from auth_portal.store.models import ALL_HOURS, HourlyCount
from bench.lists import a_database
from bench.many import fill
from bench.portal import Quick, cpu_seconds
from tests.postgres import install
from tests.receiver import Receiver
from tests.serving import Server, serving
from tests.world import CONFIG, STANDARD, configure

LIMIT_MS = 20
ROUNDS = 201
HOURS = 396 * 24
SERIES = 60  # that count in an hour: a portal with a few journeys, channels and countries
ROUTES = 120  # templates, methods and classes of status that were ever asked for
WRITERS, SECONDS = 8, 3.0


def main(databases: list[str]) -> int:
    """Measures; 1 where an answer took longer than it may."""
    is_well = True
    for name in databases:
        with tempfile.TemporaryDirectory(prefix="bench-metrics-") as folder, a_database(name, Path(folder)) as url:
            is_well = measure(name, url, Path(folder)) and is_well
    return 0 if is_well else 1


def measure(name: str, url: str, folder: Path) -> bool:
    """Prints the times of each answer; whether all medians are low enough."""
    install(folder, url)
    receiver = Receiver()
    configure(url, receiver, CONFIG + STANDARD)
    fill(url, ("verifications", "deliveries"))
    rows = count_hours(url)
    print(f"{name}: 1,000,000 verifications, {rows:,} counts of hours", flush=True)
    is_well = True
    settings = {"PORTAL_DISPATCH": "off"}  # what it does meanwhile is not measured
    with serving(Server(folder, url, server="auth-portal", workers=2, app="app:app", settings=settings)) as server:
        quick = Quick(server.port)
        for path in ("/healthz", "/readyz", "/metrics"):
            before = cpu_seconds(server)
            times = sorted(timed(lambda path=path: quick.get(path)) for _ in range(ROUNDS))  # type: ignore[misc]
            median, late = times[ROUNDS // 2], times[int(ROUNDS * 0.95)]
            cpu = (cpu_seconds(server) - before) / ROUNDS * 1000
            mark = "" if median < LIMIT_MS else "  <-- over"
            figures = f"quickest {times[0]:5.1f}, median {median:5.1f}, p95 {late:5.1f} ms; CPU {cpu:5.1f} ms"
            print(f"  {path:10} {figures}{mark}", flush=True)
            is_well = is_well and median < LIMIT_MS
        lines = quick.get("/metrics").count("\n")
    print(f"  /metrics has {lines:,} lines")
    for what, labels in (("one row for all", lambda _n: "[]"), ("a row for each", lambda n: f"[{n}]")):
        print(f"  {WRITERS} writers that count in their own transaction, {what}: {commits(url, labels):,.0f} commits/s")
    print(f"  the same without a count: {commits(url, None):,.0f} commits/s")
    receiver.close()
    return is_well


def timed(act: Callable[[], object]) -> float:
    """Milliseconds of an act."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def count_hours(url: str) -> int:
    """Write what a busy portal has counted in 13 months; return in how many rows."""
    now = system_clock().replace(minute=0, second=0, microsecond=0)
    database = Database(url)
    written = 0
    with database.write_much() as connection:
        for number in range(SERIES):
            name = ("verifications_ended", "deliveries_ended", "messages")[number % 3]
            labels = f'["journey-{number}", "verified", "sms_code"]'
            hours = [ALL_HOURS, *(now - timedelta(hours=hour) for hour in range(HOURS))]
            rows = [{"hour": hour, "name": name, "labels": labels, "value": 7.0} for hour in hours]
            connection.execute(insert(HourlyCount), rows)
            written += len(rows)
        for number in range(ROUTES):
            route = f'["/admin/page-{number}", "GET", "2xx"'
            parts = [("_sum", f"{route}]"), *(("_bucket", f'{route}, "{end}"]') for end in ("0.01", "0.025", "0.1"))]
            rows = [
                {"hour": ALL_HOURS, "name": f"request_seconds{part}", "labels": labels, "value": 9.0}
                for part, labels in parts
            ]
            connection.execute(insert(HourlyCount), rows)
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE hourly_counts"))
    database.close()
    return written


def commits(url: str, labels: Callable[[int], str] | None) -> float:
    """How many transactions a second several threads commit, each of which writes a row of its own and counts."""
    database = Database(url)
    done = [0] * WRITERS
    until = time.monotonic() + SECONDS

    def write(number: int) -> None:
        own = {"of_hour": ALL_HOURS, "of_name": "bench", "of_labels": f'["own {number}"]', "more": 1}
        shared = own | {"of_labels": labels(number)} if labels is not None else None
        statement = adding(database.engine.dialect.name)
        while time.monotonic() < until:
            with database.write() as connection:
                if shared is not None:
                    connection.execute(statement, shared)
                connection.execute(statement, own)
            done[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.close()
    return sum(done) / SECONDS
