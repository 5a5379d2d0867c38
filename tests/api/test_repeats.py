"""Writes that are sent again: one executes, whoever repeats it gets the same answer, and a crash loses nothing."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from auth_portal.crypto import token_hash
from auth_portal.errors import UnderWay
from auth_portal.services.access.api_answers import LEASE, ApiAnswers, ApiResponse, WriteClaim
from auth_portal.store.models import ApiAnswer, AuditEvent, TicketRow
from tests.api.program import Program, problem, program
from tests.world import MAIL, PHONE

ONCE = {"Idempotency-Key": "3f1c-once"}
NEW = {"customer_id": "N-1", "phone": "+27825550001"}


def made(caller: Program) -> int:
    return sum(event.kind == "customer_created" for event in caller.world.rows(AuditEvent))


def claim_as_if_killed(caller: Program) -> WriteClaim:
    """What the table holds once a process died between taking a write on and carrying it out."""
    (key,) = caller.world.services.api_keys.recent()
    asked = "\0".join(("POST", "/api/v1/customers?", "application/json", json.dumps(NEW)))
    return caller.world.services.api_answers.claim(key.id, ONCE["Idempotency-Key"], asked)


def test_a_repetition_gets_the_same_answer_and_does_nothing(both: Program) -> None:
    first = both.post("/customers", NEW, headers=ONCE)
    both.world.clock.advance(3600)
    second = both.post("/customers", NEW, headers=ONCE)
    assert (second.status_code, second.text, second.headers["Location"]) == (201, first.text, first.headers["Location"])
    assert second.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert made(both) == 1
    assert both.delete("/customers/N-1", headers={"Idempotency-Key": "d"}).status_code == 204
    assert both.delete("/customers/N-1", headers={"Idempotency-Key": "d"}).status_code == 204
    problem(both.delete("/customers/N-1"), 404, "customer_unknown")


def test_the_same_key_with_another_request_is_refused(both: Program) -> None:
    both.post("/customers", NEW, headers=ONCE)
    problem(both.post("/customers", {"customer_id": "N-2"}, headers=ONCE), 422, "idempotency_key_reused")
    problem(both.delete("/customers/N-1", headers=ONCE), 422, "idempotency_key_reused")


def test_keys_of_two_programs_do_not_meet(caller: Program) -> None:
    other = program(caller.world, name="Another")
    assert caller.post("/customers", {"customer_id": "N-1"}, headers=ONCE).status_code == 201
    assert other.post("/customers", {"customer_id": "N-2"}, headers=ONCE).status_code == 201


def test_a_refusal_did_nothing_and_may_be_sent_again(caller: Program) -> None:
    problem(caller.post("/customers", {"customer_id": "C-1001"}, headers=ONCE), 409, "customer_exists")
    assert caller.delete("/customers/C-1001").status_code == 204
    assert caller.post("/customers", {"customer_id": "C-1001"}, headers=ONCE).status_code == 201


def test_answers_are_kept_for_a_day_and_sealed(caller: Program) -> None:
    caller.post("/customers", {**NEW, "email": "neo@example.com"}, headers=ONCE)
    (row,) = caller.world.rows(ApiAnswer)
    assert b"neo@example.com" not in row.answer_sealed
    assert "once" not in row.key
    caller.world.clock.advance(24 * 3600 - 1)
    assert caller.post("/customers", {**NEW, "email": "neo@example.com"}, headers=ONCE).status_code == 201
    caller.world.clock.advance(1)
    problem(caller.post("/customers", {**NEW, "email": "neo@example.com"}, headers=ONCE), 409, "customer_exists")


@pytest.mark.parametrize("key", ["", " ", "two words", "x" * 256, "\u00fc"])
def test_a_key_that_is_none_is_refused(caller: Program, key: str) -> None:
    answer = caller.post("/customers", NEW, headers={"Idempotency-Key": key})
    problem(answer, 400, "idempotency_key_invalid")


def test_of_many_at_once_one_executes(both: Program) -> None:
    """Each of the others is told to wait, or, coming after it, gets its answer."""
    together = threading.Barrier(8)

    def send(_number: int) -> int:
        together.wait()
        answer = both.post("/customers", NEW, headers=ONCE, is_described=False)
        if answer.status_code == 409:
            problem(answer, 409, "under_way")
            assert answer.headers["Retry-After"] == "1"
        return answer.status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(send, range(8)))
    assert set(statuses) <= {201, 409}
    assert 201 in statuses
    assert made(both) == 1
    assert both.post("/customers", NEW, headers=ONCE).status_code == 201


def test_what_is_under_way_is_not_begun_again(both: Program) -> None:
    """The first holder was killed before it did anything: others wait for its lease, then one follows."""
    claim_as_if_killed(both)
    answer = both.post("/customers", NEW, headers=ONCE)
    problem(answer, 409, "under_way")
    both.world.clock.advance(LEASE.total_seconds() + 1)
    assert both.post("/customers", NEW, headers=ONCE).status_code == 201
    assert made(both) == 1


def test_a_holder_that_comes_too_late_undoes_its_work(both: Program) -> None:
    """Its lease ran out while it hung, and another did the work: its own transaction leaves nothing."""
    answers = both.world.services.api_answers
    late = claim_as_if_killed(both)
    both.world.clock.advance(LEASE.total_seconds() + 1)
    assert both.post("/customers", NEW, headers=ONCE).status_code == 201
    row = both.world.services.customers.row_of("N-1")
    with pytest.raises(UnderWay):
        both.world.services.erasure.erase(row, along_with=lambda work: answers.store(work, late, ApiResponse(204, "")))
    assert both.get("/customers/N-1").status_code == 200


def test_a_crash_after_the_commit_loses_no_answer(both: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The customer and the answer commit together, so what comes after may fail."""
    monkeypatch.setattr("auth_portal.web.api.frame.sent", _killed)
    answer = both.post("/customers", NEW, headers=ONCE, is_described=False)
    assert answer.status_code == 500
    monkeypatch.undo()
    repeated = both.post("/customers", NEW, headers=ONCE)
    assert (repeated.status_code, repeated.headers["Idempotent-Replayed"]) == (201, "true")
    assert made(both) == 1


def kill_after_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after a write has committed never happens: neither its answer is kept nor its claim given back."""
    for name in ("settle", "release"):
        monkeypatch.setattr(ApiAnswers, name, _killed)
    monkeypatch.setattr("auth_portal.web.api.frame.sent", _killed)


def test_a_ticket_is_made_once_whatever_dies_after_it(both: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ticket and the answer with its link commit together: the repetition is told the very link."""
    body = {"journey": "balance", "msisdn": PHONE}
    with monkeypatch.context() as dying:
        kill_after_the_commit(dying)
        assert both.post("/tickets", body, headers=ONCE, is_described=False).status_code == 500
    both.world.clock.advance(LEASE.total_seconds() + 1)
    repeated = both.post("/tickets", body, headers=ONCE)
    assert (repeated.status_code, repeated.headers["Idempotent-Replayed"]) == (201, "true")
    (ticket,) = both.world.rows(TicketRow)
    assert repeated.json is not None
    assert token_hash(repeated.json["path"].rpartition("/")[2]) == ticket.token_hash


def test_a_change_is_one_act_whatever_dies_after_it(both: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields, the switch, their events and the answer: all or nothing, and not twice."""
    body = {"name": "Thandi Dlamini", "active": False}
    with monkeypatch.context() as dying:
        dying.setattr("auth_portal.services.directory.customers._switch_kind", _killed)  # between the two halves
        assert both.patch("/customers/C-1001", body, headers=ONCE, is_described=False).status_code == 500
    before = both.get("/customers/C-1001").json
    assert before is not None
    assert (before["name"], before["active"]) == ("Thandi Nkosi", True)
    with monkeypatch.context() as dying:
        kill_after_the_commit(dying)
        assert both.patch("/customers/C-1001", body, headers=ONCE, is_described=False).status_code == 500
    both.world.clock.advance(LEASE.total_seconds() + 1)
    repeated = both.patch("/customers/C-1001", body, headers=ONCE)
    assert repeated.headers["Idempotent-Replayed"] == "true"
    assert repeated.json is not None
    assert (repeated.json["name"], repeated.json["active"]) == ("Thandi Dlamini", False)
    kinds = [event.kind for event in both.world.rows(AuditEvent)]
    assert (kinds.count("customer_changed"), kinds.count("customer_disabled")) == (1, 1)


def test_e3_kept_answers_go_with_their_customer(both: Program, tmp_path: Path) -> None:
    """Made, changed and asked for the same again: each answer holds their contacts, and none is left."""
    both.post("/customers", {**NEW, "email": "neo@example.com"}, headers=ONCE)
    both.patch("/customers/N-1", {"name": "Neo"}, headers={"Idempotency-Key": "p"})
    both.patch("/customers/N-1", {"name": "Neo"}, headers={"Idempotency-Key": "q"})
    both.patch("/customers/C-1002", {"name": "Sipho"}, headers={"Idempotency-Key": "r"})
    sealed = {row.key: row.answer_sealed for row in both.world.rows(ApiAnswer) if row.status}
    assert len(sealed) == 4
    both.delete("/customers/N-1")
    left = {row.answer_sealed for row in both.world.rows(ApiAnswer)} - {None}
    assert len(left) == 1
    for file in tmp_path.glob("*.db*"):  # on SQLite; a deleted byte must not lie there either
        assert not [one for one in sealed.values() if one not in left and one in file.read_bytes()]
    again = both.post("/customers", {**NEW, "email": "neo@example.com"}, headers=ONCE)
    problem(again, 410, "answer_erased")
    problem(both.get("/customers/N-1"), 404, "customer_unknown")
    assert both.patch("/customers/C-1002", {"name": "Sipho"}, headers={"Idempotency-Key": "r"}).status_code == 200


def test_a_bulk_is_repeated_like_any_write(both: Program) -> None:
    body = {"customers": [{"customer_id": "C-1001", "phone": PHONE, "email": MAIL}, NEW]}
    first = both.post("/customers/bulk", body, headers=ONCE)
    assert first.json == {"created": 1, "changed": 0, "equal": 1}
    assert both.post("/customers/bulk", body, headers=ONCE).json == first.json


def _killed(*_args: object, **_kwargs: object) -> None:
    raise RuntimeError("killed")
