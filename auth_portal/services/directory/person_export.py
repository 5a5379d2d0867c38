"""All that is stored of one person, as one document for them (GDPR 15 and 20, POPIA 23).

What proves who they are is named and not given out: a password's hash or an app's seed in a file would be a way in.
Who of the admins did something is the admin's data, so events say only that an admin did it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, or_, select

from auth_portal.clock import Clock, iso
from auth_portal.crypto import Keyring
from auth_portal.services import audit
from auth_portal.services.directory.customers import Person, get_person
from auth_portal.services.outbox import CALLBACK
from auth_portal.store.db import Database
from auth_portal.store.models import (
    AuditEvent,
    Challenge,
    CredentialLink,
    CustomerRow,
    Delivery,
    TicketRow,
    Tries,
    Verification,
    Visit,
)


class PersonExport:
    """Reads everything of a person, and notes that it was read."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    def of(self, row: str, *, admin_id: str | None = None, **facts: Any) -> Mapping[str, Any]:
        """The document, of what JSON can hold; times are UTC. Raises NotFound."""
        now = self._clock()
        with self._database.read() as connection:
            person = get_person(connection, row)
            document = {"exported_at": _plain(now), **self._document(connection, person, row)}
        with self._database.write() as connection:
            audit.record(
                connection, self._keyring, now, "customer_exported",
                subject_id=person.subject_id, admin_id=admin_id, **facts,
            )  # fmt: skip
        return document

    def _document(self, connection: Connection, person: Person, row: str) -> dict[str, Any]:
        visits = _rows(connection, select(Visit.__table__).where(Visit.customer_row == row).order_by(Visit.id))
        seen = {visit["verification_id"] for visit in visits}
        of_them = or_(Verification.customer_row == row, Verification.id.in_(seen))
        found = _rows(connection, select(Verification.__table__).where(of_them).order_by(Verification.id))
        ids = [verification["id"] for verification in found]
        return {
            "customer": self._customer(connection, person, row),
            "credentials": _credentials(person),
            "wrong_tries": _told(_rows(connection, select(Tries.__table__).where(Tries.person_key == row)), TRIES),
            "one_time_links": _told(
                _rows(connection, select(CredentialLink.__table__).where(CredentialLink.customer_row == row)), LINKS
            ),
            "verifications": [self._verification(connection, one, row) for one in found],
            "visits": [{**_values(visit, VISITS), "typed": self._typed(visit)} for visit in visits],
            "codes": _told(
                _rows(
                    connection,
                    select(Challenge.__table__).where(
                        Challenge.verification_id.in_(ids), Challenge.customer_row == row
                    ),
                ),
                CODES,
            ),
            "tickets": [
                self._ticket(ticket)
                for ticket in _rows(connection, select(TicketRow.__table__).where(TicketRow.customer_row == row))
            ],
            "events": self._events(connection, person),
        }

    def _customer(self, connection: Connection, person: Person, row: str) -> dict[str, Any]:
        times = connection.execute(
            select(CustomerRow.created_at, CustomerRow.changed_at).where(CustomerRow.id == row)
        ).one()
        return {
            "customer_id": person.customer_id,
            "name": person.name(self._keyring),
            "phone": person.contact("sms", self._keyring) if person.phone_sealed is not None else "",
            "email": person.contact("email", self._keyring) if person.email_sealed is not None else "",
            "locale": person.locale,
            "is_active": person.is_active,
            "subject_id": person.subject_id,
            "created_at": _plain(times.created_at),
            "changed_at": _plain(times.changed_at),
        }

    def _verification(self, connection: Connection, one: Mapping[str, Any], row: str) -> dict[str, Any]:
        """One verification, and what the business was told of it where this person was verified."""
        told = {"told": None}
        if one["customer_row"] == row:
            callback = (Delivery.verification_id == one["id"]) & (Delivery.kind == CALLBACK)
            for sent in _rows(connection, select(Delivery.__table__).where(callback)):
                body = sent["body_sealed"]
                said = self._keyring.open(body, "deliveries", sent["id"], "body") if body is not None else None
                told = {"told": {**_values(sent, CALLBACKS), "said": said}}  # type: ignore[dict-item]
        return {**_values(one, VERIFICATIONS), **told}

    def _typed(self, visit: Mapping[str, Any]) -> str:
        sealed = visit["identifier_sealed"]
        return self._keyring.open(sealed, "visits", visit["id"], "identifier") if sealed is not None else ""

    def _ticket(self, ticket: Mapping[str, Any]) -> dict[str, Any]:
        sealed = {"phone": ticket["phone_sealed"], "purpose": ticket["purpose_sealed"]}
        opened = {
            name: self._keyring.open(value, "tickets", ticket["id"], name) if value is not None else ""
            for name, value in sealed.items()
        }
        return {**_values(ticket, TICKETS), **opened}

    def _events(self, connection: Connection, person: Person) -> list[dict[str, Any]]:
        mine = select(AuditEvent.__table__).where(AuditEvent.subject_id == person.subject_id).order_by(AuditEvent.id)
        return [
            {**_values(event, EVENTS), "by_an_admin": event["admin_id"] is not None}
            for event in _rows(connection, mine)
        ]


TRIES = ("method", "is_ticketed", "total", "day_count", "day_ends_at")
LINKS = ("kind", "created_at", "expires_at", "used_at")
VERIFICATIONS = ("id", "slug", "server", "began_at", "ended_at", "outcome", "methods", "wrong_tries", "sends")
CALLBACKS = ("target", "state", "created_at", "ended_at")
VISITS = ("verification_id", "created_at", "step", "proved")
CODES = ("verification_id", "method", "issued_at", "expires_at", "used_at")
TICKETS = ("slug", "locale", "created_at", "ends_at", "bound_at")
EVENTS = ("at", "kind", "verification_id", "facts")


def _credentials(person: Person) -> dict[str, Any]:
    until = person.support_code_expires_at
    return {
        "password": "set, not given out" if person.password_sealed is not None else "none",
        "password_has_15_characters": person.password_is_long,
        "authenticator_app": "enrolled, its key is not given out" if person.totp_sealed is not None else "none",
        "support_code_until": _plain(until) if until is not None else None,
    }


def _rows(connection: Connection, query: Select[Any]) -> Sequence[Mapping[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


def _told(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    return [_values(row, names) for row in rows]


def _values(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: _plain(row[name]) for name in names}


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    return iso(value) if isinstance(value, datetime) else value
