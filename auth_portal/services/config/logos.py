"""The pictures that journeys show, kept in the database and named by the SHA-256 of their bytes.

Takes PNG, JPEG and WebP by their first bytes, whatever a browser calls them, and never SVG: that may hold script.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from sqlalchemy import Connection, select

from auth_portal.errors import Problem
from auth_portal.store.db import Database, upsert
from auth_portal.store.models import Logo, table_of

LARGEST = 48 * 1024  # bytes: a customer on a slow network waits for it, and a form may have 64 KiB in all


class Picture(NamedTuple):
    """A stored picture, as it is served."""

    media_type: str
    content: bytes


class Logos:
    """Keeps and finds pictures."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cached = lru_cache(maxsize=32)(self._load)

    def get(self, digest: str) -> Picture:
        """A picture by its digest. Raises NotFound."""
        try:
            return self._cached(digest)
        except KeyError:
            raise Problem("not_found", status=404) from None

    def _load(self, digest: str) -> Picture:
        with self._database.read() as connection:
            row = connection.execute(select(Logo.media_type, Logo.content).where(Logo.digest == digest)).one_or_none()
        if row is None:
            raise KeyError(digest)  # not kept in the cache: the picture may come
        return Picture(row.media_type, row.content)


def keep(connection: Connection, now: datetime, content: bytes) -> str:
    """Stores a picture and gives its digest. Raises ValueError in the admin's words."""
    media_type = media_type_of(content)
    digest = hashlib.sha256(content).hexdigest()
    insert = upsert(connection.dialect.name, table_of(Logo))
    values = {"digest": digest, "media_type": media_type, "content": content, "created_at": now}
    connection.execute(insert.values(values).on_conflict_do_nothing())
    return digest


def media_type_of(content: bytes) -> str:
    """What the bytes are. Raises ValueError for what is no picture of ours, or too large a one."""
    if len(content) > LARGEST:
        raise ValueError(f"must be at most {LARGEST // 1024} kB; this one has {-(-len(content) // 1024)} kB")
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError("must be a PNG, JPEG or WebP picture")


def digests(connection: Connection) -> frozenset[str]:
    """The digests of all pictures."""
    return frozenset(connection.execute(select(Logo.digest)).scalars())
