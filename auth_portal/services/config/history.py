"""Who changed the configuration, when and why: the versions of journeys, and the last change of any other table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, select, text

from auth_portal.errors import NotFound
from auth_portal.services.config.changes import Difference, differences
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.store import journey_id_of, stored_document, stored_journeys
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import RARE_KIND, Admin, AuditEvent, Journey, JourneyVersion, table_of

PAGE = 20  # versions on one page
EVENTS = ("settings_changed", "channel_changed", "configuration_imported")
EVENTS_SEARCHED = 20  # the last ones; what was saved while a form was open is among them


class Edition(NamedTuple):
    """One version: when it was made, by which admin (empty for a command), and why."""

    number: int
    made_at: datetime
    by: str
    note: str


class Version(NamedTuple):
    """A version, and what it changed in the one before."""

    edition: Edition
    changes: tuple[Difference, ...]


@dataclass(frozen=True)
class JourneyEntry:
    """A journey as the list and its page show it."""

    config: JourneyConfig
    edition: Edition


class JourneyHistory:
    """Read journeys with their versions."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def journeys(self) -> list[JourneyEntry]:
        """Return every journey that was not deleted, by slug."""
        with self._transactions.read() as work:
            stored = stored_journeys(work)
            rows = work.execute(_EDITIONS.join(Journey, Journey.version_id == JourneyVersion.id))
            editions = {row.journey_id: _edition(row) for row in rows}
        return [JourneyEntry(journey.config, editions[journey.id]) for journey in stored.values()]

    def journey(self, slug: str) -> JourneyEntry:
        """Return one journey as it is stored now. Raise NotFound."""
        with self._transactions.read() as work:
            stored = stored_journeys(work).get(slug)
            if stored is None:
                raise NotFound("not_found")
            return JourneyEntry(stored.config, edition(work, stored.id, stored.number))

    def versions(self, slug: str, before: int = 0) -> list[Version]:
        """Return a page of versions, newest first, each with what it changed; ``before`` this number, if not 0.

        Raise NotFound for the journey.
        """
        with self._transactions.read() as work:
            journey_id = journey_id_of(work, slug)
            query = _EDITIONS.add_columns(JourneyVersion.document, JourneyVersion.whole).where(
                JourneyVersion.journey_id == journey_id
            )
            if before:
                query = query.where(JourneyVersion.number < before)
            rows = work.execute(query.order_by(JourneyVersion.number.desc()).limit(PAGE + 1)).all()
        stored = [*map(stored_document, rows), {}]
        found = [
            Version(_edition(row), differences(before, document) if before else ())
            for row, document, before in zip(rows, stored, stored[1:], strict=False)
        ]
        return found[:PAGE]

    def version(self, slug: str, number: int) -> Version:
        """Return one version with what it changed in the one before. Raise NotFound."""
        found = next(iter(self.versions(slug, before=number + 1)), None)
        if found is None or found.edition.number != number:
            raise NotFound("not_found")
        return found

    def differences(self, slug: str, number: int) -> tuple[Difference, ...]:
        """Return what going back to a version would change in the journey as it is now. Raise NotFound."""
        with self._transactions.read() as work:
            stored = stored_journeys(work).get(slug)
            if stored is None:
                raise NotFound("not_found")
            document = document_of(work, stored.id, number)
        now = stored.config.model_dump(mode="json")
        return differences(now, {**document, "active": now["active"], "default": now["default"]})


_EDITIONS = select(
    JourneyVersion.journey_id, JourneyVersion.number, JourneyVersion.created_at, JourneyVersion.note, Admin.name
).outerjoin(Admin, Admin.id == JourneyVersion.made_by)


def _edition(row: Any) -> Edition:
    return Edition(row.number, row.created_at, row.name or "", row.note)


def edition(work: Work, journey_id: str, number: int) -> Edition:
    """Return when a version was made, who made it and why. Raise NotFound."""
    return _edition(_version(work, _EDITIONS, journey_id, number))


def document_of(work: Work, journey_id: str, number: int) -> Mapping[str, Any]:
    """Return a version's document, with every default of today filled in.

    Raise NotFound, and Conflict("row_changed") if someone other than the portal has changed it.
    """
    found = _version(work, select(JourneyVersion.id, JourneyVersion.document, JourneyVersion.whole), journey_id, number)
    work.row_to_sign(table_of(JourneyVersion), found.id)
    document = stored_document(found)
    try:
        return JourneyConfig.model_validate(document).model_dump()
    except ValueError:  # it would not be allowed today; the rules say why when it is proposed
        return document


def _version(work: Work, query: Select[*tuple[Any, ...]], journey_id: str, number: int) -> Any:
    row = work.execute(
        query.where(JourneyVersion.journey_id == journey_id, JourneyVersion.number == number)
    ).one_or_none()
    if row is None:
        raise NotFound("not_found")
    return row


def last_change(work: Work, title: str) -> tuple[str, datetime | None]:
    """Return the admin (empty for a command) and time of the last change of ``portal`` or, say, ``channel sms``."""
    events = (
        select(AuditEvent.at, AuditEvent.facts, Admin.name)
        .outerjoin(Admin, Admin.id == AuditEvent.admin_id)
        .where(text(RARE_KIND), AuditEvent.kind.in_(EVENTS))
        .order_by(AuditEvent.id.desc())
        .limit(EVENTS_SEARCHED)
    )
    last = next((row for row in work.execute(events) if title in row.facts.get("changes", {})), None)
    return (last.name or "", last.at) if last else ("", None)
