"""Tickets by program: from the registration to the code that goes to the chat's own number."""

from __future__ import annotations

import pytest

from auth_portal.store.models import AuditEvent, CustomerRow, TicketRow
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


def test_everything_that_is_wrong_is_named_at_once(caller: Program) -> None:
    """Whatever finds it: the type of a member, its text, its journey, or the directory."""
    payment = {"amount": "five", "currency": "XXX", "payee": ""}
    wrong = {"msisdn": "12", "purpose": "two\nlines", "locale": "english please", "reference": "mine", "phone": "1"}
    found = problem(caller.post("/tickets", {"journey": "balance", **wrong, "payment": payment}), 422, "body_invalid")
    assert {error["pointer"] for error in found["errors"]} == {
        *(f"/{name}" for name in wrong),
        *(f"/payment/{name}" for name in payment),
    }
    found = problem(
        caller.post("/tickets", {"journey": "nowhere", "msisdn": [], "purpose": "x" * 200, "locale": 7}),
        422,
        "body_invalid",
    )
    assert {error["pointer"] for error in found["errors"]} == {"/journey", "/msisdn", "/purpose", "/locale"}
    found = problem(
        caller.post(
            "/tickets", {**FLOW, "msisdn": "27820000000", "payment": {**PAYMENT, "amount": "5", "payee": "\u200b"}}
        ),
        422,
        "body_invalid",
    )
    assert {error["pointer"] for error in found["errors"]} == {"/msisdn", "/payment/amount", "/payment/payee"}
    assert not caller.world.rows(TicketRow)


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
    ("on_file", "written"),
    [
        ("+525512345678", "5215512345678"),  # Mexico, as WhatsApp writes it
        ("+5215512345678", "525512345678"),  # and the other way round
        ("+525512345678", "5215512345678@s.whatsapp.net"),
        ("+525512345678", 5215512345678),
        ("+541155551234", "5491155551234"),  # Argentina
        ("+5491155551234", "541155551234"),
        ("+5547987654321", "554787654321"),  # Brazil
        ("+554787654321", "5547987654321"),
        ("+2290197123456", "22997123456"),  # Benin
        ("+2250707123456", "22507123456"),  # Ivory Coast, by the network of the old number
        ("+2250544123456", "22544123456"),
        ("+2250140123456", "22540123456"),
        ("+390612345678", "39612345678"),  # Italy
        (PHONE, "whatsapp:+27821234567"),
        (PHONE, "whatsapp:27821234567"),
        (PHONE, "tel:+27-82-123-4567;ext=12"),
        (PHONE, "tel:(082)123-4567"),
        (PHONE, "sms:+27821234567?body=Hello"),
        (PHONE, "27821234567@c.us"),
        (PHONE, "27821234567:3@s.whatsapp.net"),
        (PHONE, "https://wa.me/27821234567"),
        (PHONE, "0027 82 123 4567"),
        (PHONE, 27821234567),
        (PHONE, 27821234567.0),
        (PHONE, " +27821234567\n"),
    ],
)
def test_a_chats_number_is_found_however_its_network_writes_it(both: Program, on_file: str, written: object) -> None:
    if on_file != PHONE:
        assert both.post("/customers", {"customer_id": "M-1", "phone": on_file}).status_code == 201
    made = both.post("/tickets", {**FLOW, "msisdn": written})
    assert made.status_code == 201, made.text
    (row,) = both.world.rows(TicketRow)
    expected = both.world.services.customers.row_of("C-1001" if on_file == PHONE else "M-1")
    assert row.customer_row == expected
    assert row.phone_key == next(one.phone_key for one in both.world.rows(CustomerRow) if one.id == expected)


@pytest.mark.parametrize(
    ("on_file", "written", "code"),
    [
        (["+541155551234", "+541155551234"], "5491155551234", "ticket_several"),
        (["+2250107123456", "+2250507123456"], "22507123456", "ticket_nobody"),  # of other networks
        (["+5511987654321"], "5511997654321", "ticket_nobody"),
        (["+525512345678"], "5225512345678", "ticket_msisdn_unreadable"),
        ([], "120363041234567890@g.us", "ticket_msisdn_unreadable"),  # a group, and a WhatsApp ID that is no number
        ([], "27821234567@lid", "ticket_msisdn_unreadable"),
        ([], True, "body_invalid"),
        ([], -27821234567, "body_invalid"),
        ([], 27821234567.5, "body_invalid"),
        ([], 1e300, "ticket_msisdn_unreadable"),
        ([], [PHONE], "body_invalid"),
    ],
)
def test_a_number_that_may_be_someone_elses_is_not_taken(
    both: Program, on_file: list[str], written: object, code: str
) -> None:
    for number, phone in enumerate(on_file):
        assert both.post("/customers", {"customer_id": f"M-{number}", "phone": phone}).status_code == 201
    problem(both.post("/tickets", {**FLOW, "msisdn": written}), 422, code)


def test_the_form_that_the_network_writes_comes_first(both: Program) -> None:
    for number, phone in enumerate(("+541155551234", "+5491155551234")):
        both.post("/customers", {"customer_id": f"M-{number}", "phone": phone})
    assert both.post("/tickets", {**FLOW, "msisdn": "5491155551234"}).status_code == 201
    assert both.world.rows(TicketRow)[0].customer_row == both.world.services.customers.row_of("M-1")


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
