"""The erasing of one person: all that identifies them goes; what was counted and audited stays, without a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select, update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, new_token
from auth_portal.errors import Conflict, NotFound
from auth_portal.services import audit
from auth_portal.services.access import api_answers
from auth_portal.services.outbox import MESSAGE, State, notice_lane
from auth_portal.store.db import Database
from auth_portal.store.models import (
    Challenge,
    CredentialLink,
    CustomerRow,
    Delivery,
    StagedRow,
    TicketRow,
    Tries,
    Verification,
    Visit,
)

CHUNK = 500  # rows changed by one statement


@dataclass(frozen=True)
class Erased:
    """What was taken from the database with a person."""

    visits: int
    verifications: int


_PERSON = select(CustomerRow.subject_id, CustomerRow.changed_at).with_for_update()


class Erasure:
    """Removes people."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    def erase(
        self, row: str, *, seen_at: datetime | None = None, admin_id: str | None = None,
        also: Callable[[Connection], None] | None = None, **facts: Any,
    ) -> Erased:  # fmt: skip
        """Removes a person and all that identifies them. An answer that is still on its way to Flow is sent.

        ``seen_at`` is the ``changed_at`` that it was decided by. ``also`` commits together with it. Raises NotFound
        where there is no such row, and Conflict where it was changed since ``seen_at``.
        """
        traces = {table: self._traces(table, row) for table in _FORGETTING}
        erased = Erased(len(traces[Visit]), len(traces[Verification]))
        with self._database.write() as connection:
            person = connection.execute(_PERSON.where(CustomerRow.id == row)).one_or_none()
            if person is None:
                raise NotFound("customer_unknown")
            if seen_at is not None and person.changed_at != seen_at:
                raise Conflict("customer_changed")
            self._forget_notices(connection, row)
            connection.execute(delete(CredentialLink).where(CredentialLink.customer_row == row))
            connection.execute(delete(StagedRow).where(StagedRow.customer_row == row))
            connection.execute(delete(CustomerRow).where(CustomerRow.id == row))
            connection.execute(delete(Tries).where(Tries.person_key == row))
            api_answers.forget(connection, row)  # once the row is ours: a change of it commits its answer before
            for table, forget in _FORGETTING.items():
                for some in _in_chunks(traces[table]):
                    forget(connection, some)
            counts: dict[str, Any] = {"visits": erased.visits, "verifications": erased.verifications, **facts}
            audit.record(
                connection, self._keyring, self._clock(), "customer_erased",
                subject_id=person.subject_id, admin_id=admin_id, **counts,
            )  # fmt: skip
            if also is not None:
                also(connection)
        self._database.compact()
        return erased

    def _forget_notices(self, connection: Connection, row: str) -> None:
        """What they were to be told is told no more, and kept nowhere."""
        theirs = Delivery.lane == notice_lane(self._keyring, row), Delivery.kind == MESSAGE
        connection.execute(update(Delivery).where(*theirs).values(body_sealed=None))
        pending = update(Delivery).where(*theirs, Delivery.state == State.PENDING)
        connection.execute(
            pending.values(state=State.DROPPED, reason="the customer was erased", ended_at=self._clock())
        )

    def _traces(self, table: Any, row: str) -> list[str]:
        """Where a person was; looked for outside the transaction, because not all of it is indexed."""
        with self._database.read() as connection:
            return list(connection.execute(select(table.id).where(table.customer_row == row)).scalars())


def _in_chunks(values: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(values)
    while some := list(islice(rest, CHUNK)):
        yield some


def _forget_in_visits(connection: Connection, ids: Sequence[str]) -> None:
    nobody = dict.fromkeys(("identifier_sealed", "identifier_key", "person_key", "customer_row", "method"))
    # A visit still under way goes back to its beginning; a form that lies open in the browser is out of date.
    beginning = {"step": 0, "proved": "", "prompt": new_token()}
    connection.execute(update(Visit).where(Visit.id.in_(ids)).values(**nobody, **beginning))


def _forget_in_challenges(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(update(Challenge).where(Challenge.id.in_(ids)).values(customer_row=None))


def _forget_in_verifications(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(
        update(Verification).where(Verification.id.in_(ids)).values(customer_row=None, identifier_key=None)
    )
    serving = select(Verification.ticket_id).where(Verification.id.in_(ids))
    _forget_tickets(connection, TicketRow.id.in_(serving))
    # A result that was sent holds the customer ID.
    sent = Delivery.verification_id.in_(ids) & (Delivery.kind == "callback") & Delivery.ended_at.is_not(None)
    connection.execute(update(Delivery).where(sent).values(body_sealed=None))


def _forget_in_tickets(connection: Connection, ids: Sequence[str]) -> None:
    _forget_tickets(connection, TicketRow.id.in_(ids))


def _forget_tickets(connection: Connection, which: ColumnElement[bool]) -> None:
    # Its row stays while a verification may look for it: a ticket that means nobody lets nobody through.
    nobody = dict.fromkeys(("customer_row", "phone_key", "phone_sealed", "purpose_sealed"))
    connection.execute(update(TicketRow).where(which).values(**nobody))


_FORGETTING: Mapping[Any, Callable[[Connection, Sequence[str]], None]] = {
    Visit: _forget_in_visits,
    Challenge: _forget_in_challenges,
    Verification: _forget_in_verifications,
    TicketRow: _forget_in_tickets,
}
