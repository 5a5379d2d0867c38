"""A sender that is suspended for longer than its lease: it neither sends again nor overwrites what came meanwhile (D7)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyotp
import pytest

from auth_portal.services.delivery.outbox import LEASE_SECONDS
from auth_portal.store.models import Attempt, Delivery
from tests.receiver import Answer, Receiver, wait_for
from tests.security.test_races import rows
from tests.serving import Server, Visitor, serving
from tests.world import CONFIG, STANDARD, TOTP_SECRET, configure

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[Start]:
    """Starts one more node of the portal, suspended the first time it passes a place."""
    configure(database_url, receiver, CONFIG + STANDARD)
    with ExitStack() as nodes:

        def start(name: str, place: str = "", **settings: str) -> Server:
            folder = tmp_path / name
            folder.mkdir()
            patient = {"GUNICORN_CMD_ARGS": "--timeout 300"}  # or it kills a worker that stands still for 30 seconds
            server = Server(folder, database_url, settings=patient)
            return nodes.enter_context(serving(server, PAUSE_OF_TEST=place, **settings))

        yield start


def suspended(server: Server) -> Callable[[], None]:
    """Waits until a server stands still; returns what lets it go on."""
    file = server.folder / "clock.paused"
    wait_for(lambda: file.exists() and file.read_text())
    pid = int(file.read_text())
    if "postgresql" in server.environment["PORTAL_DATABASE_URL"]:
        wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)

    def go_on() -> None:
        file.with_suffix(".goes_on").touch()
        os.kill(pid, signal.SIGCONT)

    return go_on


def next_holder(start: Start, first: Server) -> Server:
    """A node that does not run yet, and by whose clock the first one's lease is over.

    The first one's own clock stands from now on: however slow the machine, its other threads do not claim again.
    """
    first.set_clock(datetime.now(UTC))
    other = start("other", PORTAL_DISPATCH="off")
    other.stop()
    other.advance(LEASE_SECONDS + 1)
    return other


def verify(server: Server) -> None:
    visitor = Visitor(server.url)
    visitor.begin("held-up", "app")
    visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())


def callback(url: str) -> Any:
    return next((row for row in rows(url, Delivery) if row.kind == "callback"), None)


def attempts(url: str) -> list[Any]:
    return sorted(rows(url, Attempt), key=lambda row: row.number)


@pytest.mark.parametrize(("place", "fate"), [("after the claim", "not_sent"), ("before the post", "retry")])
def test_d07_suspended_before_the_post_it_does_not_post_a_second_time(
    start: Start, database_url: str, receiver: Receiver, place: str, fate: str
) -> None:
    """The real lease, under the real clock: what the sender was allowed is over when it goes on."""
    web = start("web", PORTAL_DISPATCH="off")
    held_up = start("held up", place)
    verify(web)
    go_on = suspended(held_up)
    start("other")
    wait_for(lambda: callback(database_url).state == "accepted")
    go_on()
    wait_for(lambda: attempts(database_url)[0].ended_at)
    assert [attempt.fate for attempt in attempts(database_url)] == [fate, "accepted"]
    assert len(receiver.callbacks) == 1
    assert callback(database_url).state == "accepted"


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ([200, 400], "accepted"),  # the second post only says that the first one was taken
        ([400, 200], "accepted"),  # a refusal that comes late takes nothing back
        ([500, 400], "unconfirmed"),
        ([400, 400], "unconfirmed"),
        ([200, 200], "accepted"),
    ],
)
def test_d07_suspended_after_the_post_it_overwrites_nothing_that_came_later(
    start: Start, database_url: str, receiver: Receiver, answers: list[Answer], state: str
) -> None:
    receiver.answers = list(answers)
    web = start("web", PORTAL_DISPATCH="off")
    held_up = start("held up", "after the post")
    verify(web)
    go_on = suspended(held_up)
    other = next_holder(start, held_up)
    with serving(other):
        wait_for(lambda: len(attempts(database_url)) == 2 and attempts(database_url)[1].ended_at)
        go_on()
        wait_for(lambda: attempts(database_url)[0].ended_at)
    row = callback(database_url)
    assert (row.state, row.attempts) == (state, 2)
    assert len({call.raw for call in receiver.callbacks}) == 1
    assert len(receiver.callbacks) == 2


@pytest.mark.parametrize(
    "database_url", ["postgresql"], indirect=True
)  # SQLite has one writer: tests/store/test_gate.py
def test_d07_suspended_in_the_claim_it_has_claimed_nothing(start: Start, database_url: str, receiver: Receiver) -> None:
    """PostgreSQL ends its transaction, so that another node can claim; when it goes on, it cannot commit."""
    web = start("web", PORTAL_DISPATCH="off")
    held_up = start("held-up", "in the claim")
    verify(web)
    go_on = suspended(held_up)
    start("other")
    wait_for(lambda: callback(database_url).state == "accepted")
    go_on()
    wait_for(lambda: "dispatcher_fault" in held_up.log.read_text())
    assert [(attempt.number, attempt.fate) for attempt in attempts(database_url)] == [(1, "accepted")]
    assert len(receiver.callbacks) == 1


def test_d07_it_does_not_end_the_lease_of_the_next_holder(start: Start, database_url: str, receiver: Receiver) -> None:
    """Both are suspended after their posts; the first one, refused, goes on while the second one holds the lease."""
    receiver.answers = [400, 200]
    web = start("web", PORTAL_DISPATCH="off")
    first = start("first", "after the post")
    verify(web)
    first_goes_on = suspended(first)
    other = next_holder(start, first)
    with serving(other, PAUSE_OF_TEST="after the post"):
        other_goes_on = suspended(other)
        first_goes_on()
        wait_for(lambda: attempts(database_url)[0].ended_at)
        row = callback(database_url)
        assert (row.state, row.leased_until is None) == ("pending", False)
        other_goes_on()
        wait_for(lambda: callback(database_url).state == "accepted")
    assert len(receiver.callbacks) == 2
    assert [attempt.fate for attempt in attempts(database_url)] == ["refused", "accepted"]
