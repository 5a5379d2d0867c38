"""How an import goes from state to state, as data, and who may work on it.

::

    receiving ──▶ uploaded ──▶ checking ──▶ checked ──▶ importing ──▶ telling ──▶ done
                                  ▲ │          │ ▲          │  └───────────────────▲
                                  │ ▼          │ └ (other columns: checking)
                                failed ◀───────┴────────────┘        cancelled ◀── all before the switch

    telling or done ──▶ undoing ──▶ retelling ──▶ undone
         ▲                 │  └────────────────────▲
         └─────────────────┘ (somebody was changed since)

``checking`` reads, compares and stages; ``importing`` hashes passwords and ends with the switch; ``telling`` informs
customers; ``undoing`` takes the import back, and ``retelling`` informs those who had been told. These five are work:
whoever does it holds a lease and renews it with each batch, in the transaction of that batch, so that of two workers
one writes nothing. A killed worker's import is taken up when its lease is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, or_, select, update

from auth_portal.errors import Problem
from auth_portal.store.db import Database, new_id
from auth_portal.store.models import ImportRow

RECEIVING, UPLOADED, CHECKING, CHECKED, IMPORTING, TELLING, DONE, UNDOING, RETELLING, UNDONE, CANCELLED, FAILED = (
    "receiving", "uploaded", "checking", "checked", "importing", "telling", "done", "undoing", "retelling", "undone",
    "cancelled", "failed",
)  # fmt: skip
NEXT = {
    RECEIVING: {UPLOADED, CANCELLED},
    UPLOADED: {CHECKING, CANCELLED},
    CHECKING: {CHECKED, FAILED, CANCELLED},
    CHECKED: {CHECKING, IMPORTING, CANCELLED},
    IMPORTING: {TELLING, DONE, FAILED, CANCELLED},
    TELLING: {DONE, UNDOING},
    FAILED: {CHECKING, CANCELLED},
    DONE: {UNDOING},
    UNDOING: {TELLING, DONE, RETELLING, UNDONE},
    RETELLING: {UNDONE},
    UNDONE: set(),
    CANCELLED: set(),
}
WORK = (CHECKING, IMPORTING, TELLING, UNDOING, RETELLING)
SWITCHED = (TELLING, DONE)
LEASE_SECONDS = 30  # much longer than any batch or the switch takes; how long a killed worker's import waits
MOST_ATTEMPTS = 5  # to take up one piece of work, before it is given up


class LostLease(Exception):
    """Somebody else works on this import now, or it was cancelled: nothing more may be written for it."""


@dataclass(frozen=True)
class Claim:
    """An import that this worker may work on."""

    row: Any
    lease: str

    @property
    def id(self) -> str:
        """The import."""
        return str(self.row.id)


def move(connection: Connection, import_id: str, to: str, now: datetime, **values: Any) -> None:
    """Brings an import to another state, for an admin. Raises Problem where it is not in one that leads there."""
    changed = _move(connection, import_id, to, now, None, values)
    if not changed:
        raise Problem("import_moved_on", status=409)


def finish(connection: Connection, claim: Claim, to: str, now: datetime, **values: Any) -> None:
    """Ends a piece of work, for the worker that holds it. Raises LostLease."""
    if not _move(connection, claim.id, to, now, claim.lease, values):
        raise LostLease


def _move(
    connection: Connection, import_id: str, to: str, now: datetime, lease: str | None, values: dict[str, Any]
) -> int:
    sources = [state for state, targets in NEXT.items() if to in targets]
    ends = {"ended_at": now} if to in (DONE, UNDONE, CANCELLED, FAILED) else {}
    begins = {"began_at": now, "done": 0, "place": 0, "attempts": 0} if to in WORK else {}
    statement = update(ImportRow).where(ImportRow.id == import_id, ImportRow.state.in_(sources))
    if lease is not None:
        statement = statement.where(ImportRow.lease == lease)
    values = {"state": to, "lease": None, "leased_until": None, "reason": "", **begins, **ends, **values}
    return connection.execute(statement.values(**values)).rowcount


def hold(connection: Connection, claim: Claim, now: datetime, **values: Any) -> None:
    """Renews the lease in the transaction of a batch, and notes how far the work has come. Raises LostLease."""
    held = (
        update(ImportRow)
        .where(ImportRow.id == claim.id, ImportRow.lease == claim.lease)
        .values(leased_until=now + timedelta(seconds=LEASE_SECONDS), **values)
    )
    if not connection.execute(held).rowcount:
        raise LostLease


def put_aside(database: Database, claim: Claim, until: datetime, reason: str = "") -> None:
    """Gives an import back unfinished; nobody takes it up before ``until``, and the attempt counts for nothing."""
    aside = update(ImportRow).where(ImportRow.id == claim.id, ImportRow.lease == claim.lease)
    values = {"lease": None, "leased_until": until, "attempts": claim.row.attempts - 1, "reason": reason}
    with database.write() as connection:
        connection.execute(aside.values(**values))


def claim(database: Database, now: datetime) -> Claim | None:
    """Takes up the import that has waited longest, if there is one that nobody works on."""
    free = or_(ImportRow.leased_until.is_(None), ImportRow.leased_until < now)
    waiting = select(ImportRow.id).where(ImportRow.state.in_(WORK), ImportRow.is_attended.is_(False), free)
    with database.read() as connection:
        found = connection.execute(waiting.order_by(ImportRow.id).limit(1)).scalar_one_or_none()
    return None if found is None else take(database, found, now)


def take(database: Database, import_id: str, now: datetime) -> Claim | None:
    """Takes this import, if nobody works on it."""
    lease = new_id(now)
    taken = (
        update(ImportRow)
        .where(
            ImportRow.id == import_id,
            ImportRow.state.in_(WORK),
            or_(ImportRow.leased_until.is_(None), ImportRow.leased_until < now),
        )
        .values(
            lease=lease, leased_until=now + timedelta(seconds=LEASE_SECONDS), attempts=ImportRow.attempts + 1
        )
        .returning(*ImportRow.__table__.columns)
    )  # fmt: skip
    with database.write() as connection:
        row = connection.execute(taken).one_or_none()
    return None if row is None else Claim(row, lease)
