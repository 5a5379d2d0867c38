"""A backlog for one server: what it costs those who look for work, and who has to wait (D5)."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from psycopg import RawCursor
from sqlalchemy import LargeBinary, Text, case, cast, event, insert, literal, literal_column, select, text

from auth_portal.services.delivery.outbox import (
    LEASE_SECONDS,
    NOT_SENT,
    AttemptReport,
    ClaimedDelivery,
    FinishedAttempt,
    Outbox,
    Recorded,
)
from auth_portal.services.delivery.queues import due_queues
from auth_portal.services.operations.dispatcher import GENTLE_CLAIM, Lane, Pace
from auth_portal.store.db import Database, Transactions, Work, serve_no_customer, share_connections
from auth_portal.store.models import CALLBACK, EVENT, MESSAGE, Delivery, DeliveryState, table_of
from tests.receiver import GIVE_UP_SECONDS, wait_for
from tests.services.conftest import NOW, clock, transactions, unheard

__all__ = ["clock", "transactions"]  # fixtures

FLOW, OTHER = "https://flow.example", "https://other.example"
FEW, MANY = 300, 10_000


def fill(database: Database, count: int, *, target: str = FLOW, state: str = "pending", due: bool = True) -> None:
    """So many callbacks for one target, of every priority; each tenth waits for its next try if they are due."""
    numbers = select(literal(0).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < count - 1))
    number = numbers.c.n
    later = NOW + timedelta(minutes=1)
    values = {
        "id": literal(f"{target[8:11]}-{count}-{state}-", Text) + cast(number, Text),
        "kind": literal(CALLBACK),
        "target": literal(target),
        "priority": number % 3,
        "state": literal(state),
        "lane": cast(cast(number, Text), LargeBinary),
        "created_at": literal(NOW, table_of(Delivery).c.created_at.type),
        "next_at": case((number % 10 == 0, later), else_=NOW - timedelta(minutes=1) if due else later),
        "give_up_at": literal(NOW + timedelta(minutes=10), table_of(Delivery).c.give_up_at.type),
        "contract": literal("external_link"),
    }
    chosen = select(*(value.label(name) for name, value in values.items()))
    with database.write_much() as connection:
        connection.execute(insert(Delivery).from_select(list(values), chosen))


def lease(database: Database, count: int) -> None:
    """So many of them are on their way."""
    rows = select(Delivery.id).where(Delivery.state == "pending").order_by(Delivery.id).limit(count)
    until = NOW + timedelta(seconds=LEASE_SECONDS)
    with database.write() as connection:
        connection.execute(
            table_of(Delivery).update().where(Delivery.id.in_(rows)).values(leased_until=until, next_at=until)
        )


def statements_of(database: Database, act: Callable[[], object]) -> list[tuple[str, Any]]:
    """What an act runs on the outbox, with its values."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        if "deliveries" in statement:
            seen.append((statement, values))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        act()
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    return seen


def effort(database: Database, statement: str, values: Any) -> int:
    """How much a statement reads: steps of SQLite's machine, or pages of PostgreSQL. It is undone."""
    with database.engine.connect() as connection:
        if not database.is_sqlite:
            driver: Any = connection.connection.driver_connection
            cursor: Any = (
                RawCursor(driver) if isinstance(values, list) else driver.cursor()
            )  # a compiled one has $1, $2
            (((plan,),),) = cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values)
            driver.rollback()
            assert "Seq Scan on deliveries" not in json.dumps(plan).replace('", "Relation Name": "', " on ")
            return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 10

        driver = connection.connection.driver_connection
        driver.set_progress_handler(count, 10)
        connection.exec_driver_sql(statement, tuple(values)).all()
        driver.set_progress_handler(None, 0)
        connection.rollback()
        return steps


def efforts(transactions: Transactions, act: Callable[[], object]) -> list[int]:
    database = transactions.database
    return [effort(database, *one) for one in statements_of(database, act)]


def analyse(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("ANALYZE"))


@pytest.mark.parametrize("is_analysed", [True, False], ids=["analysed", "unanalysed"])
def test_d05_looking_for_work_costs_the_same_whatever_waits(transactions: Transactions, is_analysed: bool) -> None:
    """Flow takes all that it may and 10,000 more wait; half of the table has left long ago."""
    outbox, database = Outbox(transactions, unheard), transactions.database

    def look() -> None:
        outbox.has_due(CALLBACK, [FLOW])
        outbox.has_due(CALLBACK)
        outbox.claim(CALLBACK, 4, lambda target, _taken: 0 if target == FLOW else 4)

    def claim() -> None:
        outbox.claim(CALLBACK, 4)

    found = []
    for count in (FEW, MANY):
        fill(database, count, state="accepted")
        fill(database, count)
        lease(database, 8)
        if is_analysed or count == FEW:
            analyse(database)
        found.append((efforts(transactions, look), efforts(transactions, claim)))
    (few_looked, few_claimed), (many_looked, many_claimed) = found
    assert len(many_looked) >= 3
    assert len(many_claimed) >= 2
    for few, many in ((sum(few_looked), sum(many_looked)), (sum(few_claimed), sum(many_claimed))):
        assert many < 3 * few, found  # a deeper tree; not 33 times as much


def test_d05_looking_costs_nothing_more_while_all_wait_for_their_next_try(transactions: Transactions) -> None:
    """A server that was away for a minute: everything is pending and nothing is due."""
    outbox, database = Outbox(transactions, unheard), transactions.database
    fill(database, FEW, due=False)
    analyse(database)
    few = efforts(transactions, lambda: outbox.has_due(CALLBACK))
    fill(database, MANY, due=False)
    analyse(database)
    many = efforts(transactions, lambda: outbox.has_due(CALLBACK))
    assert sum(many) < 4 * sum(few), (few, many)


def test_d05_a_target_without_room_is_left_out_of_look_and_claim(transactions: Transactions) -> None:
    outbox = Outbox(transactions, unheard)
    fill(transactions.database, 30)
    assert outbox.has_due(CALLBACK)
    assert not outbox.has_due(CALLBACK, [FLOW])
    fill(transactions.database, 30, target=OTHER)
    claimed = outbox.claim(CALLBACK, 8, lambda target, taken: (0 if target == FLOW else 3) - taken[target])
    assert [one.target for one in claimed] == [OTHER] * 3


def test_d05_every_target_gets_its_part_and_the_urgent_go_first(transactions: Transactions) -> None:
    """However many results wait for one server, those for another leave with the same claim, `verified` first."""
    outbox = Outbox(transactions, unheard)
    fill(transactions.database, 300)
    fill(transactions.database, 9, target=OTHER)
    claimed = outbox.claim(CALLBACK, 8, lambda _target, taken: 4 - taken[_target])
    assert sorted(one.target for one in claimed) == [FLOW] * 4 + [OTHER] * 4
    with transactions.read() as work:
        urgent = {row.id for row in work.execute(select(Delivery.id).where(Delivery.priority == literal_column("0")))}
    # Of the other target's nine, three are `verified` and one of those waits for its next try.
    assert [one.id in urgent for one in claimed if one.target == FLOW] == [True] * 4
    assert [one.id in urgent for one in claimed if one.target == OTHER] == [True, True, False, False]


def test_d05_nothing_is_starved_while_room_is_left(transactions: Transactions) -> None:
    """Claim after claim everything that is due leaves: the least urgent last, the oldest of a kind first."""
    outbox, seen = Outbox(transactions, unheard), []
    fill(transactions.database, 40)
    fill(transactions.database, 40, target=OTHER)
    while claimed := outbox.claim(CALLBACK, 8, lambda target, taken: 4 - taken[target]):
        seen += [one.id for one in claimed]
    assert len(seen) == len(set(seen)) == 72
    with transactions.read() as work:
        assert due_queues(work, CALLBACK) == []
        priority = dict(work.execute(select(Delivery.id, Delivery.priority)).all())
    for target in ("flo", "oth"):
        order = [priority[one] for one in seen if one.startswith(target)]
        assert order == sorted(order)


def test_what_was_written_first_is_sent_first_within_a_claim(transactions: Transactions) -> None:
    """The databases return what a claim took in the order of their pages, and here those are filled backwards."""
    with transactions.database.write() as connection:
        connection.execute(
            insert(Delivery),
            [
                {
                    "id": f"{number:02}",
                    "kind": CALLBACK,
                    "target": FLOW,
                    "priority": 0,
                    "state": "pending",
                    "lane": bytes([number]),
                    "created_at": NOW,
                    "next_at": NOW - timedelta(minutes=1),
                    "give_up_at": NOW + timedelta(minutes=10),
                    "contract": "external_link",
                }
                for number in reversed(range(20))
            ],
        )
    claimed = Outbox(transactions, unheard).claim(CALLBACK, 50)
    assert [one.id for one in claimed] == [f"{number:02}" for number in range(20)]


def test_d05_senders_that_all_need_the_database_leave_connections_to_the_pages(transactions: Transactions) -> None:
    """As when a server that hung answers all of them at once."""
    fill(transactions.database, 60)
    reached, go_on = threading.Semaphore(0), threading.Event()

    class Waiting:
        """Sends nothing, and holds a connection meanwhile."""

        def send(self, claimed: ClaimedDelivery) -> FinishedAttempt:
            reached.release()
            with transactions.read():
                go_on.wait()
            return FinishedAttempt(claimed, AttemptReport(DeliveryState.PENDING, NOT_SENT), 0)

        def note(self, work: Work, recorded: Recorded) -> None:
            """Nothing follows."""

    outbox = Outbox(transactions, unheard)
    clock = transactions.machine
    lane = Lane(CALLBACK, outbox, Waiting(), clock, threads=64, pace=Pace(1, 1))
    lane.start()
    try:
        for _sender in range(40):
            assert reached.acquire(timeout=GIVE_UP_SECONDS)
        with ExitStack() as pages:
            for _page in range(10):
                pages.enter_context(transactions.read())
    finally:
        go_on.set()
        lane.stop(10)


@pytest.mark.parametrize("kind", [CALLBACK, EVENT])
def test_d05_a_backlog_gives_way_to_customers_and_messages_do_not(transactions: Transactions, kind: str) -> None:
    outbox, clock = Outbox(transactions, unheard), transactions.machine
    results, codes = (Lane(one, outbox, Quiet(), clock, threads=64, pace=Pace(1, 1)) for one in (kind, MESSAGE))
    wait_for(lambda: not outbox.is_used_by_customers())
    assert (results._give_way(), codes._give_way()) == (64, 64)
    results._rests_to = codes._rests_to = results._rests_until = codes._rests_until = math.inf  # after a claim
    with ThreadPoolExecutor(1, initializer=share_connections) as senders, transactions.read():
        assert codes._give_way() == 64
        waiting = senders.submit(results._give_way)
        senders.submit(results.loop.ask_to_stop)  # only after what it would wait for
        assert not waiting.done()
        results._rests_to = 0.0  # the process has done enough for others
        assert waiting.result(GIVE_UP_SECONDS) == GENTLE_CLAIM
    results._rests_to = math.inf
    wait_for(lambda: not outbox.is_used_by_customers())
    assert results._give_way() == 64
    with transactions.read():
        assert results._give_way() == 0, "it was asked to stop"


def test_d05_only_what_customers_wait_for_counts_as_theirs(transactions: Transactions) -> None:
    database = transactions.database
    wait_for(lambda: not database.is_used_by_customers())

    def use(become: Callable[[], None]) -> bool:
        become()
        with transactions.read(), transactions.write():
            return database.is_used_by_customers()

    for become in (share_connections, serve_no_customer):
        with ThreadPoolExecutor(1) as thread:
            assert not thread.submit(use, become).result(GIVE_UP_SECONDS)
    with transactions.write():
        assert database.is_used_by_customers()


class Quiet:
    """A sender that is never called."""

    def send(self, claimed: ClaimedDelivery) -> FinishedAttempt:
        raise AssertionError(claimed)

    def note(self, work: Work, recorded: Recorded) -> None:
        """Nothing follows."""
