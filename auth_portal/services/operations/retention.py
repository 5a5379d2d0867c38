"""Removes what has been kept for long enough (E3), in batches short enough that no other writer notices.

Ids begin with the time they were made, so old rows are found by the primary key and nothing is scanned twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, delete, exists, select, tuple_, update

from auth_portal.clock import Clock
from auth_portal.services import limits
from auth_portal.services.access import admin_sessions, api_answers
from auth_portal.services.config.portal import PortalSettings, Retention
from auth_portal.store.db import Database, first_id
from auth_portal.store.models import (
    AdminLink,
    AdminSession,
    AlertRow,
    Attempt,
    AuditEvent,
    Challenge,
    CredentialLink,
    CustomerRow,
    Delivery,
    DriveRow,
    Journey,
    JourneyVersion,
    Logo,
    Portal,
    TicketRow,
    Tries,
    Verification,
    Visit,
)

BATCH = 200  # rows and all that hangs on them, removed in one transaction: a few milliseconds
DRIVES_KEPT = timedelta(hours=1)  # after their chat clock has run out
TRIES_KEPT = timedelta(days=30)  # of strangers only: the count of a customer stays until a success (R7)

Remove = Callable[[Connection, Sequence[Any]], object]
Sweep = Callable[[Connection, datetime, int], int]  # removes so many at most; how many there were


def prune(database: Database, clock: Clock, *, is_stopping: Callable[[], bool] = lambda: False) -> dict[str, int]:
    """Removes what is due and tells how many of each kind. Safe to run at any time, and by several at once.

    ``is_stopping`` is asked between batches; what is left then is removed the next time.
    """
    removed: dict[str, int] = defaultdict(int)
    for kind, query, remove in _due(clock(), _kept(database)):
        removed[kind] += _in_batches(database, query, remove, is_stopping)
    removed["counters"] = _sweep(database, clock(), limits.sweep, is_stopping)
    removed["answers kept for programs"] = _sweep(database, clock(), api_answers.sweep, is_stopping)
    if any(removed.values()):
        database.compact()
    return dict(removed)


def _due(now: datetime, kept: Retention) -> list[tuple[str, Select[Any], Remove]]:
    codes, verifications = now - timedelta(hours=kept.codes_hours), now - timedelta(days=kept.verifications_days)
    return [
        ("codes", _old_codes(codes), _remove_codes),
        ("verifications", _old_verifications(verifications), _remove_verifications),
        ("tickets", _old_tickets(verifications), _remove_tickets),
        ("notices", _old_notices(verifications), _remove_deliveries),
        ("alerts", _old_alerts(verifications), _remove_alerts),
        ("admins' sessions and links", _old_sessions(now - admin_sessions.KEPT), _remove_sessions),
        ("admins' sessions and links", _old_links(codes), _remove_links),
        ("audit events", _old_events(now - timedelta(days=kept.audit_days)), _remove_events),
        ("customers' links", _old_credential_links(codes), _remove_credential_links),
        ("test drives", _old_drives(now - DRIVES_KEPT), _remove_drives),
        ("deleted journeys", _old_journeys(verifications), _remove_journeys),
        ("logos", _old_logos(verifications), _remove_logos),
        ("counts of strangers", _old_tries(now - TRIES_KEPT), _remove_tries),
    ]


def _kept(database: Database) -> Retention:
    with database.read() as connection:
        settings = connection.execute(select(Portal.settings).where(Portal.id == 1)).scalar_one_or_none()
    return PortalSettings.model_validate(settings or {}).retention


def _in_batches(database: Database, query: Select[Any], remove: Remove, is_stopping: Callable[[], bool]) -> int:
    total = 0
    while not is_stopping():
        with database.read() as connection:
            keys = [tuple(row) if len(row) > 1 else row[0] for row in connection.execute(query.limit(BATCH))]
        if not keys:
            break
        with database.write() as connection:
            remove(connection, keys)
        total += len(keys)
    return total


def _old_codes(before: datetime) -> Select[Any]:
    return select(Challenge.id).where(Challenge.id < first_id(before), Challenge.expires_at < before)


def _remove_codes(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(Challenge).where(Challenge.id.in_(ids)))


def _old_verifications(before: datetime) -> Select[Any]:
    return select(Verification.id).where(
        Verification.id < first_id(before), Verification.outcome.is_not(None), Verification.ended_at < before
    )


def _remove_verifications(connection: Connection, ids: Sequence[str]) -> None:
    deliveries = select(Delivery.id).where(Delivery.verification_id.in_(ids))
    connection.execute(delete(Attempt).where(Attempt.delivery_id.in_(deliveries)))
    for table in (Delivery, Challenge, Visit):
        connection.execute(delete(table).where(table.verification_id.in_(ids)))
    connection.execute(delete(Verification).where(Verification.id.in_(ids)))


def _old_journeys(before: datetime) -> Select[Any]:
    """Those deleted long ago that nothing refers to any more."""
    is_used = exists().where(JourneyVersion.journey_id == Journey.id, Verification.version_id == JourneyVersion.id)
    return select(Journey.id).where(Journey.deleted_at < before, ~is_used)


def _remove_journeys(connection: Connection, ids: Sequence[str]) -> None:
    is_used = exists().where(Verification.version_id == JourneyVersion.id)  # begun since they were looked for
    connection.execute(delete(JourneyVersion).where(JourneyVersion.journey_id.in_(ids), ~is_used))
    has_versions = exists().where(JourneyVersion.journey_id == Journey.id)
    connection.execute(delete(Journey).where(Journey.id.in_(ids), ~has_versions))
    # Their links were closed pages until now; a server that went on showing them would begin under nothing.
    connection.execute(update(Portal).values(version=Portal.version + 1))


def _old_logos(before: datetime) -> Select[Any]:
    """Those that no version of a journey names."""
    is_named = exists().where(JourneyVersion.document["logo"].as_string() == Logo.digest)
    return select(Logo.digest).where(Logo.created_at < before, ~is_named)


def _remove_logos(connection: Connection, digests: Sequence[str]) -> None:
    connection.execute(delete(Logo).where(Logo.digest.in_(digests)))


def _old_tickets(before: datetime) -> Select[Any]:
    return select(TicketRow.id).where(TicketRow.id < first_id(before), TicketRow.ends_at < before)


def _remove_tickets(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(TicketRow).where(TicketRow.id.in_(ids)))


def _old_notices(before: datetime) -> Select[Any]:
    return select(Delivery.id).where(
        Delivery.id < first_id(before), Delivery.verification_id.is_(None), Delivery.ended_at < before
    )


def _remove_deliveries(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(Attempt).where(Attempt.delivery_id.in_(ids)))
    connection.execute(delete(Delivery).where(Delivery.id.in_(ids)))


def _old_alerts(before: datetime) -> Select[Any]:
    return select(AlertRow.id).where(AlertRow.id < first_id(before), AlertRow.ended_at < before)


def _remove_alerts(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(AlertRow).where(AlertRow.id.in_(ids)))


def _old_sessions(before: datetime) -> Select[Any]:
    return select(AdminSession.id).where(AdminSession.began_at < before)


def _remove_sessions(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(AdminSession).where(AdminSession.id.in_(ids)))


def _old_links(before: datetime) -> Select[Any]:
    return select(AdminLink.id).where(AdminLink.expires_at < before)


def _remove_links(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(AdminLink).where(AdminLink.id.in_(ids)))


def _old_drives(before: datetime) -> Select[Any]:
    return select(DriveRow.id).where(DriveRow.ends_at < before)


def _remove_drives(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(DriveRow).where(DriveRow.id.in_(ids)))


def _old_events(before: datetime) -> Select[Any]:
    return select(AuditEvent.id).where(AuditEvent.id < first_id(before))


def _remove_events(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(AuditEvent).where(AuditEvent.id.in_(ids)))


def _old_credential_links(before: datetime) -> Select[Any]:
    return select(CredentialLink.id).where(CredentialLink.expires_at < before)


def _remove_credential_links(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(CredentialLink).where(CredentialLink.id.in_(ids)))


def _old_tries(before: datetime) -> Select[Any, Any, Any]:
    is_customer = exists().where(CustomerRow.id == Tries.person_key)
    return select(Tries.person_key, Tries.method, Tries.is_ticketed).where(Tries.day_ends_at < before, ~is_customer)


def _remove_tries(connection: Connection, keys: Sequence[Any]) -> None:
    connection.execute(delete(Tries).where(tuple_(Tries.person_key, Tries.method, Tries.is_ticketed).in_(keys)))


def _sweep(
    database: Database,
    now: datetime,
    sweep: Callable[[Connection, datetime, int], int],
    is_stopping: Callable[[], bool],
) -> int:
    total = 0
    while not is_stopping():
        with database.write() as connection:
            removed = sweep(connection, now, BATCH)
        total += removed
        if removed < BATCH:
            break
    return total
