"""``auth-portal serve`` on a unix socket: who gets in, what a killed server leaves, and how a start that fails ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from auth_portal.store.db import Database
from tests.postgres import MASTER_KEY
from tests.programs import Program
from tests.receiver import GIVE_UP_SECONDS, wait_for


class Node:
    """Servers that are started one after another, or at the same time, with one configuration."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder, self.path, self.log = folder, folder / "portal.sock", folder / "server.log"
        self.environment = {
            "PATH": os.environ["PATH"],
            "PORTAL_BIND": f"unix:{self.path}",
            "PORTAL_DATABASE_URL": database_url,
            "PORTAL_INSTANCE": str(folder),
            "PORTAL_SECRET_KEYS": MASTER_KEY,
            "PORTAL_TRUSTED_PROXIES": "1",
            "PORTAL_WORKERS": "1",
        }

    @contextmanager
    def start(self, *program: str, **settings: str) -> Iterator[Program]:
        """Start a server, without waiting for it; at the end no process of it is left."""
        program = program or ("auth-portal", "serve")
        started = Program(program, {**self.environment, **settings}, out=self.log, err=self.log)
        try:
            yield started
        finally:
            kill(started)

    @contextmanager
    def serving(self, *program: str, **settings: str) -> Iterator[Program]:
        """Start a server that answers within the block."""
        with self.start(*program, **settings) as started:
            wait_for(lambda: self.answers() or started.poll() is not None)
            assert started.poll() is None, self.log.read_text()
            yield started

    def refused(self, *program: str, **settings: str) -> tuple[int, str]:
        """Start a server that must not serve; return its status and what it says."""
        before = len(self.log.read_text()) if self.log.exists() else 0
        with self.start(*program, **settings) as started:
            return started.wait(GIVE_UP_SECONDS), self.log.read_text()[before:]

    def answers(self) -> bool:
        """Whether a server answers, and is ready."""
        with (
            closing(HTTPConnection("localhost", timeout=GIVE_UP_SECONDS)) as http,
            socket.socket(socket.AF_UNIX) as way,
        ):
            try:
                way.connect(str(self.path))
                http.sock = way
                http.request("GET", "/readyz")
                return http.getresponse().status == 200
            except (OSError, HTTPException):
                return False

    @property
    def mode(self) -> int:
        """The mode of the socket."""
        return stat.S_IMODE(self.path.stat().st_mode)


def kill(server: Program) -> None:
    """Like a power cut."""
    try:
        os.killpg(server.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    server.wait(GIVE_UP_SECONDS)


def workers(server: Program) -> set[int]:
    return {process.pid for process in psutil.Process(server.pid).children()}


@pytest.fixture
def node(tmp_path: Path, sqlite_url: str) -> Node:
    return Node(tmp_path, sqlite_url)


def test_group_and_owner_alone_reach_the_socket_unless_another_mode_is_set(node: Node) -> None:
    with node.serving():
        assert node.mode == 0o660
    with node.serving(PORTAL_SOCKET_MODE="600"):
        assert node.mode == 0o600


def test_what_a_killed_server_leaves_is_replaced(node: Node) -> None:
    with node.serving() as server:
        kill(server)
        assert node.path.is_socket()
        assert not node.answers()
        with node.serving():
            assert node.answers()


def test_the_workers_of_a_killed_master_make_room(node: Node) -> None:
    """They listen until they notice, usually for a second; here one is held up until the next server has asked."""
    with node.serving() as server:
        (worker,) = workers(server)
        os.kill(worker, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGKILL)
        server.wait(GIVE_UP_SECONDS)
        with node.start() as second:
            wait_for(lambda: Path("/proc/net/unix").read_text().count(str(node.path)) > 1)  # a connection waits
            os.kill(worker, signal.SIGCONT)
            wait_for(lambda: second.poll() is not None or len(workers(second)) == 1)
            wait_for(lambda: second.poll() is not None or node.answers())
            assert second.poll() is None, node.log.read_text()


def test_a_killed_worker_is_replaced(node: Node) -> None:
    with node.serving() as server:
        wait_for(lambda: len(workers(server)) == 1)
        (worker,) = workers(server)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: bool(workers(server) - {worker}))
        wait_for(node.answers)
        assert server.poll() is None
    said = [json.loads(line) for line in node.log.read_text().splitlines()]  # gunicorn's own lines among them
    (reported,) = (line for line in said if "SIGKILL" in line["event"])
    assert reported["level"] in ("warning", "error")


@pytest.mark.parametrize("program", [("auth-portal", "serve"), ("gunicorn", "app:app")], ids=lambda words: words[0])
def test_the_socket_of_a_living_server_is_left_alone(node: Node, program: tuple[str, ...]) -> None:
    bind = ("--bind", f"unix:{node.path}")
    with node.serving() as first:
        status, said = node.refused(*program, *bind)
        assert status == os.EX_TEMPFAIL
        assert [line for line in said.splitlines() if "[INFO]" not in line] == [  # of gunicorn
            f"auth-portal: unix:{node.path} cannot be listened on: another server listens there."
        ]
        assert node.answers()
        assert first.poll() is None


def test_an_address_that_is_in_use_is_named(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        assert node.refused(PORTAL_BIND=place) == (
            os.EX_TEMPFAIL, f"auth-portal: {place} cannot be listened on: Address already in use.\n",
        )  # fmt: skip


def test_a_stop_ends_with_0_and_leaves_the_socket_for_the_next_start(node: Node) -> None:
    with node.serving() as server:
        server.terminate()
        assert server.wait(GIVE_UP_SECONDS) == 0
    assert node.path.is_socket()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"PORTAL_WORKERS": "0"}, "PORTAL_WORKERS: must be 1 or more."),
        ({"PORTAL_WORKERS": "many"}, "PORTAL_WORKERS: must be a whole number."),
        ({"PORTAL_POLL_SECONDS": "9"}, "PORTAL_POLL_SECONDS: must be 2.0 or less."),
        ({"PORTAL_DISPATCH": "maybe"}, "PORTAL_DISPATCH: must be 'inline' or 'off'."),
        ({"PORTAL_BIND": "127.0.0.1"}, "PORTAL_BIND: must be host:port"),
        ({"PORTAL_BIND": f"unix:/{'x' * 107}"}, "PORTAL_BIND: must name the path of a socket, of at most 107 bytes"),
        ({"PORTAL_BIND": "unix:/no/such/folder.sock"}, "unix:/no/such/folder.sock cannot be listened on: No such"),
        ({"PORTAL_BIND": "unix:app.py"}, "unix:app.py cannot be listened on: there is something that is not a socket"),
        ({"PORTAL_BIND": "192.0.2.1:8000"}, "192.0.2.1:8000 cannot be listened on: Cannot assign requested address"),
        ({"PORTAL_SOCKET_MODE": "rw"}, "PORTAL_SOCKET_MODE: must be three octal digits"),
        ({"PORTAL_TRUSTED_PROXIES": "0"}, "PORTAL_TRUSTED_PROXIES must be 1 or more"),
        (
            {"PORTAL_DATABASE_URL": "postgresql://portal:Summer/x@db/portal"},
            "PORTAL_DATABASE_URL: has no number for its",
        ),
        ({"PORTAL_METRICS_BIND": "127.0.0.1:08000", "PORTAL_BIND": "127.0.0.1:8000"}, "must have another port than"),
        ({"PORTAL_METRICS_TOKEN_FILE": "/dev/null"}, "PORTAL_METRICS_TOKEN_FILE: /dev/null is empty."),
        ({"PORTAL_DATABASE_URL": "postgresql//host/name"}, "PORTAL_DATABASE_URL: must begin with sqlite:/// or"),
        ({"PORTAL_DATABASE_URL": "mysql://host/name"}, "PORTAL_DATABASE_URL must begin with sqlite:/// or"),
        ({"PORTAL_SECRET_KEYS": "another-master-key-that-nothing-was-made-with"}, "do not belong to this database"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_work_ends_with_78_and_one_line(node: Node, settings: dict[str, str], says: str) -> None:
    status, said = node.refused(**settings)
    assert status == os.EX_CONFIG
    assert said.startswith("auth-portal: ")
    assert says in said
    assert "Summer" not in said
    assert said.count("\n") == 1
    assert not node.path.exists()


def test_tables_of_another_version_end_it_with_78(node: Node) -> None:
    with closing(Database(node.environment["PORTAL_DATABASE_URL"])) as database, database.write() as connection:
        connection.execute(text("UPDATE schema_state SET revision = '0001'"))
    status, said = node.refused()
    assert status == os.EX_CONFIG
    assert said.count("\n") == 1
    assert "Run `auth-portal db upgrade`" in said


def test_the_command_line_goes_before_the_environment(node: Node) -> None:
    with node.serving("auth-portal", "serve", "--workers", "2", PORTAL_WORKERS="1") as server:
        wait_for(lambda: len(workers(server)) == 2)
