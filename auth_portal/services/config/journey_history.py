"""What became of a journey: its versions, whose they are, and what each changed. Reads alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, select

from auth_portal.errors import NotFound
from auth_portal.services.config.differences import Difference, differences
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.journey_rows import journey_id_of, stored_journeys
from auth_portal.store.db import Database
from auth_portal.store.models import Admin, Journey, JourneyVersion

PAGE = 20  # versions on one page


class Edition(NamedTuple):
    """One version: when, whose, why. ``by`` is empty where a command did it."""

    number: int
    made_at: datetime
    by: str
    note: str


class Version(NamedTuple):
    """A version and what it changed of the one before."""

    edition: Edition
    changes: tuple[Difference, ...]


@dataclass(frozen=True)
class Listed:
    """A journey as the list and its own page show it."""

    config: JourneyConfig
    edition: Edition


class JourneyHistory:
    """Journeys with their versions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def journeys(self) -> list[Listed]:
        """Every journey that was not deleted, by slug."""
        with self._database.read() as connection:
            stored = stored_journeys(connection)
            rows = connection.execute(_EDITIONS.join(Journey, Journey.version_id == JourneyVersion.id))
            editions = {row.journey_id: _edition(row) for row in rows}
        return [Listed(journey.config, editions[journey.id]) for journey in stored.values()]

    def journey(self, slug: str) -> Listed:
        """One journey as it is stored now. Raises NotFound."""
        with self._database.read() as connection:
            stored = stored_journeys(connection).get(slug)
            if stored is None:
                raise NotFound("not_found")
            return Listed(stored.config, edition(connection, stored.id, stored.number))

    def versions(self, slug: str, before: int = 0) -> list[Version]:
        """The newest versions first, one page of them, each with what it changed; ``before`` a number, if not 0.

        Raises NotFound for the journey.
        """
        with self._database.read() as connection:
            journey_id = journey_id_of(connection, slug)
            query = _EDITIONS.add_columns(JourneyVersion.document).where(JourneyVersion.journey_id == journey_id)
            if before:
                query = query.where(JourneyVersion.number < before)
            rows = connection.execute(query.order_by(JourneyVersion.number.desc()).limit(PAGE + 1)).all()
        older = [*(row.document for row in rows[1:]), {}]
        found = [
            Version(_edition(row), tuple(differences(document, row.document) if document else ()))
            for row, document in zip(rows, older, strict=True)
        ]
        return found[:PAGE]

    def differences(self, slug: str, number: int) -> tuple[Difference, ...]:
        """What going back to a version would change of the journey as it is now. Raises NotFound."""
        with self._database.read() as connection:
            stored = stored_journeys(connection).get(slug)
            if stored is None:
                raise NotFound("not_found")
            document = document_of(connection, stored.id, number)
        now = stored.config.model_dump(mode="json")
        kept = {"active": now["active"], "default": now["default"]}
        return tuple(differences(now, {**document, **kept}))


_EDITIONS = select(
    JourneyVersion.journey_id, JourneyVersion.number, JourneyVersion.created_at, JourneyVersion.note, Admin.name
).outerjoin(Admin, Admin.id == JourneyVersion.made_by)


def _edition(row: Any) -> Edition:
    return Edition(row.number, row.created_at, row.name or "", row.note)


def edition(connection: Connection, journey_id: str, number: int) -> Edition:
    """When a version was made, by whom and why. Raises NotFound."""
    return _edition(_version(connection, _EDITIONS, journey_id, number))


def document_of(connection: Connection, journey_id: str, number: int) -> Mapping[str, Any]:
    """What a version says, with every default of today filled in. Raises NotFound."""
    found = _version(connection, select(JourneyVersion.document), journey_id, number)
    document: Mapping[str, Any] = found.document
    try:
        return JourneyConfig.model_validate(document).model_dump()
    except ValueError:  # it would not be allowed today; the rules say why when it is proposed
        return document


def _version(connection: Connection, query: Select[*tuple[Any, ...]], journey_id: str, number: int) -> Any:
    row = connection.execute(
        query.where(JourneyVersion.journey_id == journey_id, JourneyVersion.number == number)
    ).one_or_none()
    if row is None:
        raise NotFound("not_found")
    return row
