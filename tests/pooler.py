"""A real pgbouncer in transaction mode, set up by ``deploy/pgbouncer/pgbouncer.ini``, in front of a PostgreSQL server.

``TEST_POOLER=1`` puts it in front of every PostgreSQL database that the tests use.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.programs import ROOT
from tests.proxies import PLACES, UNPACKED
from tests.receiver import GIVE_UP_SECONDS
from tests.serving import free_port

INI = ROOT / "deploy" / "pgbouncer" / "pgbouncer.ini"
USER = "embedded_postgres"  # as whom PostgreSQL runs where the tests are root; it is there once a server was made
PASSWORD = "a-password-of-pgbouncer"


class Pooler:
    """One pgbouncer, which can be killed and started again on the same port."""

    def __init__(self, folder: Path, server: str, *, host: str = "", port: int = 0, connections: int = 20) -> None:
        """Prepare one in front of the server of a URL, or of another ``host`` and ``port`` with the same databases."""
        there = make_url(server)
        self.folder, self.port, self._there = folder, free_port(), there
        host = host or str(there.query["host"])
        place = f"host={host} port={port or there.port or 5432}"
        text = INI.read_text()
        for delivered, here in {
            "portal = host=127.0.0.1 port=5432 dbname=portal": f"* = {place}",
            "listen_port = 6432": f"listen_port = {self.port}",
            "/etc/pgbouncer/userlist.txt": str(folder / "userlist.txt"),
            "default_pool_size = 20": f"default_pool_size = {connections}",
        }.items():
            assert text.count(delivered) == 1, delivered
            text = text.replace(delivered, here)
        self._ini = folder / "pgbouncer.ini"
        self._ini.write_text(f"{text}unix_socket_dir =\n")
        (folder / "userlist.txt").write_text(f'"{there.username}" "{PASSWORD}"\n')
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """The URL of a database of the server, through pgbouncer."""
        through = self._there.set(password=PASSWORD, host="127.0.0.1", port=self.port, database=database, query={})
        return through.render_as_string(hide_password=False)

    def start(self) -> Pooler:
        """Start it, and wait until it answers."""
        program = shutil.which("pgbouncer", path=PLACES)
        assert program is not None, "pgbouncer is missing: deploy/system-packages unpacks it"
        command = [program, "-q"]
        if os.getuid() == 0:  # which pgbouncer refuses to be
            command += ["-u", USER]
        libraries = ":".join(str(path) for path in UNPACKED.glob("usr/lib/*-linux-gnu"))
        with (self.folder / "pgbouncer.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, str(self._ini)], env={**os.environ, "LD_LIBRARY_PATH": libraries}, stdout=log, stderr=log
            )
        until = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < until:
            assert self.process.poll() is None, (self.folder / "pgbouncer.log").read_text()
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2):
                return self
            time.sleep(0.02)
        raise AssertionError((self.folder / "pgbouncer.log").read_text())

    def kill(self) -> None:
        """Like a power cut."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(GIVE_UP_SECONDS)


@contextmanager
def pooled(folder: Path, server: str, *, connections: int = 20) -> Iterator[Pooler]:
    """A pgbouncer for the time of a block."""
    pooler = Pooler(folder, server, connections=connections)
    try:
        yield pooler.start()
    finally:
        pooler.kill()


@pytest.fixture(scope="session")
def pooler(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooler | None]:
    """A pgbouncer in front of the tests' databases, if the run asks for one with ``TEST_POOLER=1``."""
    if os.environ.get("TEST_POOLER") != "1":
        yield None
        return
    with pooled(tmp_path_factory.mktemp("pooler"), postgres_server) as running:
        yield running
