"""How many connections a process opens to PostgreSQL."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, bindparam, make_url, select, text
from sqlalchemy.exc import TimeoutError as PoolTimeout

from auth_portal.clock import system_clock
from auth_portal.services.serving import build
from auth_portal.settings import read_settings
from auth_portal.store import db
from auth_portal.store.models import Counter
from tests.pooler import Pooler
from tests.postgres import MASTER_KEY


def test_a_process_opens_as_many_connections_as_its_setting_says(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "POOL_SECONDS", 0.05)
    settings = {"PORTAL_DATABASE_URL": postgres_url, "PORTAL_SECRET_KEYS": MASTER_KEY, "PORTAL_INSTANCE": str(tmp_path)}
    services = build(read_settings({**settings, "PORTAL_DATABASE_CONNECTIONS": "5"}), system_clock)
    with closing(services), ExitStack() as held:
        database = services.transactions.database
        for _ in range(5):
            held.enter_context(database.read())
        with pytest.raises(PoolTimeout), database.read():
            pass


_COUNTED = db.Compiled(select(Counter.events).where(Counter.key == bindparam("of")))
_KEPT = text("SELECT name FROM pg_prepared_statements")


def plan_in_use(connection: Connection) -> str:
    """The plan that the server would use for the one statement that it keeps."""
    name = connection.execute(_KEPT).scalar_one()
    return "".join(connection.execute(text(f"EXPLAIN EXECUTE {name}('abc')")).scalars())


def test_a_statement_is_kept_parsed_and_its_plan_for_a_while(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that was made while a table was empty would read all of it when it has grown."""
    with closing(db.Database(postgres_url)) as database:
        with database.write() as connection:
            connection.execute(text("ALTER TABLE counters SET (autovacuum_enabled = off)"))  # it ends plans, too
            connection.execute(text("ANALYZE counters"))
        with database.read() as connection:
            for _ in range(10):
                assert _COUNTED.run(connection, {"of": "abc"}) == ([], 0)
            assert "Seq Scan" in plan_in_use(connection)
        with closing(db.Database(postgres_url)) as other, other.write() as filling:
            filling.execute(text("INSERT INTO counters SELECT 'k' || n, 1, now() FROM generate_series(1, 9999) AS n"))
        with database.read() as connection:
            assert "Seq Scan" in plan_in_use(connection)
        monkeypatch.setattr(db, "PLAN_SECONDS", 0.0)
        with database.read() as connection:
            assert _COUNTED.run(connection, {"of": "k9"})[0][0].events == 1
            assert "Index Scan" in plan_in_use(connection)
        with database.write() as connection:
            connection.execute(text("ALTER TABLE counters RESET (autovacuum_enabled)"))


def test_a_pooler_is_given_no_prepared_statement(postgres_url: str, pooler_of_three: Pooler) -> None:
    url = pooler_of_three.url(str(make_url(postgres_url).database))
    with closing(db.Database(url)) as database:
        for _ in range(5):
            with database.read() as connection:
                _COUNTED.run(connection, {"of": "abc"})
                assert connection.execute(_KEPT).all() == []


def test_a_connection_that_rested_while_its_server_went_away_is_replaced(postgres_url: str) -> None:
    with closing(db.Database(postgres_url)) as database:
        with database.read() as connection:
            driver: Any = connection.connection.dbapi_connection
            first, record = driver.info.backend_pid, connection.info
        with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
        record["rests_since"] -= db.REST_SECONDS
        with database.read() as connection:
            assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != first
