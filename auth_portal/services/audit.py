"""The audit trail: one fact, in the past tense, committed together with what it tells of.

Each event carries an HMAC of its own over all its fields, so that an edited one shows (E4); nothing waits for a
neighbour's. Events name people only by their random subject id: neither contacts, references nor codes belong here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from auth_portal.crypto import Keyring
from auth_portal.store.db import new_id
from auth_portal.store.models import AuditEvent, table_of

FIELDS = ("id", "at", "kind", "verification_id", "subject_id", "admin_id", "facts")

# An honest person at every limit of a journey (5 tries, 5 sends, 5 changes, each method chosen anew) makes about 35.
MOST_OF_ONE = 50

_INSERT = insert(table_of(AuditEvent))


def record(
    connection: Connection,
    keyring: Keyring,
    now: datetime,
    kind: str,
    *,
    verification_id: str | None = None,
    subject_id: str | None = None,
    admin_id: str | None = None,
    **facts: object,
) -> None:
    """Writes one event into the caller's transaction. ``facts`` are what JSON can hold, and nobody's contacts."""
    event: dict[str, Any] = {
        "id": new_id(now),
        "at": now,
        "kind": kind,
        "verification_id": verification_id,
        "subject_id": subject_id,
        "admin_id": admin_id,
        "facts": facts,
    }
    connection.execute(_INSERT, {**event, "mac": keyring.audit_mac(canonical(event))})


def record_move(
    connection: Connection, keyring: Keyring, now: datetime, kind: str, verification_id: str, **facts: Any
) -> None:
    """Writes an event of a move that costs its browser nothing, and so could be repeated without end.

    The first ``MOST_OF_ONE`` events of a verification are written, however many moves there were. Its proofs, sends and
    endings have bounds of their own and are always recorded.
    """
    found = select(func.count()).where(AuditEvent.verification_id == verification_id)
    if connection.execute(found).scalar_one() < MOST_OF_ONE:
        record(connection, keyring, now, kind, verification_id=verification_id, **facts)


def canonical(event: Mapping[str, Any]) -> str:
    """The one text of an event that its HMAC is made of, the same before it is written and after it is read."""
    # Who acted is part of the text only where somebody did: events older than that column keep their HMAC.
    values = {name: event[name] for name in FIELDS if name != "admin_id" or event[name] is not None}
    values["at"] = values["at"].astimezone(UTC).isoformat(timespec="microseconds")
    return json.dumps(values, sort_keys=True, separators=(",", ":"))
