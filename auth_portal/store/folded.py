"""A whole database in a few bytes: a SQLite file that is unfolded for the time of a block, and folded up again.

For what must share nothing with the portal's own tables and lives no longer than a chat. Not a way to keep data: the
bytes are only good for the code whose tables are in them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from auth_portal.store.db import Database
from auth_portal.store.models import Base

Fold = Callable[[], bytes]


@cache
def empty() -> bytes:
    """A database with every table and nothing in them."""
    with unfolded(b"") as (database, fold):
        with database.write() as connection:
            Base.metadata.create_all(connection)
        return fold()


@contextmanager
def unfolded(folded: bytes) -> Iterator[tuple[Database, Fold]]:
    """The database of these bytes, in a folder of this user's alone, and what folds it up as it is then."""
    with TemporaryDirectory(prefix="auth-portal-") as folder:
        path = Path(folder) / "folded.db"
        path.touch(mode=0o600)
        path.write_bytes(zlib.decompress(folded) if folded else b"")
        with closing(Database(f"sqlite:///{path}")) as database:
            yield database, lambda: _fold(database, path)


def _fold(database: Database, path: Path) -> bytes:
    assert database.compact(), "nobody else has this file open"
    return zlib.compress(path.read_bytes())
