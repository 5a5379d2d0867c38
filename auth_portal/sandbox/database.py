"""The sandbox's own SQLite file: opened per request, created on first use, bounded in size.

``synchronous=NORMAL`` because nothing here has to survive a power cut; WAL because several worker processes
read while one writes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

SCHEMA_VERSION = 2
KEPT_ROWS = {"conversations": 500, "lines": 5000, "callbacks": 2000, "messages": 500}
SCHEMA = """
CREATE TABLE conversations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    reference TEXT NOT NULL UNIQUE,
    card TEXT NOT NULL,
    link TEXT NOT NULL,
    style TEXT NOT NULL,
    fault TEXT NOT NULL,
    phone TEXT NOT NULL,
    api_call TEXT,
    is_attack INTEGER NOT NULL,
    round INTEGER NOT NULL DEFAULT 1,
    stage TEXT NOT NULL DEFAULT 'waiting',
    wrong_codes INTEGER NOT NULL DEFAULT 0,
    result TEXT,
    data TEXT,
    heard_at REAL NOT NULL
);
CREATE TABLE lines (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
    speaker TEXT NOT NULL,
    text TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE INDEX lines_of ON lines(conversation);
CREATE TABLE callbacks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation TEXT REFERENCES conversations(id) ON DELETE CASCADE,
    round INTEGER NOT NULL,
    path TEXT NOT NULL,
    header TEXT,
    body TEXT NOT NULL,
    status INTEGER,
    is_accepted INTEGER NOT NULL,
    why TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE INDEX callbacks_of ON callbacks(conversation);
CREATE TABLE messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    recipient TEXT NOT NULL,
    recipient_key TEXT NOT NULL,
    subject TEXT NOT NULL,
    text TEXT NOT NULL,
    html TEXT NOT NULL,
    at REAL NOT NULL
);
"""


class SandboxFile:
    """Open short-lived connections to one file; the constructor opens nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection whose statements all see the same state."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a transaction, committed at the end of the block and rolled back if it raises."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, timeout=5, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = NORMAL")
        if connection.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
            _use_wal(connection)
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:  # else a worker was faster
                # The content of an earlier release's tables is not worth migrating.
                old = [f"DROP TABLE IF EXISTS {table}" for table in reversed(KEPT_ROWS)]
                for statement in (*old, *SCHEMA.split(";"), f"PRAGMA user_version = {SCHEMA_VERSION}"):
                    connection.execute(statement)
            connection.execute("COMMIT")
        return connection


def prune(connection: sqlite3.Connection, table: str) -> None:
    """Delete all but the newest rows of a table, so that no script fills the disk."""
    # The name of the table and the number are our own.
    last_dropped = f"SELECT max(number) - {KEPT_ROWS[table]} FROM {table}"  # nosec B608  # noqa: S608
    connection.execute(f"DELETE FROM {table} WHERE number <= ({last_dropped})")  # nosec B608  # noqa: S608


def read_time(timestamp: float) -> datetime:
    """Return a stored time."""
    return datetime.fromtimestamp(timestamp, UTC)


def _use_wal(connection: sqlite3.Connection, patience_seconds: float = 5.0) -> None:
    """Switch to WAL: several workers may do so at the first request, and this one lock does not wait by itself."""
    give_up_at = time.monotonic() + patience_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.02)
