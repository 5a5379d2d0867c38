"""A result goes to a free thread of the process that wrote it, and is on record as claimed before it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from auth_portal.services.operations.dispatcher import MOST_HELD
from auth_portal.store.models import Attempt, Delivery
from tests.receiver import Receiver, wait_for
from tests.world import World, open_world


def results(world: World) -> list[Any]:
    return [row for row in world.rows(Delivery) if row.kind == "callback"]


def test_a_result_is_sent_without_being_looked_for(world: World, receiver: Receiver) -> None:
    browser = world.browser()
    browser.begin("direct", "app")
    with world.statements() as seen:
        browser.prove(world.totp())
        wait_for(lambda: [row.state for row in results(world)] == ["accepted"])
    assert not [statement for statement in seen if "chosen" in statement], "this would be a claim"
    (attempt,) = world.rows(Attempt)
    assert (attempt.number, attempt.fate) == (1, "accepted")
    assert len(receiver.callbacks) == 1


def test_d01_it_is_leased_before_it_leaves(world: World, receiver: Receiver) -> None:
    browser = world.browser()
    browser.begin("leased", "app")
    with receiver.lock:  # no callback is answered
        browser.prove(world.totp())
        (row,), (attempt,) = results(world), world.rows(Attempt)
        assert (row.state, row.attempts, attempt.fate) == ("pending", 1, "unknown")
        assert row.leased_until == row.next_at > world.clock.now
    wait_for(lambda: results(world)[0].state == "accepted")


def test_what_failed_is_tried_again_at_once(world: World, receiver: Receiver) -> None:
    receiver.answers = [500]
    browser = world.browser()
    browser.begin("again", "app")
    browser.prove(world.totp())
    wait_for(lambda: results(world)[0].state == "accepted")
    assert [attempt.fate for attempt in world.rows(Attempt)] == ["retry", "accepted"]


def test_d05_a_target_that_holds_its_part_of_the_threads_is_given_no_more(tmp_path: Path, sqlite_url: str) -> None:
    threads = MOST_HELD + 1
    receiver = Receiver()
    with open_world(tmp_path, sqlite_url, receiver, settings={"PORTAL_CALLBACK_THREADS": str(threads)}) as world:
        with receiver.lock:  # a server that answers no one
            for number in range(threads + 2):
                browser = world.browser()
                browser.begin(f"held-{number}", "app")
                browser.post("/verify/cancel", reason="cancelled")
            assert sorted(row.attempts for row in results(world)) == [0] * (threads + 2 - MOST_HELD) + [1] * MOST_HELD
        wait_for(lambda: {row.state for row in results(world)} == {"accepted"})
    receiver.close()


def test_a_result_waits_for_an_older_one_of_its_reference_that_is_on_its_way(world: World, receiver: Receiver) -> None:
    browser = world.browser()
    browser.begin("twice", "app")
    with receiver.lock:
        browser.post("/verify/cancel", reason="cancelled")
        browser.open("twice", "app")
        browser.post("/j/app", again="1", identifier="C-1001")
        browser.prove(world.totp())
        assert [(row.state, row.attempts) for row in results(world)] == [("superseded", 1), ("pending", 0)]
    wait_for(lambda: [row.state for row in results(world)] == ["superseded", "accepted"])
    assert [call.body["result"] for call in receiver.callbacks] == ["failed", "verified_app"]


def test_a_process_that_does_not_dispatch_leaves_it_to_others(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, settings={"PORTAL_DISPATCH": "off"}) as world:
        browser = world.browser()
        browser.begin("elsewhere", "app")
        browser.prove(world.totp())
        (row,) = results(world)
        assert (row.state, row.attempts, row.leased_until) == ("pending", 0, None)
        assert row.next_at == world.clock.now
