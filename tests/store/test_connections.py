"""How many connections a process opens to PostgreSQL."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import TimeoutError as PoolTimeout

from auth_portal.clock import system_clock
from auth_portal.services.serving import build
from auth_portal.settings import read_settings
from auth_portal.store import db
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


def test_statements_are_kept_parsed_and_their_plans_made_anew(postgres_url: str) -> None:
    """A plan that was made while a table was empty would read all of it when it has grown."""
    with closing(db.Database(postgres_url)) as database, database.read() as connection:
        for _ in range(db.PREPARE_AFTER + 2):
            connection.execute(text("SELECT count(*) FROM deliveries WHERE state = :state"), {"state": "pending"})
        kept = "SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%deliveries%'"
        assert len(connection.execute(text(kept)).all()) == 1
        assert connection.execute(text("SHOW plan_cache_mode")).scalar_one() == "force_custom_plan"


def test_a_pooler_is_given_no_prepared_statement(postgres_url: str, pooler_of_three: Pooler) -> None:
    url = pooler_of_three.url(str(make_url(postgres_url).database))
    with closing(db.Database(url)) as database:
        for _ in range(db.PREPARE_AFTER + 2):
            with database.read() as connection:
                connection.execute(text("SELECT count(*) FROM deliveries"))
                found = connection.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar_one()
                assert found == 0


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
