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


PAYMENT = {"amount": "500.00", "currency": "ZAR", "payee": "N. Dlamini"}


def test_a_payment_stands_on_the_page_of_its_ticket(both: Program) -> None:
    made = both.post("/tickets", {**FLOW, "payment": {**PAYMENT, "payee": "  Jose\u0301 Dlamini "}, "purpose": "Rent"})
    assert made.status_code == 201, made.text
    assert made.json is not None
    browser = both.world.browser()
    browser.get(f"{made.json['path']}?reference=one")
    assert "<bdi>Jos\u00e9 Dlamini</bdi>" in browser.page.text
    assert "Rent" in browser.page.text


@pytest.mark.parametrize(
    ("amount", "currency"),
    [
        ("500.00", "ZAR"),
        ("0.01", "ZAR"),
        ("500", "JPY"),
        ("1.234", "KWD"),
        ("500.50", "RSD"),
        ("999999999999.99", "USD"),
    ],
)
def test_amounts_have_the_decimals_of_their_currency(caller: Program, amount: str, currency: str) -> None:
    made = caller.post("/tickets", {**FLOW, "payment": {**PAYMENT, "amount": amount, "currency": currency}})
    assert made.status_code == 201, made.text


@pytest.mark.parametrize(
    "payee", ["N. Dlamini", "O'Brien & Sons (Pty) Ltd", "بنك مصر", "क्\u200dष", "№ 7", "x" * 40, "-1-"]
)
def test_a_payee_is_a_name_in_any_script(caller: Program, payee: str) -> None:
    assert caller.post("/tickets", {**FLOW, "payment": {**PAYMENT, "payee": payee}}).status_code == 201


@pytest.mark.parametrize(
    ("payment", "code", "pointers"),
    [
        *(
            ({"amount": amount}, "ticket_payment_unreadable", ["/payment/amount"])
            for amount in (
                *(
                    "500",
                    "500.0",
                    "500.000",
                    "5e2",
                    "-5.00",
                    "+5.00",
                    "0.00",
                    "00.50",
                    "05.00",
                    ".50",
                    "5,00",
                    "1 000.00",
                ),
                *("R 5.00", "NaN", "Infinity", "٥.٠٠", "５.00", "1" * 13 + ".00", "5.00\n5.00", "0x1.00", "5.00."),
            )
        ),
        *(
            ({"currency": currency}, "ticket_payment_unreadable", ["/payment/currency"])
            for currency in ("zar", "R", "XXX", "XAU", "DEM", "ABC", "ZAR ZAR", "US$", "710")
        ),
        ({"amount": "500.00", "currency": "JPY"}, "ticket_payment_unreadable", ["/payment/amount"]),
        *(
            ({"payee": payee}, "ticket_payment_unreadable", ["/payment/payee"])
            for payee in (
                *("x" * 41, "two\nlines", "tab\tbed", "a\u202eb", "a\u2066b", "a\u200bb", "a\u00adb", "a\ufeffb"),
                *("a\u200db", "a\u3164b", "a\u00a0b", "a\u2028b", "...", "\U000e0041x", "a\ufe0fb", "\u2800"),
            )
        ),
        ({"amount": "1", "payee": "\u202e"}, "ticket_payment_unreadable", ["/payment/amount", "/payment/payee"]),
        ({"amount": 500}, "body_invalid", ["/payment/amount"]),
        ({"amount": None}, "body_invalid", ["/payment/amount"]),
        ({"amount": ""}, "body_invalid", ["/payment/amount"]),
        ({"payee": "  "}, "body_invalid", ["/payment/payee"]),
        ({"to": "me"}, "body_invalid", ["/payment/to"]),
        ({"amount": "", "currency": "", "payee": ""}, "body_invalid", [f"/payment/{name}" for name in PAYMENT]),
    ],
)
def test_each_fault_of_a_payment_is_named(
    caller: Program, payment: dict[str, object], code: str, pointers: list[str]
) -> None:
    found = problem(caller.post("/tickets", {**FLOW, "payment": {**PAYMENT, **payment}}), 422, code)
    assert [error["pointer"] for error in found["errors"]] == pointers
    assert not caller.world.rows(TicketRow)


@pytest.mark.parametrize("payment", ["", "R 500", None, [], 500, {}])
def test_a_payment_is_whole_or_left_out(caller: Program, payment: object) -> None:
    found = problem(caller.post("/tickets", {**FLOW, "payment": payment}), 422, "body_invalid")
    assert found["errors"][0]["pointer"].startswith("/payment")
    assert not caller.world.rows(TicketRow)


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
