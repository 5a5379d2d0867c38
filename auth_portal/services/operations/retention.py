"""Retention (E3): remove what has been stored for long enough, in batches so short that no other writer notices.

Ids begin with the time at which they were made, so old rows are found by the primary key and nothing is scanned twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Select, delete, exists, func, literal, or_, select, tuple_

from auth_portal.services import limits
from auth_portal.services.access import admin_sessions, api_answers
from auth_portal.services.audit_chain import cut_chain
from auth_portal.services.config.portal import PortalSettings, Retention
from auth_portal.services.directory import batches
from auth_portal.services.limits import HOUR, Limit
from auth_portal.store.db import Transactions, Work, dialect_insert, first_id, hour_of
from auth_portal.store.models import (
    ALL_HOURS,
    DRIVES_STORED,
    PORTAL_ROW,
    READ_AGAIN,
    Acceptance,
    AdminLink,
    AdminSession,
    AlertRow,
    AnswerRow,
    Attempt,
    Base,
    Challenge,
    CredentialLink,
    CustomerRemoval,
    CustomerRow,
    Delivery,
    DriveRow,
    HourlyCount,
    Journey,
    JourneyVersion,
    Logo,
    Portal,
    TicketRow,
    Tries,
    Verification,
    Visit,
    table_of,
)
from auth_portal.telemetry import BY_POINT, BY_RANGE, SUMMED, log_event

BATCH = 200  # rows and all that depends on them, removed in one transaction: a few milliseconds
TRIES_STORED = timedelta(days=30)  # of strangers only: the count of a customer stays until a success (R7)
HOURS_STORED = timedelta(days=396)  # 13 months
# A chat lasts for a day at most, and so does a process that holds counts back: older ones stay as they are.
COUNTS_STAND = timedelta(days=2)
SUMS_SHOWN = timedelta(days=62)  # twice the longest range of Home
TURN = Limit("prune-turn", 1, HOUR)

IsStopping = Callable[[], bool]
"""Asked between batches; what is left then is removed the next time."""


class Housekeeping:
    """Prune once an hour, and complete what an older version wrote, in any number of processes at the same time."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def complete(self, is_stopping: IsStopping = lambda: False) -> None:
        """Add what an older version did not write: one form of each customer ID, and the countries of phones.

        Once done, this costs three look-ups.
        """
        database, keyring = self._transactions.database, self._transactions.keyring
        if read := batches.read_ids_again(database, lambda: keyring, is_stopping=is_stopping):
            log_event("customer_ids_read_again", customers=read)
        if learned := batches.add_countries(database, keyring, is_stopping=is_stopping):
            log_event("phone_countries_learned", customers=learned)

    def tidy(self, is_stopping: IsStopping = lambda: False) -> None:
        """Prune if no process has within the hour."""
        with self._transactions.write() as work:
            (taken,) = limits.take(work, [TURN])
        if taken.is_over:
            return
        sum_hours(self._transactions, is_stopping=is_stopping)
        removed = prune(self._transactions, is_stopping=is_stopping)
        if any(removed.values()):
            log_event("pruned", **{kind.replace(" ", "_").replace("'", ""): count for kind, count in removed.items()})


def sum_hours(transactions: Transactions, *, is_stopping: IsStopping = lambda: False) -> None:
    """Add up what was counted in each block of hours whose counts stand, for Home: a short transaction for each."""
    counts, due = table_of(HourlyCount).c, []
    with transactions.read() as work:
        end, since = work.now - COUNTS_STAND, work.now - SUMS_SHOWN
        oldest = work.execute(select(func.min(counts.hour)).where(counts.hour > ALL_HOURS)).scalar()
        hour = hour_of(max(oldest or end, since))
        for block in SUMMED:
            begin, step = hour - timedelta(hours=hour.hour % block.hours), timedelta(hours=block.hours)
            firsts = [begin + number * step for number in range((end - begin) // step)]
            is_marked = counts.hour.in_(firsts), counts.name == block.mark, counts.labels == "[]"
            marked = set(work.execute(select(counts.hour).where(*is_marked)).scalars())
            due += [(block, first) for first in firsts if first not in marked]
    for block, first in due:
        if is_stopping():
            return
        hours = [first + timedelta(hours=number) for number in range(block.hours)]
        name, total = literal(block.prefix).concat(counts.name), func.sum(counts.value)
        added = select(literal(first, counts.hour.type), name, counts.labels, total)
        added = added.where(counts.hour.in_(hours), counts.name.in_((*BY_POINT, *BY_RANGE)))
        with transactions.write() as work:
            row = dialect_insert(work.connection.dialect.name, counts.hour.table)
            sums = row.from_select([column.name for column in counts], added.group_by(counts.name, counts.labels))
            key = [counts.hour, counts.name, counts.labels]
            # Another process may be at it as well: both come to the same.
            work.execute(sums.on_conflict_do_update(index_elements=key, set_={"value": row.excluded.value}))
            mark = row.values(hour=first, name=block.mark, labels="[]", value=1)
            work.execute(mark.on_conflict_do_nothing(index_elements=key))


def prune(transactions: Transactions, *, is_stopping: IsStopping = lambda: False) -> dict[str, int]:
    """Remove what is due; return how many rows of each kind. Safe to run at any time, and several times at once."""
    with transactions.read() as work:
        stored = work.execute(select(Portal.settings).where(Portal.id == PORTAL_ROW)).scalar_one_or_none()
        now, retention = work.now, PortalSettings.model_validate(stored or {}).retention
    rules = [*_rules_of_customers(now, retention), *_rules_of_admins(now, retention)]
    removed = dict.fromkeys((rule.kind for rule in rules), 0)
    for rule in rules:
        while not is_stopping():
            with transactions.read() as work:
                keys = [tuple(row) if len(row) > 1 else row[0] for row in work.execute(rule.due.limit(BATCH))]
            if not keys:
                break
            with transactions.write() as work:
                rule.remove(work, keys)
            removed[rule.kind] += len(keys)
    removed["audit events"] = _sweep(
        transactions, lambda work, most: cut_chain(work, retention.audit_stored, most), is_stopping
    )
    removed["counters"] = _sweep(transactions, limits.sweep, is_stopping)
    removed["stored API answers"] = _sweep(transactions, api_answers.sweep, is_stopping)
    if any(removed.values()):
        transactions.database.compact()
    return removed


def _sweep(transactions: Transactions, sweep: Callable[[Work, int], int], is_stopping: IsStopping) -> int:
    """Run a sweep, which removes a batch and returns its size, until nothing is left; return how many it removed."""
    total = 0
    while not is_stopping():
        with transactions.write() as work:
            removed = sweep(work, BATCH)
        if not removed:
            break
        total += removed
    return total


class Rule(NamedTuple):
    """One kind of row: which ones are due, by their keys, and how those are removed."""

    kind: str
    due: Any  # a select of those keys
    remove: Callable[[Work, Sequence[Any]], object]


def _rules_of_customers(now: datetime, retention: Retention) -> Iterator[Rule]:
    codes, records = now - timedelta(hours=retention.codes_hours), now - retention.records_stored
    due: Select[Any] = select(Challenge.id).where(Challenge.id < first_id(codes), Challenge.expires_at < codes)
    yield Rule("codes", due, _rows_of(Challenge))
    due = select(Verification.id).where(
        Verification.id < first_id(records), Verification.outcome.is_not(None), Verification.ended_at < records
    )
    yield Rule("verifications", due, _remove_verifications)
    due = select(TicketRow.id).where(TicketRow.id < first_id(records), TicketRow.ends_at < records)
    yield Rule("tickets", due, _rows_of(TicketRow))
    due = select(Delivery.id).where(
        Delivery.id < first_id(records), Delivery.verification_id.is_(None), Delivery.ended_at < records
    )
    yield Rule("notices", due, _remove_deliveries)
    due = select(CredentialLink.id).where(CredentialLink.expires_at < codes)
    yield Rule("customers' links", due, _rows_of(CredentialLink))
    yield Rule("answers", select(AnswerRow.id).where(AnswerRow.expires_at < now), _rows_of(AnswerRow))
    due = select(CustomerRemoval.id).where(CustomerRemoval.removed_at < now - retention.audit_stored)
    yield Rule("ids of erased customers", due, batches.forget_removals)
    # What a customer accepted is on record for as long as the customer is.
    due = select(Acceptance.id).where(Acceptance.id < first_id(records), Acceptance.customer_row.is_(None))
    yield Rule("acceptances without a customer", due, _rows_of(Acceptance))
    is_customer = exists().where(CustomerRow.id == Tries.person_key)
    old = select(*_TRIES).where(Tries.day_ends_at < now - TRIES_STORED, ~is_customer)
    yield Rule("counts of strangers", old, lambda work, keys: work.execute(delete(Tries).where(_TRY.in_(keys))))


def _rules_of_admins(now: datetime, retention: Retention) -> Iterator[Rule]:
    codes, records = now - timedelta(hours=retention.codes_hours), now - retention.records_stored
    due: Select[Any] = select(AlertRow.id).where(AlertRow.id < first_id(records), AlertRow.ended_at < records)
    yield Rule("alerts", due, _rows_of(AlertRow))
    due = select(AdminSession.id).where(AdminSession.began_at < now - admin_sessions.REMEMBERED)
    yield Rule("admins' sessions and links", due, _rows_of(AdminSession))
    due = select(AdminLink.id).where(AdminLink.expires_at < codes)
    yield Rule("admins' sessions and links", due, _rows_of(AdminLink))
    due = select(DriveRow.id).where(DriveRow.ends_at < now - DRIVES_STORED)
    yield Rule("test drives", due, _rows_of(DriveRow))
    old = select(*_HOURLY).where(HourlyCount.hour > ALL_HOURS, HourlyCount.hour < now - HOURS_STORED)
    yield Rule("counts of hours", old, lambda work, keys: work.execute(delete(HourlyCount).where(_HOUR.in_(keys))))
    is_referred_to = exists().where(JourneyVersion.journey_id == Journey.id, _IS_USED)
    due = select(Journey.id).where(Journey.deleted_at < records, ~is_referred_to)
    yield Rule("deleted journeys", due, _remove_journeys)
    named = [
        exists().where(document[key].as_string() == Logo.digest)
        for document in (JourneyVersion.document, Portal.settings)
        for key in ("logo", "logo_dark")
    ]
    due = select(Logo.digest).where(Logo.created_at < records, ~or_(*named))
    yield Rule("logos", due, _rows_of(Logo))


_HOURLY = (HourlyCount.hour, HourlyCount.name, HourlyCount.labels)
_HOUR = tuple_(*_HOURLY)
_TRIES = (Tries.person_key, Tries.method, Tries.is_ticketed)
_TRY = tuple_(*_TRIES)
_IS_USED = exists().where(Verification.version_id == JourneyVersion.id)


def _rows_of(model: type[Base]) -> Callable[[Work, Sequence[Any]], object]:
    """Return what deletes the rows of a table by their ids."""
    table = table_of(model)
    (key,) = table.primary_key
    return lambda work, keys: work.execute(delete(table).where(key.in_(keys)))


def _remove_verifications(work: Work, ids: Sequence[Any]) -> None:
    deliveries = select(Delivery.id).where(Delivery.verification_id.in_(ids))
    work.execute(deliveries.with_for_update())  # no attempt is added to them from here on
    work.execute(delete(Attempt).where(Attempt.delivery_id.in_(deliveries)))
    for table in (Delivery, Challenge, Visit):
        work.execute(delete(table).where(table.verification_id.in_(ids)))
    work.execute(delete(Verification).where(Verification.id.in_(ids)))


def _remove_deliveries(work: Work, ids: Sequence[Any]) -> None:
    work.execute(select(Delivery.id).where(Delivery.id.in_(ids)).with_for_update())  # as above
    work.execute(delete(Attempt).where(Attempt.delivery_id.in_(ids)))
    work.execute(delete(Delivery).where(Delivery.id.in_(ids)))


def _remove_journeys(work: Work, ids: Sequence[Any]) -> None:
    # A verification may have begun under one of their versions since they were found.
    work.execute(delete(JourneyVersion).where(JourneyVersion.journey_id.in_(ids), ~_IS_USED))
    has_versions = exists().where(JourneyVersion.journey_id == Journey.id)
    work.execute(delete(Journey).where(Journey.id.in_(ids), ~has_versions))
    # Their links were closed pages until now; a server that went on showing them would begin under nothing.
    work.execute(READ_AGAIN)
