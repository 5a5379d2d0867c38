"""A customer's credentials as support sees them: which there are, when each last worked, and which are locked.

Support can unlock what wrong tries have locked, remove a credential, and read out one temporary code (R19). Nothing
here shows a password, a seed or a code that was sent. The customer is notified of a removal and of a temporary code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import select, update

from auth_portal.errors import NotFound
from auth_portal.methods import CARRIES, METHOD_NAMES, ON_FILE, OnFile, method_name, support_code
from auth_portal.services.config.journey import JourneyLimits
from auth_portal.services.config.snapshot import Journeys, Snapshot
from auth_portal.services.directory.person import (
    CustomerNotices,
    Person,
    as_changed,
    end_links,
    get_person,
    mask_contact,
    support_code_values,
)
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import VERIFIED, CustomerRow, Verification, signed_columns

REASON_LENGTH = 200
LOOKED_BACK = 200  # verifications of a customer that are searched for the last use of each credential
SUPPORT_TEXT = "Our support team created a code to verify you. If you didn't ask for it, contact us immediately."
RESETTABLE: Mapping[str, Mapping[str, Any]] = {  # by method: the columns after its credential was removed
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


class PersonTries(Protocol):
    """The wrong tries of persons, as the module ``verification.tries`` knows them."""

    def person_has_spent(
        self, work: Work, person_key: str, method: str, bounds: JourneyLimits, *, is_ticketed: bool
    ) -> bool:
        """Report whether a person's tries with a method are spent."""
        ...

    def budgets_of(self, work: Work, row: str, snapshot: Snapshot) -> Mapping[tuple[str, bool], Budget]:
        """Return the wrong tries of a customer by method and whether the links had a ticket."""
        ...

    def clear(self, work: Work, person_key: str, method: str, *, is_ticketed: bool) -> None:
        """Clear the wrong tries with a method."""
        ...

    def forget(self, work: Work, person_key: str) -> None:
        """Delete every count of a person."""
        ...


@dataclass(frozen=True)
class Credential:
    """One credential of a customer. ``detail`` is a masked contact, or ``long`` or ``short`` for a password."""

    method: str
    is_there: bool
    detail: str
    last_used_at: datetime | None
    open: Budget
    ticketed: Budget

    @property
    def can_be_reset(self) -> bool:
        """Report whether an admin can remove it, or have the customer set it again."""
        return self.method in RESETTABLE

    @property
    def is_locked(self) -> bool:
        """Report whether it is locked even for the right proof."""
        return any(budget.is_closed or budget.locked_until is not None for budget in (self.open, self.ticketed))


@dataclass(frozen=True)
class IssuedSupportCode:
    """A temporary code to read out, or the code of the fault for which none was issued."""

    code: str = ""
    expires_at: datetime | None = None
    fault: str = ""


class Credentials:
    """Show the credentials of single customers, and unlock and remove them."""

    def __init__(
        self, transactions: Transactions, journeys: Journeys, notices: CustomerNotices, tries: PersonTries
    ) -> None:
        self._transactions = transactions
        self._tries = tries
        self._journeys = journeys
        self._notices = notices

    def of(self, row: str) -> tuple[Credential, ...]:
        """Return a credential for every method, missing ones too. Raise NotFound."""
        with self._transactions.read() as work:
            person = get_person(work.connection, row)
            verified = select(*signed_columns(Verification), Verification.ended_at).where(
                Verification.customer_row == row, Verification.outcome == VERIFIED
            )
            found = work.execute(verified.order_by(Verification.ended_at.desc()).limit(LOOKED_BACK)).all()
            newest = work.keyring.held("verifications", found, "")
            budgets = self._tries.budgets_of(work, row, self._journeys.current())
        last_used = {method: one.ended_at for one in reversed(newest) for method in one.methods.split("+")}
        credentials = []
        for method in METHOD_NAMES:
            is_there, detail = _on_file(work, person, method)
            credentials.append(
                Credential(
                    method,
                    is_there,
                    detail,
                    last_used_at=last_used.get(method),
                    open=budgets.get((method, False), Budget()),
                    ticketed=budgets.get((method, True), Budget()),
                )
            )
        return tuple(credentials)

    def renew(self, row: str, *, admin_id: str | None = None, **facts: Any) -> None:
        """Unlock every method of a customer after too many wrong tries (R6). Raise NotFound."""
        with self._transactions.write() as work:
            person = get_person(work.connection, row)
            self._tries.forget(work, row)
            work.record("credentials_renewed", subject_id=person.subject_id, admin_id=admin_id, **facts)

    def reset(self, row: str, method: str, *, admin_id: str | None = None, **facts: Any) -> None:
        """Remove a password or an authenticator app, notify the customer, and end links that would set one.

        Raise NotFound for an unknown customer, and for a method without a credential that can be removed.
        """
        if method not in RESETTABLE:
            raise NotFound("not_found")
        with self._transactions.write() as work:
            person = get_person(work.connection, row)
            values = {**RESETTABLE[method], **as_changed(work.now)}
            work.execute(update(CustomerRow).where(CustomerRow.id == row).values(**values))
            end_links(work, [row], method)
            facts |= {"subject_id": person.subject_id, "admin_id": admin_id, "method": method}
            work.record("credential_reset", **facts)
            self._notices.customer_changed(work, row, person.customer_id, "changed")
            subject = f"Your {method_name(method)} was removed"
            text = "If you didn't ask for this, contact us immediately."
            self._notices.to_customer(work, person.key, person.contacts(work.keyring), subject, text)

    def issue_support_code(self, row: str, reason: str, *, admin_id: str) -> IssuedSupportCode:
        """Issue one code of 8 digits for ten minutes and one use; it replaces an earlier one (R19).

        ``reason`` is stored in the audit trail without digits and addresses. The caller has checked the second factor.
        Raise NotFound.
        """
        with self._transactions.read() as work:
            person = get_person(work.connection, row)
        if fault := self._support_fault(person, reason):
            return IssuedSupportCode(fault=fault)
        with self._transactions.write() as work:
            person = get_person(work.connection, row)
            until = work.now + timedelta(seconds=support_code.LIFE_SECONDS)
            values = support_code_values(work, row, until)
            work.execute(update(CustomerRow).where(CustomerRow.id == row).values(**values))
            facts = {"subject_id": person.subject_id, "admin_id": admin_id}
            work.record("support_code_issued", **facts, reason=without_identifiers(reason))
            contacts = person.contacts(work.keyring)
            self._notices.to_customer(work, person.key, contacts, "A temporary code was issued", SUPPORT_TEXT)
        code_id, key_id = values["support_code_id"], values["support_code_key_id"]
        return IssuedSupportCode(work.keyring.code(code_id, support_code.DIGITS, key_id), until)

    def _support_fault(self, person: Person, reason: str) -> str:
        if not reason.strip():
            return "reason_missing"
        if len(reason) > REASON_LENGTH:
            return "reason_long"
        if not person.is_active:
            return "customer_off"
        if not self._notices.reach(person.contacts(self._transactions.keyring)):
            return "no_contact"  # R19: the customer must learn of it
        return "" if self.takes_support_codes() else "no_journey"

    def takes_support_codes(self) -> bool:
        """Report whether any active journey accepts temporary codes."""
        journeys = [now.config for now in self._journeys.current().journeys.values() if now.config.active]
        return any(support_code.SupportCode.name in step.methods for one in journeys for step in one.verify_steps)


def without_identifiers(reason: str) -> str:
    """Return a reason as the audit trail may store it for longer than the customer: without digits and addresses."""
    return re.sub(r"\S+@\S+", "•@•", re.sub(r"\d", "•", " ".join(reason.split())))


def _on_file(work: Work, person: Person, method: str) -> tuple[bool, str]:
    """Report whether a credential is there, and what support may see of it."""
    if method in CARRIES:
        sealed = person.phone_sealed if CARRIES[method] == "sms" else person.email_sealed
        return sealed is not None, mask_contact(person.contact(CARRIES[method], work.keyring)) if sealed else ""
    held = ON_FILE[method]
    if held is OnFile.SUPPORT_CODE:
        until = person.support_code_expires_at
        return until is not None and work.now < until, ""
    if held is OnFile.TOTP:
        return person.totp_sealed is not None, ""
    length = "long" if person.password_is_long else "short"
    return person.password_sealed is not None, length if person.password_sealed is not None else ""
