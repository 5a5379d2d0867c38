"""Wrong tries: where they are counted, and the only answer to "are the tries spent?".

A wrong proof counts twice. Once for its verification, which ends when its tries are spent (R8). And once for the person
and method, over all verifications and strangers included (R6, R7): those are the rows of ``tries``, which close the
method for the rest of a day, or until support unlocks it. Links with a ticket have a budget apart from open links, so
that an attacker without a ticket locks no one out of a chat that has one.

Proofs, the dispatcher, a customer's page in the configuration, the home page and Reach all ask here. The rule for a
person is written for SQL in ``spent`` and for a count that was read in ``are_spent`` and ``opens_at``, side by side. A
verification's own tries are in its row: ``Case.tries_left``.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, bindparam, case, delete, false, not_, or_, select, text, update

from auth_portal.services import limits
from auth_portal.services.config.journey import JourneyConfig, JourneyLimits
from auth_portal.services.config.snapshot import Snapshot
from auth_portal.services.directory.credentials import Budget
from auth_portal.services.limits import DAY, HOUR, Limit
from auth_portal.services.verification.case import RENEW_PROMPT, Case, new_prompt, update_verification
from auth_portal.store.db import Compiled, Work, dialect_insert
from auth_portal.store.models import MANY_TRIES, CustomerRow, Tries, Verification, table_of

_VERIFICATIONS, _TRIES = table_of(Verification), table_of(Tries)
# Against counts that someone resets in the database (R54). One process counts up to four times a day's tries of a
# person within a day, if a window ends in it and support unlocks the method twice.
MOST_BUDGETS_A_DAY = 4
MOST_LOOKED_AT = 20_000  # people and methods with many tries, for the list of those who are locked: some 20 ms
MOST_REMEMBERED = 10_000  # people and methods, some 3 MB


# --- The rule


class TryCount(NamedTuple):
    """The wrong tries of a person with one method, by links with a ticket or without. A day that is over counts 0."""

    method: str
    is_ticketed: bool
    total: int
    day_count: int
    day_ends_at: datetime


def spent(now: Any, a_day: Any, in_total: Any) -> ColumnElement[bool]:
    """Return the condition for a row of ``tries`` that is at one of two bounds; each may be a value or a parameter."""
    is_spent_today = and_(_TRIES.c.day_ends_at > now, _TRIES.c.day_count >= a_day)
    return or_(_TRIES.c.total >= in_total, is_spent_today)


def are_spent(count: TryCount, bounds: JourneyLimits) -> bool:
    """Report whether these tries are at one of a journey's bounds."""
    return count.total >= bounds.credential_tries_total or count.day_count >= bounds.credential_tries_day


def opens_at(count: TryCount, bounds: JourneyLimits) -> datetime | None:
    """Return when spent tries are given back by themselves; None if support must unlock the method."""
    return None if count.total >= bounds.credential_tries_total else count.day_ends_at


def count_from(row: Any, now: datetime) -> TryCount:
    """Return the count of a row of ``tries``."""
    day_count = row.day_count if row.day_ends_at > now else 0
    return TryCount(row.method, row.is_ticketed, row.total, day_count, row.day_ends_at)


# --- When a proof is judged


class Memory:
    """The wrong tries that this process has counted, by person and method, whatever the database says of them (R54)."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, str | None, bool], tuple[int, datetime]] = OrderedDict()
        self._lock = threading.Lock()

    def is_spent(self, case: Case, now: datetime) -> bool:
        """Report whether a person has had more tries within a day than any honest database allows."""
        with self._lock:
            count, day_ends_at = self._counts.get(_counted_by(case), (0, now))
        return day_ends_at > now and count >= MOST_BUDGETS_A_DAY * case.journey.limits.credential_tries_day

    def note(self, case: Case, now: datetime) -> None:
        """Remember a wrong try."""
        key = _counted_by(case)
        with self._lock:
            count, day_ends_at = self._counts.pop(key, (0, now))
            if day_ends_at <= now:
                count, day_ends_at = 0, now + timedelta(seconds=DAY)
            self._counts[key] = count + 1, day_ends_at
            if len(self._counts) > MOST_REMEMBERED:
                self._counts.popitem(last=False)

    def forget(self, case: Case) -> None:
        """Forget the tries of a person who proved who they are."""
        with self._lock:
            self._counts.pop(_counted_by(case), None)


def _counted_by(case: Case) -> tuple[str, str | None, bool]:
    return case.person.key, case.method, _is_ticketed(case)


def count_for_person(work: Work, case: Case, memory: Memory, *, succeeded: bool) -> bool:
    """Count a wrong proof for the person and method, or clear the count after a right one, in one conditional write.

    Return False if their tries were spent before: then the proof counts as wrong, whatever it was (R6, R7). A password
    is counted as wrong before it is checked.
    """
    is_spent = memory.is_spent(case, work.now)
    succeeded = succeeded and not is_spent
    bounds, is_ticketed = case.journey.limits, _is_ticketed(case)
    values = {
        "person_key": case.person.key,
        "method": case.method,
        "is_ticketed": is_ticketed,
        "now": work.now,
        "day_end": work.now + timedelta(seconds=DAY),
        "a_day": bounds.credential_tries_day,
        "in_total": bounds.credential_tries_total,
    }
    counted = work.row(_counting(work.connection.dialect.name, succeeded), values)
    if counted is None:
        return False
    count = counted.day_count
    if is_spent:
        limits.note_broken(work, "tries", case.person.key, subject_id=case.person.subject_id)
        return False
    if not succeeded:
        memory.note(case, work.now)
        _note_spent(work, count, bounds)
        return True
    memory.forget(case)
    if is_ticketed:
        clear(work, case.person.key, case.method or "", is_ticketed=False)  # a success with a ticket opens both (R6)
    return True


def _note_spent(work: Work, count: int, bounds: JourneyLimits) -> None:
    """Count a credential that reaches its daily limit: many within the hour are an attack on the directory."""
    if count == bounds.credential_tries_day:
        alarm = Limit(limits.SPENT_CREDENTIALS, limits.SPENT_CREDENTIALS_ALARM, HOUR)
        (taken,) = limits.take(work, [alarm])
        if taken.is_over:
            work.log("many_credentials_spent", level=logging.WARNING, within_the_hour=taken.count)


def _is_ticketed(case: Case) -> bool:
    """Report whether the wrong tries of a case count against the budget of tickets.

    Only with a ticket that names a phone: a customer ID may have been typed into the chat, by anyone (R48).
    """
    return case.ticket is not None and case.ticket.phone_key is not None


@cache
def _counting(dialect: str, succeeded: bool) -> Compiled:
    """Return the statement that counts a proof and returns the wrong tries of the day."""
    first = 0 if succeeded else 1
    insert = dialect_insert(dialect, _TRIES).values(
        person_key=bindparam("person_key"),
        method=bindparam("method"),
        is_ticketed=bindparam("is_ticketed"),
        total=first,
        day_count=first,
        day_ends_at=bindparam("day_end"),
    )
    is_new_day = _TRIES.c.day_ends_at <= bindparam("now")
    counting = insert.on_conflict_do_update(
        index_elements=["person_key", "method", "is_ticketed"],
        set_={
            "total": 0 if succeeded else _TRIES.c.total + 1,
            "day_count": 0 if succeeded else case((is_new_day, 1), else_=_TRIES.c.day_count + 1),
            "day_ends_at": case((is_new_day, insert.excluded.day_ends_at), else_=_TRIES.c.day_ends_at),
        },
        where=not_(spent(bindparam("now"), bindparam("a_day"), bindparam("in_total"))),
    )
    return Compiled(counting.returning(_TRIES.c.day_count))


_TAKE_TRY = Compiled(
    update(_VERIFICATIONS)
    .where(
        _VERIFICATIONS.c.id == bindparam("of"),
        _VERIFICATIONS.c.outcome.is_(None),
        _VERIFICATIONS.c.wrong_tries < bindparam("bound"),
    )
    .values(wrong_tries=_VERIFICATIONS.c.wrong_tries + 1)
    .returning(_VERIFICATIONS.c.wrong_tries)
)


def count_for_verification(work: Work, case: Case) -> Case:
    """Count a wrong try for the verification (R8). Return the case with a new prompt: a double tap costs one try."""
    bound = case.journey.limits.wrong_tries
    taken = work.row(_TAKE_TRY, {"of": case.verification_id, "bound": bound})
    case = replace(case, wrong_tries=taken.wrong_tries if taken else bound, prompt=new_prompt())
    work.write(RENEW_PROMPT, {"of": case.visit_id, "prompt": case.prompt})
    return case


def give_back(work: Work, case: Case, memory: Memory) -> Case:
    """Take back the try that was counted ahead of a right proof, and clear the person's with this method (R11).

    ``case`` was read locked, so that its count is the row's.
    """
    memory.forget(case)
    clear(work, case.person.key, case.method or "", is_ticketed=_is_ticketed(case))
    case = replace(case, wrong_tries=case.wrong_tries - 1)
    update_verification(work, case, wrong_tries=case.wrong_tries)
    return case


# --- For other rooms: passed to the lower ones as ``directory.credentials.PersonTries``


def person_has_spent(work: Work, person_key: str, method: str, bounds: JourneyLimits, *, is_ticketed: bool) -> bool:
    """Report whether a person's tries with a method are spent: then no code is sent either."""
    found = select(_TRIES.c.method).where(
        _TRIES.c.person_key == person_key,
        _TRIES.c.method == method,
        _TRIES.c.is_ticketed.is_(is_ticketed),
        spent(work.now, bounds.credential_tries_day, bounds.credential_tries_total),
    )
    return work.execute(found).first() is not None


def budgets_of(work: Work, row: str, snapshot: Snapshot) -> Mapping[tuple[str, bool], Budget]:
    """Return the wrong tries of a customer by method and whether the links had a ticket."""
    budgets = {}
    for found in work.execute(select(_TRIES).where(_TRIES.c.person_key == row)):
        count = count_from(found, work.now)
        bounds = bounds_of(snapshot, count.method, is_ticketed=count.is_ticketed)
        is_spent = bounds is not None and are_spent(count, bounds)
        is_closed = is_spent and bounds is not None and opens_at(count, bounds) is None
        is_today = is_spent and bounds is not None and count.day_count >= bounds.credential_tries_day
        budgets[count.method, count.is_ticketed] = Budget(
            count.total, count.day_count, count.day_ends_at if is_today else None, is_closed
        )
    return budgets


def clear(work: Work, person_key: str, method: str, *, is_ticketed: bool) -> None:
    """Clear what a success has proved, and nothing else (R11); without a ticket only the budget of open links."""
    work.write(_CLEAR, {"of": person_key, "by": method, "both": is_ticketed})


_CLEAR = Compiled(
    update(_TRIES)
    .where(
        _TRIES.c.person_key == bindparam("of"),
        _TRIES.c.method == bindparam("by"),
        or_(_TRIES.c.is_ticketed.is_(False), _TRIES.c.is_ticketed == bindparam("both")),
    )
    .values(total=0, day_count=0)
)


def forget(work: Work, person_key: str) -> None:
    """Delete every count of a person: each method is open again."""
    work.execute(delete(_TRIES).where(_TRIES.c.person_key == person_key))


# --- For lists of customers


def bounds_of(snapshot: Snapshot, method: str, *, is_ticketed: bool) -> JourneyLimits | None:
    """Return the narrowest bounds among the active journeys in which these tries count; None if there is no such one.

    Each bound by itself: a customer is locked as soon as one journey refuses the method.
    """
    return narrowest(
        journey.config.limits
        for journey in snapshot.journeys.values()
        if journey.config.active and counts_in(journey.config, method, is_ticketed=is_ticketed)
    )


def counts_in(journey: JourneyConfig, method: str, *, is_ticketed: bool) -> bool:
    """Report whether a visit of this journey can meet these tries: one with phone_match has no open links."""
    if journey.defence.demands_ticket and not is_ticketed:
        return False
    return any(method in journey.defence.allowed(step.methods) for step in journey.verify_steps)


def narrowest(bounds: Iterable[JourneyLimits]) -> JourneyLimits | None:
    """Return the strictest of each bound, or None without any."""
    found = list(bounds)
    if not found:
        return None
    return JourneyLimits(
        credential_tries_day=min(one.credential_tries_day for one in found),
        credential_tries_total=min(one.credential_tries_total for one in found),
        changed_contact_hours=max(one.changed_contact_hours for one in found),
    )


def locked_customers(
    work: Work, snapshot: Snapshot, most: int
) -> tuple[list[tuple[str, str, TryCount, datetime | None]], bool]:
    """Return customers who cannot use a method now: row, customer ID, count, and when it opens by itself.

    They are looked for among the first MOST_LOOKED_AT with many tries, those who have been customers for longest. Also
    report whether these are all.
    """
    bounds = {
        (method, is_ticketed): found
        for method in {
            m for now in snapshot.journeys.values() for step in now.config.verify_steps for m in step.methods
        }
        for is_ticketed in (False, True)
        if (found := bounds_of(snapshot, method, is_ticketed=is_ticketed)) is not None
    }
    is_locked = [
        and_(
            _TRIES.c.method == method,
            _TRIES.c.is_ticketed.is_(is_ticketed),
            spent(work.now, found.credential_tries_day, found.credential_tries_total),
        )
        for (method, is_ticketed), found in bounds.items()
    ]
    many = text(MANY_TRIES)  # names the index, which is read in its order up to a bound
    some = select(_TRIES.c.person_key).where(many).order_by(_TRIES.c.person_key)
    behind = work.execute(some.offset(MOST_LOOKED_AT).limit(1)).scalar()
    rows = work.execute(
        select(CustomerRow.id, CustomerRow.customer_id, *(column for column in _TRIES.c if column.key != "person_key"))
        .join(_TRIES, CustomerRow.id == _TRIES.c.person_key)
        .where(many, _TRIES.c.person_key < (behind or "g"), or_(false(), *is_locked))
        .order_by(_TRIES.c.person_key)
        .limit(most)
    )
    counts = [(row, count_from(row, work.now)) for row in rows]
    locked = [
        (row.id, row.customer_id, count, opens_at(count, bounds[count.method, count.is_ticketed]))
        for row, count in counts
    ]
    return locked, behind is None
