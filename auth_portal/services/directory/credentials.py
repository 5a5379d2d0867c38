"""A customer's credentials as support sees them: what there is, when it last worked, and what has closed it.

Support can open what wrong tries have closed, take a credential away, and read out one temporary code (R19). Nothing
here shows a password, a seed or a code that was sent. The customer is told of everything that is done to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, select, update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.errors import NotFound
from auth_portal.methods import CARRIES, METHOD_NAMES, ON_FILE, support_code
from auth_portal.methods.contract import OnFile
from auth_portal.services import audit
from auth_portal.services.config.journey import JourneyLimits
from auth_portal.services.directory.customers import Person, get_person, mask_contact
from auth_portal.services.journeys import Journeys, Snapshot
from auth_portal.services.method_names import method_name
from auth_portal.services.notices import Notices
from auth_portal.services.results import VERIFIED
from auth_portal.store.db import Database, new_id
from auth_portal.store.models import CredentialLink, CustomerRow, Tries, Verification

REASON_LENGTH = 200
LOOKED_BACK = 200  # verifications of a person that are looked through for the last use of each credential
RESETTABLE: Mapping[str, Mapping[str, Any]] = {  # what a credential's removal leaves behind
    "password": {"password_hash": None, "password_is_long": False},
    "totp": {"totp_sealed": None, "totp_last_step": 0},
}


@dataclass(frozen=True)
class Budget:
    """Wrong tries of one credential, by links with a ticket or without (R6)."""

    total: int = 0
    day_count: int = 0
    locked_until: datetime | None = None  # the day's tries are spent
    is_closed: bool = False  # all tries since the last success are spent


@dataclass(frozen=True)
class Credential:
    """One credential of a person. ``detail`` is a masked contact, or whether a password is ``long`` or ``short``."""

    method: str
    is_there: bool
    detail: str
    last_used_at: datetime | None
    open: Budget
    ticketed: Budget

    @property
    def can_be_reset(self) -> bool:
        """Whether it is something that the customer holds and an admin can take away or have set anew."""
        return self.method in RESETTABLE

    @property
    def is_locked(self) -> bool:
        """Whether it is closed now to anybody, even with the right proof."""
        return any(budget.is_closed or budget.locked_until is not None for budget in (self.open, self.ticketed))


@dataclass(frozen=True)
class IssuedSupportCode:
    """A temporary code to read out, or why there is none: a code of ``FAULTS``' keys."""

    code: str = ""
    expires_at: datetime | None = None
    fault: str = ""


class Credentials:
    """Looks at single people's credentials, and opens, closes and resets them."""

    def __init__(
        self, database: Database, keyring: Keyring, clock: Clock, journeys: Journeys, notices: Notices
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._journeys = journeys
        self._notices = notices

    def of(self, row: str) -> tuple[Credential, ...]:
        """Every credential of a person, those that are missing too. Raises NotFound."""
        snapshot, now = self._journeys.current(), self._clock()
        with self._database.read() as connection:
            person = get_person(connection, row)
            used = _last_uses(connection, row)
            tries = connection.execute(select(Tries.__table__).where(Tries.person_key == row)).all()
        counted = {(found.method, found.is_ticketed): found for found in tries}

        def budget(method: str, *, is_ticketed: bool) -> Budget:
            found = counted.get((method, is_ticketed))
            return _budget(found, bounds_of(snapshot, method), now) if found else Budget()

        return tuple(
            Credential(
                method, *self._standing(person, method, now), used.get(method),
                budget(method, is_ticketed=False), budget(method, is_ticketed=True),
            )
            for method in METHOD_NAMES
        )  # fmt: skip

    def _standing(self, person: Person, method: str, now: datetime) -> tuple[bool, str]:
        """Whether a credential is there, and what may be told of it."""
        if method in CARRIES:
            sealed = person.phone_sealed if CARRIES[method] == "sms" else person.email_sealed
            return sealed is not None, mask_contact(person.contact(CARRIES[method], self._keyring)) if sealed else ""
        held = ON_FILE[method]
        if held is OnFile.SUPPORT_CODE:
            until = person.support_code_expires_at
            return until is not None and now < until, ""
        if held is OnFile.TOTP:
            return person.totp_sealed is not None, ""
        length = "long" if person.password_is_long else "short"
        return person.password_sealed is not None, length if person.password_sealed is not None else ""

    def renew(self, row: str, *, admin_id: str | None = None, **facts: Any) -> None:
        """Opens every method of a person again after too many wrong tries (R6). Raises NotFound for nobody."""
        with self._database.write() as connection:
            person = get_person(connection, row)
            connection.execute(delete(Tries).where(Tries.person_key == row))
            self._record(connection, person, "credentials_renewed", admin_id, **facts)

    def reset(self, row: str, method: str, *, admin_id: str | None = None, **facts: Any) -> None:
        """Takes a password or an authenticator app away, tells the person, and ends links that would set one.

        Raises NotFound for nobody, and for a method that holds nothing of its own.
        """
        if method not in RESETTABLE:
            raise NotFound("not_found")
        now = self._clock()
        with self._database.write() as connection:
            person = get_person(connection, row)
            values = {**RESETTABLE[method], "changed_at": now}
            connection.execute(update(CustomerRow).where(CustomerRow.id == row).values(**values))
            unused = CredentialLink.used_at.is_(None)
            of_it = (CredentialLink.customer_row == row) & (CredentialLink.kind == method)
            connection.execute(delete(CredentialLink).where(of_it, unused))
            self._record(connection, person, "credential_reset", admin_id, method=method, **facts)
            text = "If you did not ask for this, please contact us at once."
            self._tell(connection, person, f"Your {method_name(method)} was removed", text)

    def issue_support_code(self, row: str, reason: str, *, admin_id: str) -> IssuedSupportCode:
        """One code of 8 digits for this person, for ten minutes and one use; a code before it is out of force (R19).

        ``reason`` is kept in the audit trail without digits and addresses. The caller has checked the second factor.
        Raises NotFound.
        """
        if fault := self._support_fault(row, reason):
            return IssuedSupportCode(fault=fault)
        now = self._clock()
        code_id, key_id = new_id(now), self._keyring.code_key_id
        until = now + timedelta(seconds=support_code.LIFE_SECONDS)
        values = {"support_code_id": code_id, "support_code_key_id": key_id, "support_code_expires_at": until}
        with self._database.write() as connection:
            person = get_person(connection, row)
            connection.execute(update(CustomerRow).where(CustomerRow.id == row).values(**values))
            self._record(connection, person, "support_code_issued", admin_id, reason=impersonal(reason))
            text = "Support has just issued a code to let you in. If you did not ask for it, contact us at once."
            self._tell(connection, person, "A temporary code was issued", text)
        return IssuedSupportCode(self._keyring.code(code_id, support_code.DIGITS, key_id), until)

    def _support_fault(self, row: str, reason: str) -> str:
        with self._database.read() as connection:
            person = get_person(connection, row)
        if not reason.strip():
            return "reason_missing"
        if len(reason) > REASON_LENGTH:
            return "reason_long"
        if not person.is_active:
            return "customer_off"
        if not self._notices.reach(contacts_of(person, self._keyring)):
            return "no_contact"  # R19: the person must learn of it
        return "" if self.takes_support_codes() else "no_journey"

    def takes_support_codes(self) -> bool:
        """Whether any journey in use accepts temporary codes."""
        return any(True for _ in _limits_of(self._journeys.current(), support_code.SupportCode.name))

    def _record(self, connection: Connection, person: Person, kind: str, admin_id: str | None, **facts: Any) -> None:
        audit.record(
            connection, self._keyring, self._clock(), kind, subject_id=person.subject_id, admin_id=admin_id, **facts
        )

    def _tell(self, connection: Connection, person: Person, subject: str, text: str) -> int:
        contacts = contacts_of(person, self._keyring)
        return self._notices.to_customer(connection, self._clock(), person.key, contacts, subject, text)


def contacts_of(person: Person, keyring: Keyring) -> Sequence[str]:
    """Where a person can be told something, whether or not they are switched on."""
    sealed = {"sms": person.phone_sealed, "email": person.email_sealed}
    return [person.contact(carries, keyring) for carries, value in sealed.items() if value is not None]


def bounds_of(snapshot: Snapshot, method: str) -> JourneyLimits:
    """The narrowest limits of wrong tries among the journeys in use that take this method."""
    found = [*_limits_of(snapshot, method)]
    if not found:
        return JourneyLimits()
    return JourneyLimits(
        credential_tries_day=min(limits.credential_tries_day for limits in found),
        credential_tries_total=min(limits.credential_tries_total for limits in found),
    )


def _limits_of(snapshot: Snapshot, method: str) -> Iterable[JourneyLimits]:
    for journey in snapshot.journeys.values():
        if journey.config.active and any(method in step.any_of for step in journey.config.verify_steps):
            yield journey.config.limits


def _budget(found: Any, bounds: JourneyLimits, now: datetime) -> Budget:
    day_count = found.day_count if found.day_ends_at > now else 0
    is_spent = day_count >= bounds.credential_tries_day
    return Budget(
        found.total,
        day_count,
        found.day_ends_at if is_spent else None,
        found.total >= bounds.credential_tries_total,
    )


def _last_uses(connection: Connection, row: str) -> Mapping[str, datetime]:
    """When each method last helped to verify the person."""
    verified = (Verification.customer_row == row) & (Verification.outcome == VERIFIED)
    found = select(Verification.methods, Verification.ended_at).where(verified)
    uses: dict[str, datetime] = {}
    for methods, ended_at in connection.execute(found.order_by(Verification.ended_at.desc()).limit(LOOKED_BACK)):
        for method in methods.split("+"):
            if ended_at is not None:
                uses.setdefault(method, ended_at)
    return uses


def impersonal(reason: str) -> str:
    """A reason as the audit trail may keep it for longer than the person: without digits and addresses."""
    return re.sub(r"\S+@\S+", "•@•", re.sub(r"\d", "•", " ".join(reason.split())))
