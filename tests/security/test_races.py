"""Races against four worker processes, on SQLite and on PostgreSQL: what was counted is exact."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auth_portal.store.db import Database
from auth_portal.store.models import AuditEvent, Base, Delivery, Tries, Verification, table_of
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.serving import Server, Visitor, serving
from tests.world import CONFIG, PHONE, STANDARD, configure

CODES = 40


def together(number: int, act: Callable[[int], Any]) -> list[Any]:
    """Runs ``act`` in so many threads, released at the same moment."""
    gate = threading.Barrier(number)
    results: list[Any] = [None] * number

    def run(index: int) -> None:
        gate.wait()
        results[index] = act(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def rows(database_url: str, model: type[Base]) -> list[Any]:
    database = Database(database_url)
    try:
        with database.read() as connection:
            return list(connection.execute(table_of(model).select()).all())
    finally:
        database.close()


@pytest.fixture
def server(tmp_path: Path, database_url: str, receiver: Receiver) -> Server:
    configure(database_url, receiver, CONFIG + STANDARD)
    return Server(tmp_path, database_url, server="gunicorn-preload", workers=4)


def test_r08_forty_wrong_codes_at_once_five_are_evaluated(
    server: Server, database_url: str, receiver: Receiver
) -> None:
    with serving(server):
        visitors = [Visitor(server.url) for _ in range(CODES)]
        for visitor in visitors:
            visitor.begin("one-reference")
        right = wait_for(lambda: receiver.code_for(PHONE) if receiver.messages else "")
        wrong = f"{(int(right) + 1) % 10**6:06d}"
        answers = together(CODES, lambda index: visitors[index].post("/verify", follow=False, code=wrong))
        assert sorted(answer.status_code for answer in answers)[:4] == [303] * 4
        wait_for(lambda: receiver.callbacks)
        # And the right code is worth nothing now.
        visitors[0].get("/verify")
        assert "/done" in visitors[0].page.url
    (verification,) = rows(database_url, Verification)
    assert (verification.outcome, verification.wrong_tries) == ("wrong", 5)
    (tries,) = rows(database_url, Tries)
    assert (tries.total, tries.day_count) == (5, 5)
    events = [event.kind for event in rows(database_url, AuditEvent)]
    # The last wrong one is told like the others, and then that it ended.
    assert (events.count("proof_failed"), events.count("verification_ended")) == (5, 1)
    assert len(receiver.callbacks) == 1


def test_r03_right_codes_at_once_one_success_one_callback(
    server: Server, database_url: str, receiver: Receiver
) -> None:
    with serving(server):
        visitors = [Visitor(server.url) for _ in range(20)]
        for visitor in visitors:
            visitor.begin("one-reference")
        code = wait_for(lambda: receiver.code_for(PHONE) if receiver.messages else "")
        together(20, lambda index: visitors[index].post("/verify", follow=False, code=code))
        wait_for(lambda: all(row.state == "accepted" for row in rows(database_url, Delivery)))
    assert len(receiver.callbacks) == 1
    assert [row.outcome for row in rows(database_url, Verification)] == ["verified"]


def test_r03_one_form_sent_forty_times(server: Server, database_url: str, receiver: Receiver) -> None:
    with serving(server):
        visitor = Visitor(server.url)
        visitor.begin("one-reference")
        code = wait_for(lambda: receiver.code_for(PHONE) if receiver.messages else "")
        fields = {**visitor.fields("/verify"), "code": code}
        cookies = visitor.session.cookies.get_dict()

        def send(_index: int) -> int:
            import requests

            return requests.post(
                f"{server.url}/verify", data=fields, cookies=cookies, timeout=GIVE_UP_SECONDS, allow_redirects=False
            ).status_code

        assert set(together(CODES, send)) == {303}
        wait_for(lambda: receiver.callbacks)
    assert len(receiver.callbacks) == 1


def test_beginning_at_once_makes_one_verification(server: Server, database_url: str, receiver: Receiver) -> None:
    with serving(server):
        visitors = [Visitor(server.url) for _ in range(20)]
        for visitor in visitors:
            visitor.get("/?reference=one-reference")
        together(20, lambda index: visitors[index].post("/", follow=False, identifier="C-1001"))
        wait_for(lambda: receiver.messages)
    assert len(rows(database_url, Verification)) == 1
    assert len(receiver.messages) == 1


def test_r07_wrong_passwords_at_once_are_counted_before_they_are_checked(
    server: Server, database_url: str, receiver: Receiver
) -> None:
    with serving(server):
        visitors = [Visitor(server.url) for _ in range(12)]
        for number, visitor in enumerate(visitors):
            visitor.begin(f"reference-{number % 2}", "password")
        together(12, lambda index: visitors[index].post("/verify", follow=False, password="wrong but long enough"))
    verifications = rows(database_url, Verification)
    (tries,) = rows(database_url, Tries)
    assert tries.total == sum(row.wrong_tries for row in verifications)
    assert all(row.wrong_tries <= 5 for row in verifications)
