"""Messages whose server is away, or takes them and loses its answer (D13)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import event, update
from sqlalchemy.exc import InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from auth_portal.services.delivery import outbox
from auth_portal.services.delivery.outbox import (
    CODE_LEFT_SECONDS,
    LAST_CHANCE_SECONDS,
    LEASE_SECONDS,
    NOTICE_PRIORITY,
    REPEAT_SECONDS,
    NewDelivery,
)
from auth_portal.store.db import Database
from auth_portal.store.models import MESSAGE, AlertRow, Attempt, Counter, Delivery
from tests.receiver import Answer, Receiver
from tests.security.tools import STILL, deliver
from tests.serving import free_port
from tests.web.test_messages import SMTP, Mailbox
from tests.world import PHONE, World, journey, open_world


@pytest.fixture
def still(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        yield world


def message(world: World) -> Any:
    return next(row for row in world.rows(Delivery) if row.kind == "message")


def go_on(world: World, until_seconds: float) -> None:
    """Lets the dispatcher work for so long, by the clock, and moves on to the end of that time."""
    end = world.clock.now.timestamp() + until_seconds
    deliver(world)
    while message(world).state == "pending" and message(world).next_at.timestamp() < end:
        world.clock.now = message(world).next_at
        deliver(world)
    world.clock.advance(end - world.clock.now.timestamp())


def counted(world: World, kind: str) -> int:
    return sum(row.events for row in world.rows(Counter) if row.key.startswith(kind))


@contextmanager
def mail_world(folder: Path, url: str, receiver: Receiver, port: int) -> Iterator[World]:
    config = SMTP.format(port=port) + journey("mail", "email_code", default=True, channels=("mail",))
    with open_world(folder, url, receiver, config=config, base="", settings=STILL) as world:
        yield world


@pytest.mark.parametrize("seconds", [10, 30, 120])
def test_d13_a_mail_server_that_is_away_loses_no_code(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, seconds: int
) -> None:
    port, kept = free_port(), Mailbox()
    with mail_world(tmp_path, sqlite_url, receiver, port) as world:
        browser = world.browser()
        browser.begin("abc")
        go_on(world, seconds)
        assert message(world).state == "pending"
        assert not counted(world, "destination:hour"), "connection refused costs nothing"
        controller = Controller(kept, hostname="127.0.0.1", port=port)
        controller.start()
        go_on(world, 20)
        controller.stop()
        (mail,) = kept.mails
        browser.prove(mail["Subject"].split()[0])
        assert browser.path == "/done"
        assert counted(world, "destination:hour") == 1


@pytest.mark.parametrize("answer", [503, 429, 425, 408])
def test_d13_what_certainly_was_not_taken_is_tried_until_the_code_expires(still: World, answer: Answer) -> None:
    still.receiver.sms_answers = [answer] * 500
    still.browser().begin("abc")
    go_on(still, 250)
    assert message(still).state == "pending"
    assert not counted(still, "sends:")
    still.receiver.sms_answers.clear()
    go_on(still, 20)
    assert message(still).state == "accepted"
    assert len(still.receiver.messages) == counted(still, "sends:") == 1


def test_d13_it_is_given_up_with_its_code(still: World) -> None:
    still.receiver.sms_answers = [503] * 500
    still.browser().begin("abc")
    go_on(still, 310)
    assert message(still).state == "given_up"


@pytest.mark.parametrize("answer", ["close", 500, 502, 504])
def test_d13_what_may_have_been_taken_is_repeated_once_and_counts(still: World, answer: Answer) -> None:
    still.receiver.sms_answers = [answer] * 500
    still.browser().begin("abc")
    go_on(still, 400)
    assert 500 - len(still.receiver.sms_answers) == 2
    assert message(still).state == "unconfirmed"
    for kind in ("destination:hour", "destination:day", "sends:", "cap:"):
        assert counted(still, kind) == 2, kind
    first, second = still.rows(Attempt)
    assert (second.began_at - first.began_at).total_seconds() == REPEAT_SECONDS


def test_d13_a_repeat_that_was_not_taken_is_no_repeat(still: World) -> None:
    still.receiver.sms_answers = ["close", 503, 503, 503]
    still.browser().begin("abc")
    go_on(still, 100)
    assert (message(still).state, len(still.receiver.messages)) == ("accepted", 1)
    assert counted(still, "sends:") == 2


def test_d13_a_code_that_did_arrive_is_not_repeated(still: World) -> None:
    """The answer was lost, the SMS was not: the customer types its code before the repeat."""
    still.receiver.sms_answers = ["accept-close"]
    browser = still.browser()
    browser.begin("abc")
    deliver(still, ("message",))
    browser.prove(still.receiver.code_for(PHONE))
    assert browser.path == "/done"
    go_on(still, 60)
    assert len(still.receiver.messages) == 1


def test_d13_what_its_senders_may_have_sent_before_they_were_killed_leaves_no_third_time(still: World) -> None:
    still.browser().begin("abc")
    lane = still.services.dispatcher.lanes[1]
    for _killed in range(2):
        assert lane.outbox.claim("message", 1)
        still.clock.advance(LEASE_SECONDS + 1)
    go_on(still, 60)
    assert not still.receiver.messages
    assert (message(still).state, message(still).reason) == ("unconfirmed", "it may have been sent twice already")


def test_d13_one_killed_sender_is_followed_by_another(still: World) -> None:
    still.browser().begin("abc")
    assert still.services.dispatcher.lanes[1].outbox.claim("message", 1)
    still.clock.advance(LEASE_SECONDS + 1)
    deliver(still)
    assert len(still.receiver.messages) == 1


def test_d13_repeats_and_resends_together_stay_within_the_sends_of_a_verification(still: World) -> None:
    """The page counts three; of what may have left no more than three leaves, whoever asked for it (R12)."""
    still.receiver.sms_answers = ["close"] * 500
    browser = still.browser()
    browser.begin("abc")
    for _resend in range(2):
        go_on(still, 70)
        browser.post("/verify/resend")
        deliver(still)
    still.clock.advance(REPEAT_SECONDS)
    deliver(still)
    assert 500 - len(still.receiver.sms_answers) == 3


def test_d13_an_admin_may_send_again_what_may_have_left_twice(still: World) -> None:
    still.receiver.sms_answers = ["close"] * 2
    still.browser().begin("abc")
    go_on(still, 60)
    assert message(still).state == "unconfirmed"
    (result,) = still.services.retries.retry([message(still).id], reason="the gateway lost it")
    assert result.is_under_way
    deliver(still)
    assert (message(still).state, len(still.receiver.messages)) == ("accepted", 1)


@contextmanager
def failing(database: Database, part: str, fault: Callable[[], Exception]) -> Iterator[list[str]]:
    """A database that fails the first statement with this part; yields what it has failed."""
    failed: list[str] = []

    def fail(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if part in statement and not failed:
            failed.append(statement)
            raise fault()

    event.listen(database.engine, "before_cursor_execute", fail)
    try:
        yield failed
    finally:
        event.remove(database.engine, "before_cursor_execute", fail)


FAULTS: dict[str, Callable[[], Exception]] = {
    "restarted": lambda: OperationalError("", {}, RuntimeError("the connection was terminated")),
    "read-only": lambda: InternalError("", {}, RuntimeError("cannot execute UPDATE in a read-only transaction")),
    "no connection is free": PoolTimeout,
    "the gate is held": lambda: TimeoutError("process 1 has held the write gate for 5 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("part", ["FROM challenges", "INSERT INTO counters"])
def test_d13_a_database_that_fails_before_the_channel_is_called_loses_no_code(
    still: World, part: str, fault: str
) -> None:
    """Nothing has left, however often it happens: no attempt counts, and no customer is refused for it."""
    world = still
    world.browser().begin("abc")
    lane = world.services.dispatcher.lanes[1]
    for _time in range(4):
        (claimed,) = lane.outbox.claim("message", 1)
        with failing(world.services.transactions.database, part, FAULTS[fault]) as failed:
            lane.deliver(claimed)
        assert failed
        assert not message(world).is_unclear
        assert world.clock.now < message(world).next_at < world.clock.now + timedelta(seconds=5)
        world.clock.advance(5)
    assert {row.fate for row in world.rows(Attempt)} == {"not_sent"}
    assert not counted(world, "sends:")
    go_on(world, 20)
    assert (message(world).state, message(world).attempts) == ("accepted", 1)
    assert len(world.receiver.messages) == counted(world, "sends:") == 1


def test_d13_a_webhook_is_no_exception(still: World) -> None:
    world = still
    with world.services.transactions.write() as work:
        world.services.webhooks.add(work, "https://alerts.example/hook", {"type": "alert"})
    (claimed,) = (lane := world.services.dispatcher.lanes[1]).outbox.claim("message", 1)
    with failing(world.services.transactions.database, "FROM webhook_secrets", PoolTimeout) as failed:
        lane.deliver(claimed)
    assert failed
    assert (message(world).state, message(world).attempts, message(world).is_unclear) == ("pending", 0, False)


def test_d13_what_was_counted_goes_back_with_the_report(still: World) -> None:
    """The database fails between a refusal that took nothing and its report: both are written a moment later."""
    world = still
    world.receiver.sms_answers = [503]
    world.browser().begin("abc")
    lane = world.services.dispatcher.lanes[1]
    (claimed,) = lane.outbox.claim("message", 1)
    with failing(world.services.transactions.database, "UPDATE counters", FAULTS["restarted"]) as failed:
        lane.deliver(claimed)
    assert failed
    assert [row.fate for row in world.rows(Attempt)] == ["retry"]
    assert not message(world).is_unclear
    assert not counted(world, "sends:")


def test_d13_no_code_leaves_that_expires_in_a_moment(still: World) -> None:
    still.receiver.sms_answers = [503] * 500
    still.browser().begin("abc")
    expires_at = message(still).give_up_at
    go_on(still, 310)
    assert message(still).state == "given_up"
    left = [(expires_at - row.began_at).total_seconds() for row in still.rows(Attempt)]
    assert min(left) == CODE_LEFT_SECONDS + LAST_CHANCE_SECONDS


@pytest.mark.parametrize(("left", "count"), [(CODE_LEFT_SECONDS + 1, 1), (CODE_LEFT_SECONDS - 1, 0), (5, 0)])
def test_d13_a_code_that_waited_for_a_dispatcher_leaves_in_time_or_not_at_all(
    still: World, left: int, count: int
) -> None:
    still.browser().begin("abc")
    still.clock.now = message(still).give_up_at - timedelta(seconds=left)
    deliver(still)
    assert len(still.receiver.messages) == count
    assert message(still).state == ("accepted" if count else "given_up")


def test_a_fault_of_our_own_shows_as_one_of_the_channel_and_nothing_has_left(still: World) -> None:
    """Otherwise the lease brings the message back again and again, and it ends as if it might have been sent."""
    with still.transactions.write() as work:
        give_up_at = work.now + timedelta(hours=1)
        broken = NewDelivery(
            kind=MESSAGE, target="sms", priority=NOTICE_PRIORITY, body="no notice", give_up_at=give_up_at
        )
        outbox.add(work, broken)
    for _try in range(3):
        deliver(still)
        still.clock.advance(60)
    assert (message(still).state, message(still).is_unclear) == ("pending", False)
    assert message(still).reason == "the portal could not make the message (JSONDecodeError); its log says where"
    assert not still.receiver.messages
    still.services.alerts.look()
    assert [row.kind for row in still.rows(AlertRow)] == ["channel"]


def test_what_is_wrong_with_one_message_does_not_count_for_its_channel(still: World) -> None:
    """A body that no key of ours opens: it is final, and customers do not read that the channel is slow."""
    with still.transactions.write() as work:
        for _number in range(4):
            notice = NewDelivery(
                kind=MESSAGE,
                target="sms",
                priority=NOTICE_PRIORITY,
                body="{}",
                give_up_at=work.now + timedelta(hours=1),
            )
            outbox.add(work, notice)
        work.execute(update(Delivery).values(body_sealed=b"changed"))
    deliver(still)
    assert {(row.state, row.is_unclear) for row in still.rows(Delivery)} == {("refused", False)}
    still.services.alerts.look()
    assert not still.rows(AlertRow)
