"""One visit of one verification, read in one statement: what every move looks at before it decides.

Read without a lock it serves a page; read inside a writing transaction its verification and visit are locked, so that
two moves on one verification follow each other on PostgreSQL too (on SQLite the gate sees to that).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cache
from itertools import starmap
from typing import Any, NamedTuple

from sqlalchemy import ClauseElement, ColumnElement, Connection, and_, bindparam, insert, select, update

from auth_portal.crypto import Keyring, new_token, token_hash
from auth_portal.errors import Problem
from auth_portal.methods import CARRIES, ON_FILE
from auth_portal.methods.contract import Evidence, IssuedCode, OnFile
from auth_portal.services.config.journey import JourneyConfig, without_mail
from auth_portal.services.directory.customers import PERSON_COLUMNS, Person, person_from, stranger
from auth_portal.services.journeys import Journeys, Snapshot
from auth_portal.services.tickets import CASE_COLUMNS, Ticket, ticket_of
from auth_portal.store.db import new_id
from auth_portal.store.models import Challenge, CustomerRow, TicketRow, Verification, Visit, table_of

_VERIFICATIONS, _VISITS = table_of(Verification), table_of(Visit)
_INSERT_VISIT = insert(_VISITS)


class Stage(StrEnum):
    """Where a visit stands."""

    NAMING = "naming"
    CHOOSING = "choosing"
    PROVING = "proving"
    ENDED = "ended"


class Issued(NamedTuple):
    """A challenge of the present step, method and identifier."""

    id: str
    destination_key: str
    key_id: int
    digits: int
    issued_at: datetime
    expires_at: datetime
    used_at: datetime | None
    replaced_at: datetime | None

    def is_in_force(self, now: datetime) -> bool:
        """Whether this code would be accepted."""
        return self.used_at is None and self.replaced_at is None and now < self.expires_at


@dataclass(frozen=True)
class Case:
    """A visit with its verification, journey and person, as they stood when read."""

    visit_id: str
    verification_id: str
    prompt: str
    step: int
    method: str | None
    identifier_sealed: bytes | None
    identifier_key: str | None  # of this visit
    proved: tuple[str, ...]
    version_id: str
    server: str
    reference_hash: bytes
    reference_sealed: bytes
    address_key: str
    proofs_until: datetime
    chat_ends_at: datetime
    wrong_tries: int
    sends: int
    sent_at: datetime | None
    identity_changes: int
    last_identifier_key: str | None  # of the verification: whoever was named last, in any visit
    outcome: str | None
    journey: JourneyConfig = field(repr=False)
    person: Person = field(repr=False)
    challenges: tuple[Issued, ...] = ()
    ticket: Ticket | None = None

    @property
    def stage(self) -> Stage:
        """Where this visit stands."""
        if self.outcome is not None:
            return Stage.ENDED
        if self.step == 0:
            return Stage.NAMING
        return Stage.CHOOSING if self.method is None else Stage.PROVING

    @property
    def tries_left(self) -> int:
        """Wrong tries that this verification still has, over all methods and visits."""
        return max(0, self.journey.limits.wrong_tries - self.wrong_tries)

    @property
    def sends_left(self) -> int:
        """Messages that this verification may still send."""
        return max(0, self.journey.limits.sends - self.sends)

    @property
    def changes_left(self) -> int:
        """How often somebody else may still be named."""
        return max(0, self.journey.limits.identity_changes - self.identity_changes)

    @property
    def code_digits(self) -> int:
        """How many digits a code that was sent has: those of the newest one, else those of the journey."""
        return self.challenges[0].digits if self.challenges else self.journey.limits.code_digits

    @property
    def is_named_by_ticket(self) -> bool:
        """Whether nobody typed who they are, because the ticket says it."""
        return self.ticket is not None and self.identifier_sealed is None

    @property
    def is_alone(self) -> bool:
        """Whether one proof is all that this journey asks."""
        return len(self.journey.verify_steps) == 1

    def is_due(self, now: datetime) -> bool:
        """Whether the time for proofs is over while the verification is still live."""
        return self.outcome is None and now >= self.proofs_until

    def in_force(self, now: datetime) -> Issued | None:
        """The code that would be accepted now, if one was issued for this step, method and name."""
        return next((issued for issued in self.challenges if issued.is_in_force(now)), None)

    def resend_in_seconds(self, now: datetime) -> int:
        """How long until a message may be sent again, counted from the last send (R12)."""
        if self.sent_at is None or self.sends == 0:
            return 0
        waits = self.journey.limits.resend_waits
        wait = waits[min(self.sends, len(waits)) - 1]
        return max(0, int(wait - (now - self.sent_at).total_seconds() + 0.999))

    def evidence(self, now: datetime, keyring: Keyring) -> Evidence:
        """What a proof by the visit's method is held against."""
        held = ON_FILE.get(self.method or "")
        if self.method in CARRIES:
            return Evidence(now, codes=tuple(_issued_code(issued, keyring) for issued in self.challenges))
        if held is OnFile.TOTP:
            return Evidence(now, secret=self.person.totp_seed(keyring), last_step=self.person.totp_last_step)
        if held is OnFile.SUPPORT_CODE:
            return Evidence(now, codes=(self.person.support_code(keyring),))
        return Evidence(now, secret=self.person.password_hash(keyring, alone=self.is_alone))


def _issued_code(issued: Issued, keyring: Keyring) -> IssuedCode:
    code = keyring.code(issued.id, issued.digits, issued.key_id)
    return IssuedCode(code, issued.expires_at, issued.replaced_at is not None, issued.used_at is not None)


def can_prove(person: Person, method: str, *, alone: bool) -> bool:
    """Whether the directory holds what this method needs. Asked only after a first proof, never before (R24)."""
    held = ON_FILE[method]
    if method in CARRIES:
        return person.has_contact(CARRIES[method])
    if held is OnFile.TOTP:
        return person.is_active and person.totp_sealed is not None
    if held is OnFile.SUPPORT_CODE:
        return person.is_active  # whoever has none yet can call support and ask for one
    return person.is_active and person.password_sealed is not None and (person.password_is_long or not alone)


def offered(
    case: Case, snapshot: Snapshot, step: int | None = None, proved: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """The methods a person may use at a step. Before a first proof it depends on the journey alone (R24)."""
    step = case.step if step is None else step
    proved = case.proved if proved is None else proved
    methods = snapshot.workable(case.journey, case.journey.steps[step].offered(proved))
    if case.ticket is not None and case.ticket.phone_key is not None:
        methods = without_mail(methods)  # codes go to the chat's own number, and nowhere else
    if not proved:
        return methods
    return tuple(method for method in methods if can_prove(case.person, method, alone=case.is_alone))


_CASE = (
    select(
        Visit.id.label("visit_id"),
        Visit.verification_id,
        Visit.prompt,
        Visit.step,
        Visit.method,
        Visit.identifier_sealed,
        Visit.identifier_key,
        Visit.person_key,
        Visit.proved,
        Verification.version_id,
        Verification.server,
        Verification.reference_hash,
        Verification.reference_sealed,
        Verification.address_key,
        Verification.proofs_until,
        Verification.chat_ends_at,
        Verification.wrong_tries,
        Verification.sends,
        Verification.sent_at,
        Verification.identity_changes,
        Verification.identifier_key.label("last_identifier_key"),
        Verification.outcome,
        Verification.ticket_id,
        *CASE_COLUMNS,
        *PERSON_COLUMNS,
        Challenge.id.label("challenge_id"),
        Challenge.destination_key,
        Challenge.key_id,
        Challenge.digits,
        Challenge.issued_at,
        Challenge.expires_at,
        Challenge.used_at,
        Challenge.replaced_at,
    )
    .join(Verification, Verification.id == Visit.verification_id)
    .outerjoin(TicketRow, TicketRow.id == Verification.ticket_id)
    .outerjoin(CustomerRow, CustomerRow.id == Visit.customer_row)
    .outerjoin(
        Challenge,
        and_(
            Challenge.verification_id == Visit.verification_id,
            Challenge.identifier_key == Visit.identifier_key,
            Challenge.step == Visit.step,
            Challenge.method == Visit.method,
        ),
    )
    .where(Visit.token_hash == bindparam("token"))
    .order_by(Challenge.issued_at.desc())
)
_LOCKED_CASE = _CASE.with_for_update(of=[Visit, Verification])
_PLAIN = (
    "visit_id", "verification_id", "prompt", "step", "method", "identifier_sealed", "identifier_key", "version_id",
    "server", "reference_hash", "reference_sealed", "address_key", "proofs_until", "chat_ends_at", "wrong_tries",
    "sends", "sent_at", "identity_changes", "last_identifier_key", "outcome",
)  # fmt: skip


def load_case(connection: Connection, journeys: Journeys, token: bytes, *, locked: bool) -> Case:
    """The case of a visit's token hash. Raises Problem("no_visit") where the browser has none that we know."""
    rows = connection.execute(_LOCKED_CASE if locked else _CASE, {"token": token}).all()
    if not rows:
        raise Problem("no_visit")
    first, key = rows[0], rows[0].person_key or ""
    ticket, person = ticket_of(first), person_from(first, key)
    return Case(
        **{name: getattr(first, name) for name in _PLAIN},
        proved=tuple(first.proved.split("+")) if first.proved else (),
        journey=journeys.version(first.version_id),
        person=ticket.held_to(person, key) if ticket is not None else person,
        challenges=tuple(starmap(Issued, _challenge_values(rows))),
        ticket=ticket,
    )


def _challenge_values(rows: Any) -> list[tuple[Any, ...]]:
    names = ("challenge_id", *Issued._fields[1:])
    return [tuple(getattr(row, name) for name in names) for row in rows if row.challenge_id is not None]


HEADLESS_COLUMNS = (
    Verification.id,
    Verification.outcome,
    Verification.version_id,
    Verification.server,
    Verification.reference_hash,
    Verification.reference_sealed,
    Verification.address_key,
    Verification.proofs_until,
    Verification.chat_ends_at,
    Verification.wrong_tries,
    Verification.sends,
    Verification.sent_at,
    Verification.identity_changes,
    Verification.identifier_key,
    Verification.ticket_id,
)


def headless_case(row: Any, journeys: Journeys, now: datetime) -> Case:
    """The case of a verification without a browser at it (HEADLESS_COLUMNS), under the id of a visit to come."""
    return Case(
        visit_id=new_id(now),
        verification_id=row.id,
        prompt=new_prompt(),
        step=0,
        method=None,
        identifier_sealed=None,
        identifier_key=None,
        proved=(),
        version_id=row.version_id,
        server=row.server,
        reference_hash=row.reference_hash,
        reference_sealed=row.reference_sealed,
        address_key=row.address_key,
        proofs_until=row.proofs_until,
        chat_ends_at=row.chat_ends_at,
        wrong_tries=row.wrong_tries,
        sends=row.sends,
        sent_at=row.sent_at,
        identity_changes=row.identity_changes,
        last_identifier_key=row.identifier_key,
        outcome=row.outcome,
        journey=journeys.version(row.version_id),
        person=stranger(""),
    )


def challenged(case: Case) -> ColumnElement[bool]:
    """The challenges of this verification for the case's name, step and method."""
    return and_(
        Challenge.verification_id == case.verification_id,
        Challenge.identifier_key == case.identifier_key,
        Challenge.step == case.step,
        Challenge.method == case.method,
    )


def challenges_of(connection: Connection, case: Case) -> tuple[Issued, ...]:
    """The codes that were issued in this verification for the case's name, step and method, newest first."""
    columns = [getattr(Challenge, name) for name in Issued._fields]
    found = select(*columns).where(challenged(case))
    return tuple(starmap(Issued, connection.execute(found.order_by(Challenge.issued_at.desc()))))


def new_prompt() -> str:
    """A fresh opaque name for a prompt: a form made for an older one counts nothing."""
    return secrets.token_urlsafe(12)


def entered(case: Case, snapshot: Snapshot, step: int, proved: tuple[str, ...]) -> Case:
    """The case at the start of a step, under a new prompt: with one method there is nothing to choose."""
    methods = offered(case, snapshot, step, proved)
    method = methods[0] if len(methods) == 1 else None
    return replace(case, step=step, proved=proved, method=method, prompt=new_prompt(), challenges=())


def update_verification(connection: Connection, case: Case, *only_if: Any, **values: object) -> bool:
    """Changes a live verification; False where it has ended, or where a condition no longer holds."""
    if only_if or any(isinstance(value, ClauseElement) for value in values.values()):
        live = _VERIFICATIONS.c.id == case.verification_id, _VERIFICATIONS.c.outcome.is_(None), *only_if
        return connection.execute(update(_VERIFICATIONS).where(*live).values(**values)).rowcount == 1
    return connection.execute(_ending(tuple(values)), {"of": case.verification_id, **values}).rowcount == 1


@cache
def _ending(names: tuple[str, ...]) -> Any:
    live = _VERIFICATIONS.c.id == bindparam("of"), _VERIFICATIONS.c.outcome.is_(None)
    return update(_VERIFICATIONS).where(*live).values({name: bindparam(name) for name in names})


def update_visit(connection: Connection, case: Case, **values: object) -> None:
    """Writes a visit, its present prompt included."""
    connection.execute(_changing(tuple(values)), {"of": case.visit_id, "prompt": case.prompt, **values})


@cache
def _changing(names: tuple[str, ...]) -> Any:
    return update(_VISITS).where(_VISITS.c.id == bindparam("of")).values({n: bindparam(n) for n in (*names, "prompt")})


def insert_visit(connection: Connection, case: Case, now: datetime) -> str:
    """Makes the visit of a case; gives the token that its browser keeps."""
    token = new_token()
    values = {
        "id": case.visit_id,
        "token_hash": token_hash(token),
        "verification_id": case.verification_id,
        "created_at": now,
        "prompt": case.prompt,
        **naming_values(case),
    }
    connection.execute(_INSERT_VISIT, values)
    return token


def naming_values(case: Case) -> dict[str, object]:
    """The columns of a visit that change when somebody is named."""
    return {
        "step": case.step,
        "method": case.method,
        "identifier_sealed": case.identifier_sealed,
        "identifier_key": case.identifier_key,
        "person_key": case.person.key,
        "customer_row": case.person.row,
        "proved": "+".join(case.proved),
    }
