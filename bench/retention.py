"""What it costs PostgreSQL to remove a day's verifications with their 1,000,000 deliveries and 1,000,000 attempts.

`python -m bench retention`
"""

from __future__ import annotations

import logging
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import inspect

from auth_portal.services.operations.retention import prune
from auth_portal.store.db import Database
from bench.lists import a_database
from tests.postgres import install
from tests.receiver import Receiver, wait_for
from tests.world import PHONE, World, open_world

VERIFICATIONS = 500_000  # each with a code by SMS and a result, one attempt for each of them
TABLES = ("verifications", "deliveries", "attempts")
DAYS = 31


def main() -> int:
    """Measure and print."""
    logging.getLogger("auth_portal").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name, a_database("postgresql", Path(name)) as url:
        install(Path(name), url)
        receiver = Receiver()
        with open_world(Path(name), url, receiver) as world:
            browser = world.browser()
            browser.begin("one")
            wait_for(lambda: receiver.messages)
            browser.prove(receiver.code_for(PHONE))
            wait_for(lambda: [row for row in receiver.callbacks if row.status])
            world.services.dispatcher.stop()
            with psycopg.connect(url, autocommit=True, options="-c statement_timeout=0") as connection:
                for table in TABLES:
                    connection.execute(f"CREATE TABLE bench_{table} AS SELECT * FROM {table}".encode())
                _measure(world, connection)
        receiver.close()
    return 0


def _measure(world: World, connection: psycopg.Connection[Any]) -> None:
    began = time.monotonic()
    _fill(world.database, connection)
    connection.execute("VACUUM ANALYZE")
    print(f"PostgreSQL, filled in {time.monotonic() - began:.0f} s  ({datetime.now(UTC):%Y-%m-%d})", flush=True)
    sizes, log, began = _sizes(connection), _log(connection), time.monotonic()
    world.clock.advance(DAYS * 86400)
    removed = prune(world.transactions)
    seconds, log = time.monotonic() - began, _log(connection) - log
    print(f"removed in {seconds:.0f} s: {removed['verifications']:,} verifications and what belongs to them")
    print(f"    {log / 2**20:,.0f} MiB of WAL, {log / VERIFICATIONS:,.0f} bytes for a verification")
    began = time.monotonic()
    connection.execute("VACUUM")
    print(f"    VACUUM after it: {time.monotonic() - began:.1f} s")
    for table, size in _sizes(connection).items():
        print(f"    {table:14} {sizes[table] / 2**20:6,.0f} MiB before, {size / 2**20:6,.0f} after")
    _fill(world.database, connection)
    for table, size in _sizes(connection).items():
        print(f"    {table:14} {size / 2**20:6,.0f} MiB with the next day in their place")


def _fill(database: Database, connection: psycopg.Connection[Any]) -> None:
    """Copy the one verification, with what was sent for it, a day's number of times."""
    for table in TABLES:
        names = [column["name"] for column in inspect(database.engine).get_columns(table) if "computed" not in column]
        changed = {
            "id": "left(t.id, 20) || md5(t.id || n)::char(12)",
            "verification_id": "left(t.verification_id, 20) || md5(t.verification_id || n)::char(12)",
            "delivery_id": "left(t.delivery_id, 20) || md5(t.delivery_id || n)::char(12)",
            "reference_hash": "sha256((t.id || n)::bytea)",
            "lane": "sha256((t.id || n)::bytea)",
        }
        values = ", ".join(changed.get(name, f"t.{name}") for name in names)
        connection.execute(
            f"INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM bench_{table} t,"
            f" generate_series(1, {VERIFICATIONS}) n".encode()
        )


def _sizes(connection: psycopg.Connection[Any]) -> dict[str, int]:
    found = ((table, connection.execute("SELECT pg_total_relation_size(%s)", [table]).fetchone()) for table in TABLES)
    return {table: int(row[0]) for table, row in found if row}


def _log(connection: psycopg.Connection[Any]) -> int:
    found = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
    return int(found[0]) if found else 0
