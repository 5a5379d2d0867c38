"""The portal behind a real pgbouncer in transaction mode: each transaction may get another connection of the server.

``TEST_POOLER=1`` puts one in front of all other tests with PostgreSQL.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psycopg
import pyotp
import pytest
from sqlalchemy import make_url

from auth_portal.clock import system_clock
from auth_portal.errors import Misconfigured
from auth_portal.services.operations.backups import PostgresEngine
from auth_portal.services.operations.installation import examine, initialise, upgrade
from auth_portal.services.serving import build
from auth_portal.settings import Settings, read_settings
from auth_portal.store.db import Database, schema_fault
from tests.pooler import Pooler
from tests.postgres import MASTER_KEY, make_database
from tests.programs import Program
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.serving import Server, Visitor, serving
from tests.store.conftest import CONNECTIONS
from tests.test_migrations import migrated
from tests.test_servers import configured
from tests.world import TOTP_SECRET

BOUNDS = ("20s", "10s")


@pytest.fixture
def url(postgres_server: str, postgres_url: str, pooler_of_three: Pooler) -> str:
    """An installed database, through pgbouncer."""
    return pooler_of_three.url(str(make_url(postgres_url).database))


def bounds(url: str) -> set[tuple[str, str]]:
    """The time-outs that transactions have now, on every connection of the server that pgbouncer lends."""
    found = set()
    with ExitStack() as together:
        for _ in range(CONNECTIONS):
            connection = together.enter_context(psycopg.connect(url))  # in a transaction: each has one of its own
            shown = (connection.execute(f"SHOW {name}").fetchone() for name in SETTINGS)
            found.add(tuple(str(one[0]) for one in shown if one))
    return found  # type: ignore[return-value]


SETTINGS = ("statement_timeout", "idle_in_transaction_session_timeout")


def dispatcher(folder: Path, url: str) -> Program:
    environment = {
        "PATH": str(Path(sys.executable).parent), "PORTAL_INSTANCE": str(folder), "PORTAL_DATABASE_URL": url,
        "PORTAL_SECRET_KEYS": MASTER_KEY, "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
    }  # fmt: skip
    log = folder / "dispatch.log"
    return Program(["auth-portal", "dispatch"], environment, out=log, err=log)


def verify(server: Server, reference: str, customer: str = "C-1001") -> None:
    visitor = Visitor(server.url)
    visitor.begin(reference, "app", customer)
    answer = visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
    assert answer.headers["Location"].partition("?")[0] == "/done"


def test_customers_are_verified_and_two_dispatchers_send_each_result_once(
    tmp_path: Path, url: str, receiver: Receiver
) -> None:
    customers = "".join(f"P-{number},{TOTP_SECRET}\n" for number in range(20))
    configured(tmp_path, url, receiver)
    file = tmp_path / "customers.csv"
    file.write_text(f"customer_id,totp_secret\n{customers}")
    environment = {
        "PATH": str(Path(sys.executable).parent), "PORTAL_INSTANCE": str(tmp_path), "PORTAL_DATABASE_URL": url,
        "PORTAL_SECRET_KEYS": MASTER_KEY,
    }  # fmt: skip
    out = tmp_path / "import.log"
    brought = Program(["auth-portal", "customers", "import", str(file)], environment, out=out, err=out)
    assert brought.wait(GIVE_UP_SECONDS) == 0, out.read_text()
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    dispatchers = [dispatcher(folder, url) for folder in folders]
    try:
        with serving(Server(tmp_path, url, workers=2, settings={"PORTAL_DISPATCH": "off"})) as server:
            for number in range(20):
                verify(server, f"r-{number}", f"P-{number}")
            wait_for(lambda: len(receiver.callbacks) >= 20)
    finally:
        for running in dispatchers:
            running.terminate()
        assert [running.wait(GIVE_UP_SECONDS) for running in dispatchers] == [0, 0]
    assert sorted(call.header for call in receiver.callbacks) == sorted(f"r-{number}" for number in range(20))


def test_a_portal_is_installed_and_upgraded(
    tmp_path: Path, postgres_server: str, pooler_of_three: Pooler, receiver: Receiver
) -> None:
    name = f"pooled_{os.getpid()}"
    make_database(postgres_server, name, "template0")
    url = pooler_of_three.url(name)
    settings = Settings(instance=tmp_path, database_url=url, secret_keys=(MASTER_KEY,))
    initialise(settings, system_clock)
    with closing(Database(url)) as database:
        migrated(database, "0003")  # back over migrations that make indexes while others write
    assert schema_fault(url) is not None
    upgrade(settings, system_clock)
    assert schema_fault(url) is None
    end_connections(make_url(postgres_server).set(database=name).render_as_string(), url)
    # Also where no connection of the portal has set them: by its role.
    assert bounds(url) == {BOUNDS}


def test_migrations_leave_no_setting_to_others(url: str) -> None:
    with closing(Database(url)) as database, database.migrating() as connection, connection.begin():
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "0"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "10s"
    with closing(Database(url)) as database, database.write() as connection:
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "0"
    assert bounds(url) == {BOUNDS}


def test_one_process_at_a_time_migrates(url: str) -> None:
    """A lock of the session would be the lock of whichever connection pgbouncer lent, and given to the next one."""
    order = list[str]()

    def second() -> None:
        with closing(Database(url)) as database, database.migrating():
            order.append("second")

    with closing(Database(url)) as database:
        with database.migrating() as connection:
            thread = threading.Thread(target=second)
            thread.start()
            for _ in range(20):  # transactions between those of the migration
                with connection.begin():
                    connection.exec_driver_sql("SELECT 1")
                with database.read() as other:
                    other.exec_driver_sql("SELECT pg_sleep(0.02)")
            order.append("first")
        thread.join(GIVE_UP_SECONDS)
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    "act", [lambda engine: engine.write(Path("none.dump")), lambda engine: engine.alone(system_clock).__enter__()]
)
def test_a_backup_wants_the_server_itself(tmp_path: Path, url: str, act: Callable[[PostgresEngine], object]) -> None:
    """pg_dump sets what the portal's next transaction would find: a search path without its tables, for one."""
    engine = PostgresEngine(url)
    with pytest.raises(Misconfigured, match="leads to a pooler"):
        act(engine)


def end_connections(postgres_url: str, url: str) -> None:
    """End all connections of the server to a database, and return when pgbouncer lends others in their place."""
    with psycopg.connect(postgres_url, autocommit=True) as direct:
        direct.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    def lends_others() -> bool:
        with suppress(psycopg.Error):  # it may lend one before it has read that it is ended
            return bool(bounds(url))
        return False

    wait_for(lends_others)


def test_the_doctor_says_if_transactions_have_no_time_out(
    tmp_path: Path, url: str, postgres_url: str, receiver: Receiver
) -> None:
    configured(tmp_path, url, receiver)
    with psycopg.connect(postgres_url) as direct:
        direct.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {direct.info.dbname} RESET ALL".encode())
    end_connections(postgres_url, url)
    settings = read_settings({
        "PORTAL_INSTANCE": str(tmp_path), "PORTAL_DATABASE_URL": url, "PORTAL_SECRET_KEYS": MASTER_KEY,
        "PORTAL_SANDBOX": "1",
    })  # fmt: skip

    def faults() -> list[str]:
        found = examine(settings, lambda known: build(known, system_clock))
        return [one.detail for one in found if one.subject == "time-outs"]

    assert ["statement_timeout" in text and "db upgrade" in text for text in faults()] == [True]
    upgrade(settings, system_clock)
    end_connections(postgres_url, url)
    assert faults() == []
