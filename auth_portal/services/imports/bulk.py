"""Customers that a program saves in one request: checked one by one, then written in one transaction, all or none.

Each fault names its place in the list. No customer is ever deleted in bulk.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import IntegrityError

from auth_portal.crypto import Keyring, Passwords
from auth_portal.errors import Conflict, Problem
from auth_portal.methods.password import is_long
from auth_portal.services.directory.batches import write_rows
from auth_portal.services.directory.fields import (
    CONTACTS,
    activity,
    change_notices,
    check,
    column_values,
    contact_times,
    differ_in_case,
    is_hash,
    new_row,
    recorded_changes,
)
from auth_portal.services.directory.person import CustomerNotices, as_changed, customer_key, hold_id_rule, shared_keys
from auth_portal.services.imports.csv import CASE, CustomerEntry, RowFault
from auth_portal.services.imports.staging import RESPELLED, Comparison, RowPlan
from auth_portal.store.db import Transactions, Work

# Customers of one write: one transaction of 35 ms on SQLite and 50 ms on PostgreSQL for new ones, and of 100 and 150 ms
# where each of them is notified of two changes (two shared cores, 2026-11-29).
MOST = 300
PLAIN_PASSWORDS = 20  # of one write: each takes about 25 ms of one core


@dataclass(frozen=True)
class CustomerInput:
    """What a program sends of one customer; a field that is None is cleared, a missing one stays as it is."""

    customer_id: str
    fields: Mapping[str, str | None]
    is_active: bool | None = None


@dataclass(frozen=True)
class SaveCounts:
    """How many of the customers of one write were new, changed, or already as sent."""

    new: int
    changed: int
    equal: int


def checked_entries(
    inputs: Sequence[CustomerInput], region: str, keyring: Keyring
) -> tuple[list[CustomerEntry], list[RowFault]]:
    """Return the customers in their one form, and all faults; a fault's row counts from 0."""
    entries: list[CustomerEntry] = []
    faults: list[RowFault] = []
    seen: dict[str, int] = {}
    hashes_left = PLAIN_PASSWORDS
    for number, one in enumerate(inputs):
        checked = check({"customer_id": one.customer_id, **one.fields}, region)
        found = dict(checked.faults)
        key = customer_key(keyring, one.customer_id)
        if (first := seen.setdefault(key, number)) != number:
            why = f"; {CASE}" if differ_in_case(inputs[first].customer_id, one.customer_id) else ""
            found["customer_id"] = f"is the same customer as number {first}{why}"
        password = checked.fields.get("password")
        hashes_left -= password is not None and not is_hash(password)
        if hashes_left < 0 and password is not None and not is_hash(password):
            found["password"] = f"is one of more than {PLAIN_PASSWORDS} that are not hashed"
        faults += [RowFault(number, name, reason) for name, reason in sorted(found.items())]
        cells = {name: text for name, text in checked.fields.items() if name != "customer_id"}
        entries.append(CustomerEntry(number, str(checked.fields.get("customer_id")), key, cells, one.is_active))
    return entries, faults


class BulkSave:
    """Create or change many customers in one transaction, each audited and notified as by a single change (R46)."""

    def __init__(self, transactions: Transactions, passwords: Passwords, notices: CustomerNotices) -> None:
        self._transactions = transactions
        self._passwords = passwords
        self._notices = notices
        self._comparison = Comparison(transactions)

    def save(
        self,
        entries: Sequence[CustomerEntry],
        *,
        along_with: Callable[[Work, SaveCounts], None] | None = None,
        **facts: Any,
    ) -> SaveCounts:
        """Create or change these customers; what an entry does not name stays as it is.

        ``along_with`` commits together with them. Plain passwords take about 25 ms of one core each. Raise Busy if too
        many are being hashed, and Conflict if one of the customers is created by another process at the same time.
        """
        columns = {name for entry in entries for name in entry.cells} | set(CONTACTS)  # notices go to these
        with self._passwords.slot():
            plans = self._comparison.plans(
                entries, columns, same=lambda stored, plain: stored.has_password(plain, self._passwords)
            )
            if respelled := [plan.entry.row for plan in plans if plan.is_respelled]:
                errors = [{"pointer": f"/customers/{row}/customer_id", "detail": RESPELLED} for row in respelled]
                raise Problem("body_invalid", status=422, errors=errors)
            plain = {plan.entry.key: password for plan in plans if (password := plan.plain_password) is not None}
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                hashes = dict(zip(plain, pool.map(self._passwords.hash, plain.values()), strict=True))
        new, equal = sum(plan.stored is None for plan in plans), sum(plan.is_equal for plan in plans)
        counts = SaveCounts(new, len(plans) - new - equal, equal)
        rows, changes = self._rows(plans, hashes)
        try:
            with self._transactions.write() as work:
                if not hold_id_rule(work.connection, work.keyring):
                    raise Conflict("customer_changed")
                if shared_keys(work.connection, [entry.key for entry in entries]):
                    raise Conflict("customer_id_shared")
                write_rows(work, rows, changes)
                created = {row["customer_key"]: (row["id"], row["subject_id"]) for row in rows}
                with work.together():
                    for plan in plans:
                        self._record(work, plan, created, facts)
                work.record("customers_saved", new=new, changed=counts.changed, equal=equal, **facts)
                if along_with is not None:
                    along_with(work, counts)
        except IntegrityError:
            raise Conflict("customer_changed") from None
        return counts

    def _record(
        self, work: Work, plan: RowPlan, created: Mapping[str, tuple[str, str]], facts: Mapping[str, Any]
    ) -> None:
        """Record what one customer's entry did, with the names of its fields, and notify the customer."""
        fields = sorted(plan.changes)
        if plan.stored is None:
            row_id, subject_id = created[plan.entry.key]
            work.record("customer_created", subject_id=subject_id, fields=fields, **facts)
            self._notices.customer_changed(work, row_id, plan.entry.customer_id, "created")
            return
        row, who = plan.stored.row, {"subject_id": plan.stored.row["subject_id"], **facts}
        if fields:
            changes = recorded_changes(plan.stored.texts, plan.changes)
            work.record("customer_changed", fields=fields, changes=changes, **who)
        if not plan.is_equal:
            self._notices.customer_changed(work, row["id"], row["customer_id"], "changed")
        if plan.is_active is not None:
            work.record("customer_enabled" if plan.is_active else "customer_disabled", **who)
        for notice in change_notices(plan.stored.texts, plan.changes):
            self._notices.to_customer(work, row["id"], notice.contacts, notice.subject, notice.text)

    def _rows(
        self, plans: Sequence[RowPlan], hashes: Mapping[str, str]
    ) -> tuple[list[Mapping[str, Any]], list[list[Mapping[str, Any]]]]:
        """Return the rows to insert, and those to update, grouped by the columns that change."""
        keyring, now = self._transactions.keyring, self._transactions.clock()
        rows: list[Mapping[str, Any]] = []
        changes: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
        for plan in plans:
            hashed = {"password": hashes[plan.entry.key]} if plan.entry.key in hashes else {}
            texts, long = {**plan.changes, **hashed}, is_long(plan.plain_password or "")
            if plan.stored is None:
                row = new_row(keyring, now, texts, is_long=long)
                rows.append({**row, **activity(keyring, row["id"], is_active=plan.is_active is not False)})
            elif not plan.is_equal:
                row_id = str(plan.stored.row["id"])
                is_active = plan.is_active
                switched = {} if is_active is None else activity(keyring, row_id, is_active=is_active)
                columns = column_values(keyring, row_id, texts, is_long=long)
                changed = {**as_changed(now), **contact_times(texts, now)}
                values = {"id": row_id, **columns, **changed, **switched}
                changes[tuple(values)].append(values)
        return rows, list(changes.values())
