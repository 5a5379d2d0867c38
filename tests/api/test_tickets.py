"""Tickets by program: from the registration to the code that goes to the chat's own number."""

from __future__ import annotations

import pytest

from auth_portal.store.models import AuditEvent, TicketRow
from tests.api.program import ORIGIN, Program, problem
from tests.web.test_way import sent
from tests.world import PHONE

FLOW = {"journey": "balance", "msisdn": PHONE.removeprefix("+"), "locale": "en"}


def test_a_ticket_leads_to_a_verification(both: Program) -> None:
    made = both.post("/tickets", {**FLOW, "purpose": "Confirm transfer of R 500", "customer_id": ""})
    assert made.status_code == 201
    assert made.json is not None
    assert made.json["link"] == ORIGIN + made.json["path"]
    assert made.json["path"].startswith("/j/balance/t/")
    assert made.json["names_customer"] is True
    browser = both.world.browser()
    browser.get(f"{made.json['path']}?reference=one")
    assert "Confirm transfer of R 500" in browser.page.text
    browser.post(made.json["path"])
    browser.prove(sent(both.world, PHONE))
    assert browser.path == "/done"
    (found,) = both.get("/verifications").json["data"]  # type: ignore[index]
    assert (found["outcome"], found["customer_id"]) == ("verified", "C-1001")
    event = next(event for event in both.world.rows(AuditEvent) if event.kind == "ticket_registered")
    (key,) = both.world.services.api_keys.recent()
    assert event.facts["api_key"] == key.id


def test_a_repetition_gets_the_same_link(both: Program) -> None:
    first = both.post("/tickets", FLOW, headers={"Idempotency-Key": "t"})
    again = both.post("/tickets", FLOW, headers={"Idempotency-Key": "t"})
    assert (again.status_code, again.text) == (201, first.text)
    assert len(both.world.rows(TicketRow)) == 1


def test_a_ticket_by_reference_needs_no_path_of_its_own(caller: Program) -> None:
    made = caller.post(
        "/tickets", {**FLOW, "journey": "waiting", "reference": "4f1c-uuid", "customer_id": "C-1001", "msisdn": ""}
    )
    assert made.status_code == 201, made.text
    assert made.json is not None
    assert made.json["path"] == "/j/waiting"


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        ({"journey": "nowhere", "msisdn": PHONE}, 404, "journey_unknown", "/journey"),
        ({"journey": "balance"}, 422, "ticket_one_of", "/msisdn"),
        ({**FLOW, "customer_id": "C-1001"}, 422, "ticket_one_of", "/msisdn"),
        ({"journey": "balance", "msisdn": "12"}, 422, "ticket_msisdn_unreadable", "/msisdn"),
        ({"journey": "balance", "msisdn": "+27820000000"}, 422, "ticket_nobody", "/msisdn"),
        ({**FLOW, "purpose": "two\nlines"}, 422, "ticket_purpose_unreadable", "/purpose"),
        ({**FLOW, "locale": "english please"}, 422, "ticket_locale_unreadable", "/locale"),
        ({**FLOW, "reference": "mine"}, 422, "ticket_reference_made_by_flow", "/reference"),
        ({"msisdn": PHONE}, 422, "body_invalid", "/journey"),
        ({**FLOW, "phone": PHONE}, 422, "body_invalid", "/phone"),
        ({**FLOW, "locale": 7}, 422, "body_invalid", "/locale"),
    ],
)
def test_what_cannot_be_a_ticket_is_named(
    caller: Program, body: dict[str, object], status: int, code: str, pointer: str
) -> None:
    found = problem(caller.post("/tickets", body), status, code)
    assert [error["pointer"] for error in found["errors"]] == [pointer]
    assert PHONE not in str(found)
    assert not caller.world.rows(TicketRow)
