"""A database that is away ends no process: it starts, answers 503, and goes on when the database is back (D9)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import requests
from sqlalchemy import make_url

from auth_portal.errors import Misconfigured
from auth_portal.settings import read_settings
from auth_portal.store.db import Database, schema_fault
from tests.faults.relay import Relay
from tests.postgres import MASTER_KEY
from tests.programs import Program
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.serving import Server, Visitor, free_port, serving
from tests.test_servers import configured

WORKERS = 2


@pytest.fixture
def relay(postgres_url: str) -> Iterator[Relay]:
    running = Relay(postgres_url)
    yield running
    running.cut()


def status(server: Server, path: str) -> int:
    return requests.get(server.url + path, timeout=GIVE_UP_SECONDS, allow_redirects=False).status_code


def workers(server: Server) -> set[int]:
    return {child.pid for child in psutil.Process(server.process.pid).children()}


def kill_a_worker(server: Server) -> None:
    before = workers(server)
    psutil.Process(min(before)).kill()
    wait_for(lambda: workers(server) - before)


@pytest.mark.parametrize("kind", ["gunicorn", "gunicorn-preload"])
def test_d09_a_server_outlives_its_database(
    tmp_path: Path, postgres_url: str, relay: Relay, receiver: Receiver, kind: str
) -> None:
    configured(tmp_path, postgres_url, receiver)
    with serving(Server(tmp_path, relay.url, server=kind, workers=WORKERS)) as server:
        page = requests.get(f"{server.url}/?reference=abc", timeout=GIVE_UP_SECONDS)
        assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
        assert "<h1" in page.text
        for path in ("/admin/", "/admin/none", "/api/v1/customers", "/readyz", "/verify"):
            assert status(server, path) == 503
        assert status(server, "/healthz") == 200
        kill_a_worker(server)
        assert status(server, "/?reference=abc") == 503

        relay.start()
        wait_for(lambda: server.log.read_text().count("private_callbacks_allowed") >= WORKERS)  # each serves
        wait_for(lambda: all(status(server, "/readyz") == 200 for _ in range(10)))
        visitor = Visitor(server.url)
        assert visitor.begin("abc", "app").status_code == 200

        relay.cut()
        wait_for(lambda: status(server, "/readyz") == 503)
        assert visitor.get("/verify").status_code == 503
        kill_a_worker(server)
        assert visitor.get("/verify").status_code == 503
        relay.start()
        wait_for(lambda: all(visitor.get("/verify").status_code == 200 for _ in range(10)))
        assert server.process.poll() is None


def test_d09_a_dispatcher_waits_for_its_database(
    tmp_path: Path, postgres_url: str, relay: Relay, receiver: Receiver
) -> None:
    configured(tmp_path, postgres_url, receiver)
    environment = {
        "PATH": str(Path(sys.executable).parent), "PORTAL_INSTANCE": str(tmp_path), "PORTAL_DATABASE_URL": relay.url,
        "PORTAL_SECRET_KEYS": MASTER_KEY, "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
    }  # fmt: skip
    log = tmp_path / "dispatch.log"
    dispatcher = Program(["flask", "--app", "app", "dispatch"], environment, out=log, err=log)
    try:
        wait_for(lambda: "database_is_away" in log.read_text())
        assert dispatcher.poll() is None
        relay.start()
        wait_for(lambda: "dispatcher_started" in log.read_text())
    finally:
        dispatcher.terminate()
        assert dispatcher.wait(GIVE_UP_SECONDS) == 0


def test_several_hosts_in_one_url(postgres_url: str, relay: Relay) -> None:
    """libpq's own form: the first host is away, the second one answers."""
    relay.start()
    url = make_url(relay.url)
    several = f"postgresql://{url.username}:@127.0.0.1:{free_port()},127.0.0.1:{relay.port}/{url.database}"
    for query in ("", "?target_session_attrs=read-write", "?target_session_attrs=read-write&application_name=portal"):
        settings = read_settings({"PORTAL_DATABASE_URL": several + query})
        assert schema_fault(settings.database) is None
        with closing(Database(settings.database)) as database, database.write() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    assert read_settings({"PORTAL_DATABASE_URL": "postgresql://u:p%40@h1,[::1]:5433/db"}).database == (
        "postgresql://u:p%40@/db?host=h1,::1&port=5432,5433"
    )
    for wrong in ("postgresql://h1:x,h2/db", "postgresql://h1:5432,/db", "postgresql://h1:x/db"):
        with pytest.raises(Misconfigured, match="PORTAL_DATABASE_URL"):
            read_settings({"PORTAL_DATABASE_URL": wrong})


def test_a_reload_refuses_no_request(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    """While HUP replaces the workers, every new connection and every kept one is answered."""
    with serving(configured(tmp_path, sqlite_url, receiver, workers=2)) as server, requests.Session() as kept:
        before = workers(server)
        page = f"{server.url}/?reference=abc"
        assert kept.get(page, timeout=GIVE_UP_SECONDS).status_code == 200
        os.kill(server.process.pid, signal.SIGHUP)
        while workers(server) & before:
            assert requests.get(page, timeout=GIVE_UP_SECONDS).status_code == 200
            assert kept.get(page, timeout=GIVE_UP_SECONDS).status_code == 200
        assert kept.get(page, timeout=GIVE_UP_SECONDS).status_code == 200
