"""Counts in windows: when a window ends, what is given back, what is swept away, and who is counted as one."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from auth_portal.crypto import Keyring
from auth_portal.errors import TooMany
from auth_portal.services import limits
from auth_portal.services.limits import Limit
from auth_portal.store.db import Transactions
from auth_portal.store.models import AuditEvent, Counter
from tests.services.conftest import NOW
from tests.world import FakeClock

TWO = Limit("two", 2, 60)
FOUR = Limit("four", 4, 60)


@pytest.fixture
def clock() -> FakeClock:
    moved = FakeClock()
    moved.now = NOW
    return moved


def events(transactions: Transactions) -> dict[str, int]:
    with transactions.read() as work:
        return {row.key: row.events for row in work.execute(select(Counter.key, Counter.events))}


def test_a_window_ends_on_time_and_the_next_event_begins_another(transactions: Transactions, clock: FakeClock) -> None:
    seen = []
    for seconds in (0, 30, 29, 1, 59, 1):
        clock.advance(seconds)
        with transactions.write() as work:
            (taken,) = limits.take(work, [TWO])
        seen.append((taken.count, taken.is_over))
    assert seen == [(1, False), (2, False), (3, True), (1, False), (2, False), (1, False)]


def test_where_one_limit_has_no_room_none_is_counted(transactions: Transactions) -> None:
    over = []
    for _ in range(4):
        with transactions.write() as work:
            over.append([item.is_over for item in limits.take_all(work, [TWO, FOUR])])
    assert over == [[False, False], [False, False], [False, True], [False, True]]
    assert events(transactions) == {"two": 2, "four": 2}


def test_a_refusal_says_how_long_its_window_lasts(transactions: Transactions, clock: FakeClock) -> None:
    for _ in range(2):
        with transactions.write() as work:
            limits.take_or_refuse(work, TWO, "too_many_begins")
    clock.advance(20.5)
    with transactions.write() as work, pytest.raises(TooMany) as caught:
        limits.take_or_refuse(work, TWO, "too_many_begins")
    assert (caught.value.code, caught.value.retry_after_seconds) == ("too_many_begins", 40)


def test_many_events_count_at_once(transactions: Transactions, clock: FakeClock) -> None:
    seen = []
    for seconds, more in ((0, {"b": 1, "a": 3}), (59, {"a": 2}), (1, {"a": 4}), (59, {"a": 1})):
        clock.advance(seconds)
        with transactions.write() as work:
            limits.count(work, more, 60)
        seen.append(events(transactions))
    assert seen == [{"a": 3, "b": 1}, {"a": 5, "b": 1}, {"a": 4, "b": 1}, {"a": 5, "b": 1}]


def test_counters_are_removed_a_minute_after_their_window(transactions: Transactions, clock: FakeClock) -> None:
    with transactions.write() as work:
        limits.take(work, [TWO])
    removed = []
    for seconds in (0, 119, 1, 1):
        clock.advance(seconds)
        with transactions.write() as work:
            removed.append(limits.sweep(work, 10))
    assert removed == [0, 0, 1, 0]


def test_a_changed_row_is_put_on_record_once_an_hour(transactions: Transactions, clock: FakeClock) -> None:
    for seconds, row in ((0, "row-1"), (3599, "row-2"), (1, "row-3")):
        clock.advance(seconds)
        with transactions.write() as work:
            limits.note_broken(work, "visits", row)
    with transactions.write() as work:
        limits.note_broken(work, "customers", "row-4", subject_id="subject-4")
    with transactions.read() as work:
        limits.note_broken(work, "tickets", "row-5", is_writing=False)
        found = work.execute(select(AuditEvent.facts, AuditEvent.subject_id)).all()
    named = [(one.facts["table"], one.facts.get("row"), one.subject_id) for one in found]
    assert sorted(named, key=str) == [
        ("customers", None, "subject-4"),
        ("visits", "row-1", None),
        ("visits", "row-3", None),
    ]


def test_addresses_that_cannot_be_read_are_counted_as_one(keyring: Keyring) -> None:
    unknown = {limits.address_key(address, keyring) for address in ("", "unix:", "somewhere")}
    assert len(unknown) == 1
    assert all(unknown)
    assert limits.address_key("192.0.2.1", keyring) not in unknown


def test_r49_half_of_the_people_without_success_are_no_brake_yet(transactions: Transactions) -> None:
    half = limits.ADDRESS_FLOOR + 2
    for number in range(half):
        assert ask(transactions, number)
        with transactions.write() as work:
            limits.note_successes(work, [("carrier", "ZA", f"person-{number}")])
    assert all(ask(transactions, number) for number in range(half, 2 * half))
    assert ask(transactions, 2 * half), "the first one that the brake slows down"
    assert not ask(transactions, 2 * half + 1)


def test_r49_those_that_a_brake_lets_through_count_for_the_address_alone(
    transactions: Transactions, clock: FakeClock
) -> None:
    """Or one address could slow a whole country."""
    asked = limits.ADDRESS_FLOOR + 3
    for number in range(asked):
        assert ask(transactions, number)
        clock.advance(0 if number < limits.ADDRESS_FLOOR else limits.BRAKED_SECONDS)
    people = {key.split(":")[1]: count for key, count in events(transactions).items() if key.startswith("people:")}
    assert people == {"carrier": asked, "ZA": limits.ADDRESS_FLOOR}


def ask(transactions: Transactions, number: int) -> bool:
    with transactions.write() as work:
        return limits.may_pay_for(work, "carrier", "ZA", f"person-{number}")
