"""What probes hear while something is wrong: the truth, in time, and why (D10, D11)."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest
import requests
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from auth_portal.crypto import OWASP_HASHER
from auth_portal.services.operations import health
from tests.faults.relay import Relay
from tests.programs import ROOT
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.security.test_slow_clients import connected, head
from tests.security.tools import logged
from tests.serving import Server, serving
from tests.test_servers import configured
from tests.world import World


@pytest.fixture
def relay(postgres_url: str) -> Iterator[Relay]:
    running = Relay(postgres_url).start()
    yield running
    running.go_on()
    running.cut()


def ready(server: Server) -> requests.Response:
    return requests.get(f"{server.url}/readyz", timeout=GIVE_UP_SECONDS)


def test_d10_probes_answer_while_the_network_is_silent(
    tmp_path: Path, postgres_url: str, relay: Relay, receiver: Receiver
) -> None:
    """Every thread waits for a database that neither answers nor refuses, and will until this test lets it answer."""
    configured(tmp_path, postgres_url, receiver)
    with serving(Server(tmp_path, relay.url)) as server, ExitStack() as stack:
        assert ready(server).status_code == 200
        relay.fall_silent()
        stack.callback(relay.go_on)
        pages = [
            head("GET", "/verify", "Cookie: verification=x", to=server),
            head("GET", "/admin/", "Cookie: admin=x", to=server),
        ]
        for page in pages * 4:
            stack.enter_context(connected(server, page))
        for _ in range(3):
            assert requests.get(f"{server.url}/healthz", timeout=GIVE_UP_SECONDS).status_code == 200
            answer = ready(server)
            assert (answer.status_code, answer.json()["faults"][0][:9]) == (503, "database:")
            assert answer.elapsed.total_seconds() < 10
        relay.go_on()
        wait_for(lambda: ready(server).status_code == 200)


def test_d11_a_disk_that_cannot_be_written_is_a_reason(small_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client, engine, heart = (
        small_world.app.test_client(),
        small_world.transactions.database.engine,
        small_world.services.health,
    )
    heart.beat()
    assert client.get("/readyz").json == {"ready": True, "faults": [], "warnings": []}
    for why in ("database or disk is full", "attempt to write a readonly database"):

        def refuse(_connection: object, why: str = why) -> None:
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError(why))

        event.listen(engine, "commit", refuse)
        with pytest.raises(OperationalError) as fault:
            heart.beat()
        event.remove(engine, "commit", refuse)
        assert why in str(fault.value)
        answer = client.get("/readyz")
        assert (answer.status_code, answer.get_json()["faults"]) == (503, [f"database: nothing can be written: {why}"])
    heart.beat()
    assert client.get("/readyz").status_code == 200
    monkeypatch.setattr(health, "SILENT_BEAT_SECONDS", -1)
    assert "nothing was written for" in client.get("/readyz").get_json()["faults"][0]
    monkeypatch.setattr(health, "SILENT_BEAT_SECONDS", 15)
    monkeypatch.setattr(health, "LOWEST_DISK", 2**70)
    assert client.get("/readyz").get_json()["faults"][0].startswith("disk: ")


def anonymous_mib() -> float:
    """The memory of this process that no file has."""
    (line,) = [one for one in Path("/proc/self/smaps_rollup").read_text().splitlines() if one.startswith("Anonymous:")]
    return int(line.split()[1]) / 1024


def test_a_heartbeat_gives_the_memory_of_hashes_back_unless_one_is_under_way(small_world: World) -> None:
    passwords, heart = small_world.services.customers._passwords, small_world.services.health
    stored = OWASP_HASHER.hash("correct horse")  # 19 MiB, whatever the other tests hash with

    for _ in range(2):  # the C library keeps what the first one used, for the next one
        assert passwords.matches(stored, "correct horse")
    held = anonymous_mib()
    with passwords.slot():
        heart.beat()
        assert anonymous_mib() > held - 4
    heart.beat()
    assert anonymous_mib() < held - 15


def test_d11_a_process_that_was_asked_to_stop_drains(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    """It says so to probes and goes on serving, so that a load balancer can take it out before it is gone."""
    server = configured(
        tmp_path, sqlite_url, receiver, server="gunicorn-preload", settings={"PORTAL_DRAIN_SECONDS": "300"}
    )
    with serving(server):
        assert ready(server).status_code == 200
        os.kill(server.process.pid, signal.SIGTERM)
        wait_for(lambda: ready(server).status_code == 503)
        assert ready(server).json()["faults"] == ["draining: this process was asked to stop and takes no new customers"]
        assert requests.get(f"{server.url}/?reference=abc", timeout=GIVE_UP_SECONDS).status_code == 200
        for process in psutil.Process(server.process.pid).children():
            process.kill()


def test_d11_a_server_that_drains_is_reached_by_its_unix_socket_too(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    """As nginx reaches it; and it starts again although the socket is still there."""
    settings = {"PORTAL_DRAIN_SECONDS": "300", "PORTAL_TRUSTED_PROXIES": "1"}
    server = configured(tmp_path, sqlite_url, receiver, settings=settings)
    path = tmp_path / "portal.sock"
    server._command += ["--bind", f"unix:{path}"]

    def ask(target: str) -> int:
        with closing(HTTPConnection("127.0.0.1", server.port)) as connection, socket.socket(socket.AF_UNIX) as way:
            way.connect(str(path))
            connection.sock = way
            connection.request("GET", target, headers={"X-Forwarded-For": "192.0.2.1"})
            return connection.getresponse().status

    for _start in range(2):
        with serving(server):
            assert ask("/readyz") == 200
            os.kill(server.process.pid, signal.SIGTERM)
            wait_for(lambda: ask("/readyz") == 503)
            assert ask("/?reference=abc") == 200
            server.kill()
        assert path.is_socket()


def test_draining_comes_before_the_time_in_which_gunicorn_waits_for_its_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seconds, limit in (("", 30), ("0", 30), ("120", 150), ("nonsense", 30)):  # the last one prevents the start
        monkeypatch.setenv("PORTAL_DRAIN_SECONDS", seconds)
        assert runpy.run_path(str(ROOT / "gunicorn.conf.py"))["graceful_timeout"] == limit


def test_a_fault_of_the_database_says_why_and_where(small_world: World) -> None:
    browser = small_world.browser()
    browser.open("abc")

    def refuse(_connection: object) -> None:
        raise OperationalError("COMMIT", {}, sqlite3.OperationalError("database or disk is full"))

    engine = small_world.transactions.database.engine
    event.listen(engine, "commit", refuse)
    with logged() as log:
        assert browser.post("/", follow=False, decline="not_me", identifier="").status_code == 503
    event.remove(engine, "commit", refuse)
    (fault,) = (json.loads(line) for line in log.getvalue().splitlines() if "request_fault" in line)
    assert fault["why"] == "database or disk is full"
    assert fault["where"][0].startswith("db.py:")
