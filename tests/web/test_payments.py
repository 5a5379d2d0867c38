"""A payment: what the payer sees of it, what its code approves, and what the chat and support learn (RTS 5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from auth_portal.services.config.journey import Payment
from auth_portal.services.operations.personal_data import PersonExport
from auth_portal.store.models import AuditEvent, Challenge, Delivery, TicketRow, Verification
from tests.receiver import Receiver
from tests.security.tools import STILL, code_for, deliver, logged, results
from tests.ticketed import SHARED, link, open_ticketed, opened, ticket
from tests.world import MAIL, PASSWORD, PHONE, Browser, World, journey

PAYMENT = Payment("500.00", "ZAR", "N. Dlamini")
NB = "\u00a0"
MORE = (
    journey("pay-mail", "email_code")
    + journey("pay-both", "password", "sms_code")
    + journey("pay-code", "sms_code", relay_defence="chat_code")
)


@pytest.fixture
def ticketed(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """On SQLite and on PostgreSQL; nothing leaves until the test says so."""
    with open_ticketed(tmp_path, database_url, receiver, STILL, more=MORE) as world:
        yield world


@pytest.fixture
def small(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    """On SQLite alone."""
    with open_ticketed(tmp_path, sqlite_url, receiver, STILL, more=MORE) as world:
        yield world


def words(text: str) -> str:
    """The text of a page, with plain spaces."""
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def heading(browser: Browser) -> str:
    found = re.search(r"<h1[^>]*>(.*?)</h1>", browser.page.text, re.DOTALL)
    assert found is not None
    return " ".join(unescape(re.sub(r"<[^>]+>", "", found[1])).split())


def message_to(world: World, to: str) -> Any:
    deliver(world)
    return next(sent for sent in reversed(world.receiver.messages) if sent["to"] == to)


def test_r56_amount_and_payee_are_on_every_page_and_the_result_says_them(ticketed: World) -> None:
    made = ticket(ticketed, payment=PAYMENT)
    browser = ticketed.browser()
    browser.get(link(made.path, "abc"))
    assert heading(browser) == "Pay R 500 to N. Dlamini?"
    text = words(browser.page.text)
    for told in (
        "Amount R 500.00", "To N. Dlamini", "Asked in your chat Today, ", "Code goes to ••• 567",
        "Only approve if you asked for this.", "Approve with a code", "Not yours, or changed your mind? Don't pay",
    ):  # fmt: skip
        assert told in text
    assert "<bdi>N. Dlamini</bdi>" in browser.page.text
    assert "og:title" in browser.page.text
    assert "Dlamini" not in re.search(r'og:title" content="([^"]*)', browser.page.text)[1]  # type: ignore[index]
    browser.post(made.path, method="sms_code")
    assert heading(browser) == "Enter the code to pay R 500 to N. Dlamini"
    assert re.search(r">\s*Approve</button>", browser.page.text)
    browser.get("/verify/help")
    assert "R 500.00 to N. Dlamini" in words(browser.page.text)
    browser.get("/verify")
    browser.prove("000000")
    assert heading(browser) == "Enter the code to pay R 500 to N. Dlamini"
    browser.prove(code_for(ticketed, PHONE))
    assert browser.path == "/done"
    assert heading(browser) == "You approved R 500 to N. Dlamini"
    text = words(browser.page.text)
    for told in ("Amount R 500.00", "Approved Today, ", "Your chat confirms when the payment is made."):
        assert told in text
    deliver(ticketed)
    data = ticketed.receiver.callbacks[-1].body["data"]
    found = {name: data[f"payment_{name}"] for name in ("amount", "currency", "payee")}
    assert found == {"amount": "500.00", "currency": "ZAR", "payee": "N. Dlamini"}


def test_r56_sms_and_email_say_what_the_code_pays(small: World) -> None:
    browser = opened(small, ticket(small, payment=PAYMENT).path)
    sms = message_to(small, PHONE)["text"]
    code = code_for(small, PHONE)
    assert sms.startswith(f"{code} is your code to pay R 500.00 to N. Dlamini. Valid 5 min. Never share it. ")
    assert re.search(rf"\n\n@\S+ #{code}$", sms)
    assert len(sms) <= 160
    assert browser.path == "/verify"
    opened(small, ticket(small, "pay-mail", customer_id="C-1001", payment=PAYMENT).path, "mail")
    mail = message_to(small, MAIL)
    assert mail["subject"].replace(NB, " ").endswith("is your code to pay R 500.00 to N. Dlamini")
    assert "to pay R 500.00 to N. Dlamini" in mail["text"].replace(NB, " ")
    assert "Only approve this payment if you asked for it." in mail["text"]


def test_r56_a_long_payment_is_never_cut_from_its_sms(small: World) -> None:
    payee = "Nkosinathi Dlamini-van der Westhuizen 12"
    opened(small, ticket(small, payment=Payment("123456789012.50", "ZAR", payee)).path)
    sms = message_to(small, PHONE)["text"]
    assert f"to pay R 123,456,789,012.50 to {payee}. Valid 5 min. Never share it." in sms
    assert sms.endswith(f"#{code_for(small, PHONE)}")


def test_r56_no_letter_of_a_payee_becomes_a_dot(small: World) -> None:
    opened(small, ticket(small, payment=Payment("9.50", "EUR", "بنك مصر")).path)
    assert "to pay €9.50 to بنك مصر." in message_to(small, PHONE)["text"]


@pytest.mark.parametrize(
    ("amount", "currency", "payee", "said"),
    [
        ("500.00", "ZAR", "José Łoś", "R 500.00 to José Los."),  # as networks write Latin letters
        ("500.00", "NGN", "Bola", "NGN 500.00 to Bola."),  # its sign is not in GSM-7, and would be left out
        ("500.00", "ZAR", "Bola ★ Co", "R\u00a0500.00 to Bola ★ Co."),
    ],
)
def test_r56_no_sign_of_a_payment_is_left_out_of_its_sms(
    small: World, amount: str, currency: str, payee: str, said: str
) -> None:
    opened(small, ticket(small, payment=Payment(amount, currency, payee)).path)
    assert f"to pay {said}" in message_to(small, PHONE)["text"]


@pytest.mark.parametrize(
    ("amount", "currency", "short", "full"),
    [
        ("500.50", "ZAR", "R 500.50", "R 500.50"),
        ("1234500.00", "ZAR", "R 1,234,500", "R 1,234,500.00"),
        ("500", "JPY", "JP¥500", "JP¥500"),
        ("1.234", "KWD", "KWD 1.234", "KWD 1.234"),
        ("500.50", "RSD", "RSD 500.50", "RSD 500.50"),  # of which shops have no coins, but banks do
        ("0.05", "USD", "US$0.05", "US$0.05"),
    ],
)
def test_an_amount_has_the_sign_of_the_region_and_its_minor_units(
    small: World, amount: str, currency: str, short: str, full: str
) -> None:
    browser = small.browser()
    browser.get(link(ticket(small, payment=Payment(amount, currency, "X")).path, "abc"))
    assert heading(browser) == f"Pay {short} to X?"
    assert f"Amount {full}" in words(browser.page.text)


def test_a_payee_cannot_write_into_the_page_or_turn_it_around(small: World) -> None:
    browser = small.browser()
    browser.get(link(ticket(small, payment=Payment("5.00", "ZAR", "<b>Bob</b> & Co")).path, "abc"))
    assert "<bdi>&lt;b&gt;Bob&lt;/b&gt; &amp; Co</bdi>" in browser.page.text
    assert "<b>Bob" not in browser.page.text


def test_only_the_last_proof_approves(small: World) -> None:
    browser = opened(small, ticket(small, "pay-both", payment=PAYMENT).path)
    assert heading(browser) == "Enter your password"
    assert re.search(r">\s*Confirm</button>", browser.page.text)
    assert "R 500.00 to N. Dlamini" in words(browser.page.text)
    browser.prove(PASSWORD)
    assert heading(browser) == "Enter the code to pay R 500 to N. Dlamini"
    assert re.search(r">\s*Approve</button>", browser.page.text)


def test_who_shares_a_phone_says_who_they_are_next_to_the_receipt(small: World) -> None:
    browser = small.browser()
    browser.get(link(ticket(small, "pay-twice", msisdn=SHARED, payment=PAYMENT).path, "abc"))
    assert 'name="identifier"' in browser.page.text
    assert "Amount R 500.00" in words(browser.page.text)


def test_a_purpose_and_a_payment_stand_next_to_each_other(small: World) -> None:
    browser = small.browser()
    made = ticket(small, payment=PAYMENT, purpose="Rent for March")
    browser.get(link(made.path, "abc"))
    assert "Rent for March" in browser.page.text
    assert heading(browser) == "Pay R 500 to N. Dlamini?"
    assert "Rent for March" in browser.post(made.path).text


def test_a_chat_code_stands_with_what_was_approved(small: World) -> None:
    browser = opened(small, ticket(small, "pay-code", payment=PAYMENT).path)
    browser.prove(code_for(small, PHONE))
    assert heading(browser) == "Type this code in your chat"
    assert "You approved: R 500.00 to N. Dlamini" in words(browser.page.text)


@pytest.mark.parametrize("outcome", ["not_me", "cancelled"])
def test_not_paying_takes_one_confirming_step_before_a_visit_and_in_it(small: World, outcome: str) -> None:
    made = ticket(small, payment=PAYMENT)
    browser = small.browser()
    browser.get(link(f"{made.path}/stop", "abc"))
    assert heading(browser) == "Don't pay R 500 to N. Dlamini?"
    text = words(browser.page.text)
    for told in ("Acme", "This page stops and sends no approval.", "Stop: it wasn't me", "Stop: I changed my mind"):
        assert told in text
    assert not small.rows(Verification)
    browser.post(made.path, decline=outcome)
    assert [row.outcome for row in small.rows(Verification)] == [outcome]
    assert "Not approved: R 500.00 to N. Dlamini" in words(browser.page.text)

    browser = opened(small, ticket(small, payment=PAYMENT).path, "other")
    browser.get("/verify/stop")
    assert heading(browser) == "Don't pay R 500 to N. Dlamini?"
    browser.post("/verify/cancel", reason=outcome)
    assert small.rows(Verification)[-1].outcome == outcome
    deliver(small)
    assert {call.body["data"]["payment_amount"] for call in small.receiver.callbacks} == {""}


def test_an_unknown_reason_to_refuse_a_link_ends_nothing_as_it_says(small: World) -> None:
    made = ticket(small, payment=PAYMENT)
    browser = small.browser()
    browser.get(link(made.path, "abc"))
    browser.post(made.path, decline="verified")
    assert [row.outcome for row in small.rows(Verification)] == [None]


# -- the code belongs to the payment -----------------------------------------------------------------------------


def change(world: World, **values: Any) -> None:
    with world.transactions.write() as work:
        work.execute(update(TicketRow).values(**values))


def test_r56_a_ticket_whose_payment_was_changed_opens_nothing(small: World) -> None:
    cheap, dear = (ticket(small, payment=Payment(amount, "ZAR", "N. Dlamini")) for amount in ("5.00", "5000.00"))
    rows = {row.id: row for row in small.rows(TicketRow)}
    change(small, payment_sealed=rows[dear.ticket_id].payment_sealed)
    browser = small.browser()
    browser.get(link(cheap.path, "abc"))
    assert browser.page.status_code == 410
    assert "5,000" not in browser.page.text


@pytest.mark.parametrize("sealed", [None, b"another"])
def test_r56_a_payment_that_is_changed_under_way_is_not_approved_and_its_code_does_not_leave(
    small: World, sealed: bytes | None
) -> None:
    browser = opened(small, ticket(small, payment=PAYMENT).path)
    (challenge,) = small.rows(Challenge)
    code = small.transactions.keyring.code(challenge.id, challenge.digits, challenge.key_id)
    change(small, payment_sealed=sealed)
    deliver(small)
    assert not small.receiver.messages
    (message,) = [row for row in small.rows(Delivery) if row.challenge_id]
    assert "the ticket was deleted, or changed" in message.reason
    browser.prove(code)
    assert browser.path == "/verify"
    assert "verified" not in "".join(results(small))


def test_r56_another_amount_is_another_ticket_with_another_code(ticketed: World) -> None:
    first = ticket(ticketed, payment=PAYMENT)
    old = opened(ticketed, first.path)
    code, form = code_for(ticketed, PHONE), old.hidden("/verify")
    ticketed.clock.advance(1)
    second = ticket(ticketed, payment=Payment("5000.00", "ZAR", "N. Dlamini"))
    assert "5,000" not in old.get("/verify").text
    new = opened(ticketed, second.path)
    assert heading(new) == "Enter the code to pay R 5,000 to N. Dlamini"
    old.get("/verify")
    assert "5,000" not in old.page.text
    assert old.path == "/done"
    new.prove(code)
    assert new.path == "/verify"
    old.client.post("/verify", data={**form, "code": code}, base_url=old.base_url)
    deliver(ticketed)
    assert not [call for call in ticketed.receiver.callbacks if call.body["result"].startswith("verified")]
    new.prove(code_for(ticketed, PHONE))
    deliver(ticketed)
    (approved,) = [call for call in ticketed.receiver.callbacks if call.body["result"].startswith("verified")]
    assert approved.body["data"]["payment_amount"] == "5000.00"


# -- what is stored of it ----------------------------------------------------------------------------------------


def test_the_log_and_the_audit_never_have_a_payment(small: World) -> None:
    with logged() as log:
        browser = opened(small, ticket(small, payment=Payment("777.77", "ZAR", "Secretpayee")).path)
        browser.prove(code_for(small, PHONE))
        deliver(small)
    assert browser.path == "/done"
    everything = log.getvalue() + "".join(str(event.facts) for event in small.rows(AuditEvent))
    assert "verification_ended" in everything
    assert "777" not in everything.replace(".777", "")
    assert "Secretpayee" not in everything
    (row,) = small.rows(TicketRow)
    assert b"Secretpayee" not in row.payment_sealed


def test_e3_a_person_gets_their_payments_and_an_erasure_removes_them(small: World) -> None:
    browser = opened(small, ticket(small, payment=PAYMENT).path)
    browser.prove(code_for(small, PHONE))
    row = small.services.customers.row_of("C-1001")
    (shown,) = PersonExport(small.transactions).of(row)["tickets"]
    assert shown["payment"] == {"amount": "500.00", "currency": "ZAR", "payee": "N. Dlamini"}
    small.services.erasure.erase(row)
    assert [one.payment_sealed for one in small.rows(TicketRow)] == [None]
