"""Verifications and deliveries by program, and sending a delivery again. Played through HTTP."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from sqlalchemy import update

from auth_portal.services.config.journey import Payment
from auth_portal.services.verification.tickets import TicketRequest
from auth_portal.store.models import Verification
from tests.api.program import Program, problem
from tests.receiver import wait_for
from tests.services.test_delivery_lists import refused
from tests.world import MAIL, PHONE

REFERENCE = "f7_4hn5=8f&%#nK="
NOBODY = "0" * 32


def test_a_verification_is_read_without_its_reference(both: Program) -> None:
    browser = both.world.browser()
    browser.begin(REFERENCE, "app")
    (line,) = both.get("/verifications?outcome=live").json["data"]  # type: ignore[index]
    assert (line["journey"], line["outcome"], line["ended_at"], line["callback"]) == ("app", None, None, None)
    browser.prove(both.world.totp())
    found = both.get(f"/verifications/{line['id']}")
    assert found.json is not None
    assert found.json["outcome"] == "verified"
    assert (found.json["customer_id"], found.json["methods"]) == ("C-1001", ["totp"])
    wait_for(lambda: both.get(f"/verifications/{line['id']}").json["callback"] == "accepted")  # type: ignore[index]
    for text in (found.text, both.get("/verifications").text):
        for secret in (REFERENCE, REFERENCE[:8], PHONE, MAIL):
            assert secret not in text
    problem(both.get(f"/verifications/{NOBODY}"), 404, "verification_unknown")
    problem(both.get("/verifications/x"), 404, "verification_unknown")


def test_verifications_are_filtered_and_paged(both: Program) -> None:
    for number in range(3):
        both.world.browser().begin(f"a{number}", "app")
        both.world.clock.advance(1)
    browser = both.world.browser()
    browser.begin("b", "balance", "C-1002")
    browser.post("/verify/cancel", reason="not_me")

    def ids(query: str) -> list[str]:
        found = both.get(f"/verifications?{query}").json
        assert found is not None
        return [line["id"] for line in found["data"]]

    everything = ids("limit=200")
    assert len(everything) == 4
    assert ids("journey=app") == everything[1:]
    assert ids("outcome=not_me") == everything[:1]
    assert ids("customer_id=nobody") == []
    first = both.get("/verifications?limit=3").json
    assert first is not None
    assert ids(f"limit=3&after={first['next']}") == everything[3:]
    problem(both.get("/verifications?outcome=won"), 422, "query_invalid")
    problem(both.get("/verifications?after=somewhere"), 422, "query_invalid")


def test_a_delivery_is_read_with_every_attempt_and_sent_again(both: Program) -> None:
    delivery = refused(both.world, REFERENCE, outcome="not_me")
    (listed,) = both.get("/deliveries?kind=callback&state=refused").json["data"]  # type: ignore[index]
    assert (listed["id"], listed["may_be_retried"]) == (delivery.id, True)
    found = both.get(f"/deliveries/{delivery.id}")
    assert found.json is not None
    assert [(one["fate"], one["status"]) for one in found.json["tries"]] == [("refused", 400)]
    assert REFERENCE not in found.text
    again = both.post(f"/deliveries/{delivery.id}/retry", {"reason": "Flow was down"}, headers={"Idempotency-Key": "r"})
    assert (again.status_code, again.json) == (202, {"id": delivery.id, "state": "pending"})
    wait_for(lambda: both.get(f"/deliveries/{delivery.id}").json["state"] == "accepted")  # type: ignore[index]
    repeated = both.post(
        f"/deliveries/{delivery.id}/retry", {"reason": "Flow was down"}, headers={"Idempotency-Key": "r"}
    )
    assert (repeated.status_code, repeated.headers["Idempotent-Replayed"]) == (202, "true")
    assert len(both.world.receiver.callbacks) == 2
    of_it = both.get(f"/deliveries?verification={listed['verification']}&kind=callback").json
    assert [line["id"] for line in of_it["data"]] == [delivery.id]  # type: ignore[index]


def test_d6_a_retry_that_must_not_be_is_a_conflict_with_its_reason(both: Program) -> None:
    delivery = refused(both.world)
    path = f"/deliveries/{delivery.id}/retry"
    both.world.clock.advance(541)
    found = problem(both.post(path, {"reason": "lost", "confirmed": True}), 409, "retry_chat_over")
    assert "The chat has ended" in found["detail"]
    assert len(both.world.receiver.callbacks) == 1
    found = problem(both.post(path, {"confirmed": "yes", "why": "lost"}), 422, "body_invalid")
    assert {error["pointer"] for error in found["errors"]} == {"/reason", "/confirmed", "/why"}
    problem(both.post(f"/deliveries/{NOBODY}/retry", {"reason": "lost"}), 404, "delivery_unknown")
    problem(both.get(f"/deliveries/{NOBODY}"), 404, "delivery_unknown")


@pytest.mark.parametrize("path", ["/verifications", "/deliveries"])
def test_lists_of_a_time(both: Program, path: str) -> None:
    """From a moment on, and before one; the zone counts."""
    noon = both.world.clock.now
    for number in range(3):
        browser = both.world.browser()
        browser.open(f"at-{number}", "mail")
        browser.post("/j/mail", decline="not_me")
        both.world.clock.advance(60)

    def found(**asked: str) -> int:
        answer = both.get(f"{path}?{urlencode(asked)}")
        assert answer.status_code == 200, answer.text
        return len(answer.json["data"])  # type: ignore[index]

    assert found(since="2026-11-22T12:01:00Z") == 2
    assert found(until="2026-11-22T12:01:00Z") == 1
    assert found(since="2026-11-22T14:01:00+02:00", until="2026-11-22T14:02:00.5+02:00") == 2
    assert found(since="0001-01-01T00:00:00Z", until="9999-12-31T23:59:59Z") == 3
    assert noon.isoformat().startswith("2026-11-22T12:00:00")
    for value in (
        "2026-11-22",
        "2026-11-22T12:01:00",
        "yesterday",
        "2026-13-01T00:00:00Z",
        "0001-01-01T00:00:00 02:00",
    ):
        (error,) = problem(both.get(f"{path}?{urlencode({'since': value})}"), 422, "query_invalid")["errors"]
        assert error["parameter"] == "since"


def test_a_payment_is_read_by_programs_that_register_payments_alone(both: Program) -> None:
    payment = Payment("500.00", "ZAR", "N. Dlamini")
    world = both.world
    made = world.services.tickets.register(TicketRequest("app", customer_id="C-1001", payment=payment))
    browser = world.browser()
    browser.get(f"{made.path}?reference=paid")
    browser.post(made.path)
    browser.prove(world.totp())
    assert browser.path == "/done"
    world.browser().begin("unpaid", "app", "C-1002")
    unpaid, paid = both.get("/verifications").json["data"]  # type: ignore[index]
    assert paid["payment"] == {"amount": "500.00", "currency": "ZAR", "payee": "N. Dlamini"}
    assert unpaid["payment"] is None
    assert both.get(f"/verifications/{paid['id']}").json["payment"] == paid["payment"]  # type: ignore[index]
    reader = Program(world, world.services.api_keys.create("Reads", ("verifications:read",), 30, None).key)
    for text in (reader.get("/verifications").text, reader.get(f"/verifications/{paid['id']}").text):
        assert "payment" not in text
        assert "Dlamini" not in text
    with world.database.write() as connection:
        connection.execute(update(Verification).where(Verification.id == paid["id"]).values(outcome="wrong"))
    changed = both.get(f"/verifications/{paid['id']}").json
    assert changed is not None
    assert (changed["outcome"], changed["payment"]) == ("changed", None)
