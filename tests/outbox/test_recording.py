"""What attempts came to is recorded together, and one of them never decides about another (D1, D5, D7)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.exc import OperationalError

from auth_portal.services import limits
from auth_portal.services.delivery.outbox import (
    LEASE_SECONDS,
    AttemptReport,
    ClaimedDelivery,
    FinishedAttempt,
    Outbox,
    Recorded,
)
from auth_portal.services.operations.dispatcher import MOST_TOGETHER, USED_TOGETHER_SECONDS, Crew, Lane, Pace
from auth_portal.store.db import BRIEF_MILLISECONDS, Database, Transactions, Work
from auth_portal.store.models import CALLBACK, Attempt, Counter, Delivery, DeliveryState
from tests.outbox.test_backlog import FEW, MANY, analyse, efforts, fill
from tests.receiver import GIVE_UP_SECONDS, wait_for
from tests.services.conftest import NOW, clock, transactions, unheard
from tests.world import is_at_rest

__all__ = ["clock", "transactions"]  # fixtures

ACCEPTED = AttemptReport(DeliveryState.ACCEPTED, "accepted", 200, "HTTP 200")
REFUSED = AttemptReport(DeliveryState.REFUSED, "refused", 404, "HTTP 404")
RETRY = AttemptReport(DeliveryState.PENDING, "retry", 503, "HTTP 503")
only_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def nothing(_work: Work, _recorded: Recorded) -> None:
    """Nothing else follows."""


def finished(claimed: ClaimedDelivery, report: AttemptReport = ACCEPTED) -> FinishedAttempt:
    return FinishedAttempt(claimed, report, 7)


def claimed(transactions: Transactions, count: int, after_seconds: float = 0) -> list[ClaimedDelivery]:
    """Claims, as another process would whose clock is so far ahead."""
    ahead = Transactions(transactions.database, transactions.keyring, lambda: NOW + timedelta(seconds=after_seconds))
    return Outbox(ahead, unheard).claim(CALLBACK, count)


def states(transactions: Transactions) -> dict[str, tuple[str, int, bool]]:
    """Of what was ever claimed: where it stands, how often it was tried, and whether it is on its way."""
    with transactions.read() as work:
        rows = work.execute(select(Delivery).where(Delivery.attempts > 0)).all()
        return {row.id: (row.state, row.attempts, row.leased_until is not None) for row in rows}


def fates(transactions: Transactions) -> dict[tuple[str, int], tuple[str, bool]]:
    with transactions.read() as work:
        return {
            (row.delivery_id, row.number): (row.fate, row.ended_at is not None) for row in work.execute(select(Attempt))
        }


def test_attempts_of_every_kind_are_recorded_at_once(transactions: Transactions) -> None:
    fill(transactions.database, 30)
    one, two, three = claimed(transactions, 3)
    outbox = Outbox(transactions, unheard)
    stands = outbox.record_together([finished(one), finished(two, REFUSED), finished(three, RETRY)], nothing)
    assert stands == {one.id: "accepted", two.id: "refused", three.id: "pending"}
    assert states(transactions) == {
        one.id: ("accepted", 1, False),
        two.id: ("refused", 1, False),
        three.id: ("pending", 1, False),
    }
    assert fates(transactions) == {
        (one.id, 1): ("accepted", True),
        (two.id, 1): ("refused", True),
        (three.id, 1): ("retry", True),
    }
    with transactions.read() as work:
        row = work.execute(select(Attempt).where(Attempt.delivery_id == two.id)).one()
        assert (row.ended_at, row.milliseconds, row.status, row.detail) == (NOW, 7, 404, "HTTP 404")
        ended = work.execute(select(Delivery).where(Delivery.id == two.id)).one()
        assert (ended.ended_at, ended.reason, ended.is_unclear) == (NOW, "HTTP 404", False)
    assert three.id in {one.id for one in claimed(transactions, 50)}, "it is due again at once"


def test_d07_one_that_was_overtaken_changes_nothing_and_harms_no_other(transactions: Transactions) -> None:
    fill(transactions.database, 30)
    first = claimed(transactions, 3)
    assert {one.id for one in claimed(transactions, 50, LEASE_SECONDS + 1)} >= {one.id for one in first}
    with transactions.write() as work:  # two of them are still the first one's
        work.execute(update(Delivery).where(Delivery.id.in_([one.id for one in first[:2]])).values(attempts=1))
    outbox = Outbox(transactions, unheard)
    stands = outbox.record_together([finished(one, REFUSED) for one in first], nothing)
    assert set(stands) == {one.id for one in first[:2]}
    overtaken = first[2]
    assert states(transactions)[overtaken.id] == ("pending", 2, True)
    assert fates(transactions)[overtaken.id, 1] == ("unknown", False)
    assert outbox.record(finished(overtaken, REFUSED), nothing) == "pending"
    assert states(transactions)[overtaken.id] == ("pending", 2, True), "the next holder's"
    assert fates(transactions)[overtaken.id, 1] == ("refused", True)
    assert outbox.record(finished(overtaken), nothing) == "accepted"
    assert states(transactions)[overtaken.id] == ("accepted", 2, True), "the other side has it, whatever comes"


@only_postgresql
def test_d05_a_row_that_another_transaction_holds_keeps_no_other_waiting(transactions: Transactions) -> None:
    fill(transactions.database, 30)
    held, *others = claimed(transactions, 3)
    outbox = Outbox(transactions, unheard)
    with transactions.write() as work:
        work.execute(select(Delivery.id).where(Delivery.id == held.id).with_for_update())
        stands = outbox.record_together([finished(one) for one in (held, *others)], nothing)
        assert set(stands) == {one.id for one in others}
    assert outbox.record(finished(held), nothing) == "accepted"
    assert {state for state, *_rest in states(transactions).values()} == {"accepted"}


@only_postgresql
def test_d05_a_counter_that_another_transaction_holds_keeps_it_waiting_for_a_moment(
    transactions: Transactions,
) -> None:
    fill(transactions.database, 30)
    ended = [finished(one) for one in claimed(transactions, 3)]
    outbox = Outbox(transactions, unheard)

    def count(work: Work, _recorded: Recorded) -> None:
        limits.note_answers(work, [("somewhere", False)])

    with transactions.write() as work:
        count(work, ())
        with pytest.raises(OperationalError, match="lock timeout"):
            outbox.record_together(ended, count)
    assert set(fates(transactions).values()) == {("unknown", False)}
    assert len(outbox.record_together(ended, count)) == 3
    assert BRIEF_MILLISECONDS / 1000 < LEASE_SECONDS


@pytest.mark.parametrize("is_analysed", [True, False], ids=["analysed", "unanalysed"])
def test_d05_recording_costs_the_same_whatever_the_outbox_holds(transactions: Transactions, is_analysed: bool) -> None:
    found = []
    for count in (FEW, MANY):
        fill(transactions.database, count, state="accepted")
        fill(transactions.database, count)
        if is_analysed or count == FEW:
            analyse(transactions.database)
        ended = [finished(one) for one in claimed(transactions, 8)]
        found.append(sum(efforts(transactions, partial(Outbox(transactions, unheard).record_together, ended, nothing))))
    few, many = found
    assert 0 < many < 3 * few, found


class Flow:
    """A sender whose attempts end when the test says so, and that counts what is recorded together."""

    def __init__(self, count: int) -> None:
        self.let_go = threading.Event()
        self.batches: list[int] = []
        self.spoilt: set[str] = set()
        self.is_recording = threading.Event()
        self._all_sent = threading.Barrier(count)

    def send(self, claimed: ClaimedDelivery) -> FinishedAttempt:
        if self._all_sent.wait(GIVE_UP_SECONDS) > 0:  # one ends first, the others while that is being recorded
            assert self.is_recording.wait(GIVE_UP_SECONDS)
        return finished(claimed)

    def note(self, _work: Work, recorded: Recorded) -> None:
        self.batches.append(len(recorded))
        if len(self.batches) == 1:
            self.is_recording.set()
            assert self.let_go.wait(GIVE_UP_SECONDS)
        if self.spoilt & {one.delivery.id for one, _state in recorded}:
            raise ValueError("what it was made from was erased")


COUNT = 6


@contextmanager
def ended_together(transactions: Transactions, flow: Flow) -> Iterator[Lane]:
    """A lane whose first attempt is being recorded while all of the others wait for that."""
    lane = Lane(CALLBACK, Outbox(transactions, unheard), flow, transactions.machine, threads=64, pace=Pace(60, 60))
    lane.start()
    try:
        wait_for(lambda: len(lane._finished) + sum(flow.batches) == COUNT and bool(flow.batches))
        yield lane
    finally:
        flow.let_go.set()
        lane.stop(10)


def fill_due(database: Database, count: int) -> None:
    """So many that are due."""
    fill(database, count)
    with database.write() as connection:
        connection.execute(update(Delivery).values(next_at=NOW - timedelta(minutes=1)))


def commits(database: Database) -> list[object]:
    seen: list[object] = []
    event.listen(database.engine, "commit", seen.append)
    return seen


def test_what_ended_meanwhile_is_recorded_in_one_transaction(transactions: Transactions) -> None:
    fill_due(transactions.database, COUNT)
    flow = Flow(COUNT)
    with ended_together(transactions, flow) as lane:
        first = flow.batches[0]
        seen = commits(transactions.database)
        flow.let_go.set()
        wait_for(lambda: is_at_rest(lane))
        assert flow.batches == [first, COUNT - first]
        assert len(seen) == 2
    assert set(states(transactions).values()) == {("accepted", 1, False)}
    assert set(fates(transactions).values()) == {("accepted", True)}


class SlowDatabase:
    """A sender whose attempts end at once, while what records the first of them waits for the test."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.sent: list[str] = []

    def send(self, claimed: ClaimedDelivery) -> FinishedAttempt:
        self.sent.append(claimed.id)
        return finished(claimed)

    def note(self, _work: Work, _recorded: Recorded) -> None:
        assert self.let_go.wait(GIVE_UP_SECONDS)


@only_postgresql
def test_threads_go_on_while_their_reports_wait_until_there_are_many(transactions: Transactions) -> None:
    count, threads = 3 * MOST_TOGETHER, 16
    fill_due(transactions.database, count)
    flow = SlowDatabase()
    lane = Lane(CALLBACK, Outbox(transactions, unheard), flow, transactions.machine, threads=threads, pace=Pace(60, 60))
    lane.start()
    try:
        wait_for(lambda: len(lane._finished) >= MOST_TOGETHER and not lane._busy)
        assert not lane.reserve("another target"), "what is not on record is sent again after a power cut"
        assert len(flow.sent) < count
        assert {one[0] for one in states(transactions).values()} == {"pending"}
        flow.let_go.set()
        wait_for(lambda: len(flow.sent) == count and is_at_rest(lane))
    finally:
        flow.let_go.set()
        lane.stop(10)
    assert set(states(transactions).values()) == {("accepted", 1, False)}


def test_d01_what_no_thread_could_be_started_for_is_sent_later(
    transactions: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refused = threading.Thread.start, threading.Event()

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("callback-delivery") and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")  # as the system says at its limit
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    fill_due(transactions.database, 1)
    flow = Flow(1)
    flow.let_go.set()
    lane = Lane(CALLBACK, Outbox(transactions, unheard), flow, transactions.machine, threads=64, pace=Pace(0.1, 0.1))
    lane.start()
    try:
        wait_for(lambda: refused.is_set() and is_at_rest(lane))
    finally:
        lane.stop(10)
    assert {one[0] for one in states(transactions).values()} == {"accepted"}


def test_what_is_wrong_with_one_of_them_leaves_it_alone_unrecorded(transactions: Transactions) -> None:
    fill_due(transactions.database, COUNT)
    flow = Flow(COUNT)
    with ended_together(transactions, flow) as lane:
        spoilt = lane._finished[2].delivery.id
        flow.spoilt = {spoilt}
        flow.let_go.set()
        wait_for(lambda: is_at_rest(lane))
    assert states(transactions).pop(spoilt) == ("pending", 1, True), "its lease brings it back"
    assert fates(transactions)[spoilt, 1] == ("unknown", False)
    assert sorted(states(transactions).values()) == [("accepted", 1, False)] * (COUNT - 1) + [("pending", 1, True)]


@pytest.mark.parametrize("part", ["UPDATE deliveries", "UPDATE attempts"])
def test_d01_a_database_that_fails_in_between_loses_no_report(transactions: Transactions, part: str) -> None:
    fill_due(transactions.database, COUNT)
    flow = Flow(COUNT)
    failed: list[str] = []

    def fail(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if part in statement and len(failed) < 3:  # together, and then two of those that are recorded alone
            failed.append(statement)
            raise OperationalError("", {}, RuntimeError("the connection was terminated"))

    with ended_together(transactions, flow) as lane:
        event.listen(transactions.database.engine, "before_cursor_execute", fail)
        flow.let_go.set()
        wait_for(lambda: is_at_rest(lane))
        event.remove(transactions.database.engine, "before_cursor_execute", fail)
    assert len(failed) == 3
    assert set(states(transactions).values()) == {("accepted", 1, False)}


def test_a_lane_that_stops_records_what_has_ended(transactions: Transactions) -> None:
    fill_due(transactions.database, COUNT)
    flow = Flow(COUNT)
    with ended_together(transactions, flow) as lane, ThreadPoolExecutor(1) as stopper:
        stopping = stopper.submit(lane.stop, 10)
        wait_for(lane.loop.is_stopping)
        flow.let_go.set()
        stopping.result(GIVE_UP_SECONDS)
    assert set(states(transactions).values()) == {("accepted", 1, False)}


def test_r12a_answers_that_are_counted_together_slow_an_address_down(transactions: Transactions) -> None:
    def counted() -> dict[str, int]:
        with transactions.read() as work:
            return {row.key: row.events for row in work.execute(select(Counter))}

    least = limits.UNMATCHED_MINIMUM
    half = [("half", number % 2 == 0) for number in range(least)]
    with transactions.write() as work:
        limits.note_answers(work, [("most", True)] * (least - 1) + half)
    assert counted() == {
        "answered:most": least - 1,
        "unmatched:most": least - 1,
        "answered:half": least,
        "unmatched:half": least // 2,
    }
    with transactions.write() as work:
        limits.note_answers(work, [("half", False), ("most", True)])
    assert [key for key in counted() if key.startswith("slowed")] == [limits.slowed_key("most")]


def test_r49_people_who_are_counted_together_count_once_each(transactions: Transactions) -> None:
    with transactions.write() as work:
        for person in ("a", "b", "c"):
            assert limits.may_pay_for(work, "carrier", "ZA", person)
        limits.note_successes(work, [("carrier", "ZA", "a"), ("carrier", "ZA", "b"), ("carrier", "ZA", "a")])
        limits.note_successes(work, [("carrier", "ZA", "b"), ("carrier", "ZA", "a stranger")])
        found = {row.key: row.events for row in work.execute(select(Counter)) if row.key.startswith("wins:")}
    assert sorted(found.values()) == [2, 2]


@only_postgresql
def test_dispatchers_that_count_the_same_in_any_order_never_wait_for_each_other(transactions: Transactions) -> None:
    addresses = [f"address-{number}" for number in range(40)]
    rounds = 40

    def count(order: list[str], act: Callable[[Work, list[str]], object]) -> None:
        for _round in range(rounds):
            with transactions.write() as work:
                act(work, order)

    def answer(work: Work, order: list[str]) -> None:
        limits.note_answers(work, [(address, True) for address in order])

    def give_back(work: Work, order: list[str]) -> None:
        limits.give_back(work, [limits.Limit(f"answered:{address}", 0, 60) for address in order])

    acts: list[Any] = [answer, answer, give_back, give_back]
    with ThreadPoolExecutor(4) as threads:
        turned = [addresses[::-1] if number % 2 else addresses for number in range(4)]
        for ended in [threads.submit(count, order, act) for order, act in zip(turned, acts, strict=True)]:
            ended.result(GIVE_UP_SECONDS)


class TestCrew:
    def test_d05_who_hangs_keeps_no_other_waiting(self) -> None:
        crew, let_go, done = Crew(4, "crew"), threading.Event(), list[int]()
        crew.do(*[partial(let_go.wait, GIVE_UP_SECONDS)] * 3, *(partial(done.append, number) for number in range(50)))
        wait_for(lambda: len(done) == 50)
        assert done == list(range(50)), "one thread is left, so they keep their order"
        let_go.set()
        crew.close()

    def test_a_task_that_fails_ends_no_thread(self) -> None:
        crew, done = Crew(1, "crew"), threading.Event()
        crew.do(partial(int, "x"), done.set)
        assert done.wait(GIVE_UP_SECONDS)
        crew.close()

    def test_closing_waits_for_all_and_then_nothing_is_taken(self) -> None:
        crew, let_go, done = Crew(2, "crew"), threading.Event(), list[int]()
        crew.do(partial(let_go.wait, GIVE_UP_SECONDS), *(partial(done.append, number) for number in range(9)))
        with ThreadPoolExecutor(1) as closer:
            closing = closer.submit(crew.close)
            let_go.set()
            closing.result(GIVE_UP_SECONDS)
        assert sorted(done) == list(range(9))
        with pytest.raises(RuntimeError):
            crew.do(let_go.wait)


def test_while_customers_use_the_process_a_recording_waits_for_what_they_cause(transactions: Transactions) -> None:
    fill(transactions.database, 2)
    times = []

    class Sending:
        """Flow accepts at once."""

        def send(self, claimed: ClaimedDelivery) -> FinishedAttempt:
            times.append(time.monotonic())
            return finished(claimed)

        def note(self, work: Work, recorded: Recorded) -> None:
            times.append(time.monotonic())

    (only,) = claimed(transactions, 1)
    lane = Lane(CALLBACK, Outbox(transactions, unheard), Sending(), transactions.machine, threads=4, pace=Pace(1, 1))
    with transactions.read():  # a customer
        lane.take(only)
        wait_for(lambda: states(transactions)[only.id][0] == "accepted")
    assert times[1] - times[0] >= USED_TOGETHER_SECONDS
    lane.stop(GIVE_UP_SECONDS)
